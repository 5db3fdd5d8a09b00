"""The README tells the truth: its code runs, its commands exist, and it names all that there is."""

import doctest
import os
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

import hf_mllm_aug
from hf_mllm_aug.cli import app
from hf_mllm_aug.loopback_hub import LoopbackHub
from tests.warm_python import python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

RUNNER = """
import sys
for place, code in enumerate(sys.stdin.read().split("\\0"), 1):
    try:
        exec(compile(code, f"README block {place}", "exec"), globals())
    except BaseException:
        print(code, file=sys.stderr)
        raise
"""


def _blocks(language: str) -> list[str]:
    return [code for kind, code in BLOCKS if kind == language]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with pictures in ``photos``, as the README has it."""
    shutil.copytree(ROOT / "hf_mllm_aug" / "demo_data", tmp_path / "photos")
    return tmp_path


def _environment(hub: LoopbackHub, home: Path) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    path = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    return {**env, **hub.environment, "HF_HOME": str(home / "hf-home"), "PYTHONPATH": path}


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"bash", "bibtex", "python", "pycon"}
    assert README.count("```") == 2 * len(BLOCKS), "a code block without a language"


def test_the_python_blocks_run_one_after_the_other(elsewhere: Path) -> None:
    with LoopbackHub(elsewhere / "hub") as hub:
        done = subprocess.run(
            [*python(), "-c", RUNNER],
            input="\0".join(_blocks("python")),
            env=_environment(hub, elsewhere),
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert f"{hub.url}/datasets/me/photos-captioned/commit/" in done.stdout
        blob = hub.store.get("me/photos-captioned").resolve("main").tree["README.md"]
        assert "Describe" in hub.store.blob_path(blob.sha256).read_text("utf-8"), "the card does not say the prompt"
    assert "text_retrieval_recall@1" in done.stdout


@pytest.mark.parametrize("code", _blocks("pycon"))
def test_the_sessions_give_what_they_show(code: str) -> None:
    example = doctest.DocTestParser().get_doctest(code, {}, "README", "README.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_commands_run_one_after_the_other(elsewhere: Path) -> None:
    lines = [line for code in _blocks("bash") for line in code.splitlines() if line.startswith("hf-mllm-aug ")]
    assert {shlex.split(line)[1] for line in lines} == set(COMMANDS)
    with LoopbackHub(elsewhere / "hub") as hub:
        for line in lines:
            words = shlex.split(line)[1:]
            if words == ["demo"] or words[0] == "convert":  # have tests of their own
                continue
            done = subprocess.run(
                [*python(), "-m", "hf_mllm_aug", *words],
                env=_environment(hub, elsewhere),
                cwd=elsewhere,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_other_commands_are_real() -> None:
    lines = [line for code in _blocks("bash") for line in code.splitlines() if not line.startswith("hf-mllm-aug ")]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines:
        words = shlex.split(line)
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        else:
            assert words == ["pip", "install", "-c", "constraints.txt", "-e", ".", "-e", "./miniatures"], line
            assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("name", sorted(set(hf_mllm_aug.__all__) - {"__version__"}))
def test_every_exported_name_stands_in_the_readme(name: str) -> None:
    assert re.search(rf"\b{name}\b", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_table(command: str) -> None:
    assert re.search(rf"^\| `{command}\b", README, re.MULTILINE)


def test_the_table_of_captioners_has_every_one_with_its_checkpoint_and_licence() -> None:
    from hf_mllm_aug.captioners import PRESETS

    for preset in PRESETS.values():
        (row,) = re.findall(rf"^\| `{re.escape(preset.name)}` \|.*$", README, re.MULTILINE)
        assert preset.licence in row
        assert preset.embedded or str(preset.source or preset.make) in row


def test_the_files_that_the_readme_names_are_there() -> None:
    paths = ["LICENSE", "hf_mllm_aug/demo_data/metadata.jsonl", "hf_mllm_aug/captioners/tiny"]
    paths += re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
    for path in paths:
        assert path.rsplit("/", 1)[0] in README
        assert (ROOT / path).exists()


def test_the_figures_are_those_of_the_results_files() -> None:
    figures = runpy.run_path(str(ROOT / "benchmarks" / "readme_figures.py"))
    assert figures["rendered"](README) == README, "run: python benchmarks/readme_figures.py"
    assert len(re.findall(r"\d+\.\d%", figures["study"]())) >= 3
