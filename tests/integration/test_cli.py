"""The command line as people meet it: what works."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, load_dataset

import hf_mllm_aug
from hf_mllm_aug import save_configs, shear
from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.commands import outcomes
from hf_mllm_aug.errors import CaptionError
from hf_mllm_aug.loopback_hub import LoopbackHub
from hf_mllm_aug.schema import caption_column, error_column, generated_column
from tests.integration.command_line import NAME, Run, assert_one_line, load, run_command
from tests.integration.test_convert import options, sources  # noqa: F401 - a fixture
from tests.warm_python import python

COMMANDS = [
    "demo",
    "caption",
    "plan",
    "shear",
    "preview",
    "publish",
    "unpublish",
    "publish-metric",
    "evaluate",
    "models",
    "convert",
]


# What works


def test_caption_tells_rows_failures_by_reason_speed_and_what_is_next(
    captioned: tuple[subprocess.CompletedProcess[str], Path], photos: Path
) -> None:
    said = captioned[0].stdout
    assert f"11 pictures of {photos}" in said
    assert f"{NAME}: 10 captioned, 1 failed" in said
    assert "1 x not a picture in a known format" in said
    assert "images/s" in said
    assert f"staged in staged: all (11 rows), raw (11 rows), {NAME} (11 rows)" in said
    assert "next: hf-mllm-aug publish staged OWNER/NAME" in said


def test_caption_lets_no_chatter_of_the_libraries_through(
    captioned: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    lines = captioned[0].stderr.splitlines()
    assert lines == [line for line in lines if "cannot be decoded" in line]


def test_a_bad_picture_is_a_row_with_a_reason_and_shifts_no_other(staged: Path, tmp_path: Path) -> None:
    rows = load(staged, "all", tmp_path)
    assert rows["key"] == [*(f"{n}.png" for n in range(5)), "4b.jpg", *(f"{n}.png" for n in range(5, 10))]
    bad = rows["key"].index("4b.jpg")
    for place, row in enumerate(rows):
        assert (row[caption_column(NAME)] is None) == (place == bad), row["key"]
        assert (row[error_column(NAME)] is None) == (place != bad), row["key"]
        assert (row["image"] is None) == (place == bad), row["key"]
    assert rows[bad]["caption"] is None
    assert rows[9]["caption"] == "picture number 8"


def test_each_captioner_and_the_raw_captions_have_a_config(staged: Path, tmp_path: Path) -> None:
    rows = load(staged, "all", tmp_path)
    assert load(staged, "raw", tmp_path)["caption"][:] == rows["caption"][:]
    assert load(staged, NAME, tmp_path)["caption"][:] == rows[caption_column(NAME)][:]


def test_the_card_says_which_model_and_prompt_made_the_captions(staged: Path) -> None:
    card = (staged / "README.md").read_text()
    assert "Describe <image> in English:" in card  # a LLaVA of CLIP and Llama is asked as the paper asked it
    assert str(staged.parent) not in card
    assert re.search(r"Plan of the run: \d+ rows in 1 shard of 1,024, source fingerprint [0-9a-f]{16}\b", card)


@pytest.mark.parametrize("rule", [None, "sentence"])
def test_the_papers_captions_are_cut_as_its_scripts_cut_unless_another_rule_is_given(
    rule: str | None, run: Run, photos: Path, random_llava: Path, tmp_path: Path
) -> None:
    chosen = ["--rule", rule] if rule else []
    done = run("caption", photos, "--captioner", random_llava, "--preset", "paper", *chosen, "--out", "paper")
    assert done.returncode == 0, done.stderr
    rows = load(tmp_path / "paper", "all", tmp_path / "cache")
    images = [(photos / key).read_bytes() for key in rows["key"]]
    captioner = Captioner(random_llava, preset="paper")
    generated = captioner({"image": images, "key": rows["key"][:]})[captioner.caption_column]
    short = [None if text is None else shear(text) for text in generated]
    assert any(text != cut for text, cut in zip(generated, short, strict=True)), "no sentence ends but by a full stop"
    assert rows[captioner.caption_column][:] == (short if rule else generated)
    assert f"rule {rule or 'seed'}" in (tmp_path / "paper" / "README.md").read_text()


@pytest.mark.parametrize(("preset", "label"), [("", "model"), ("llava-1.5=", "llava-1.5")])
def test_a_folder_may_have_an_equals_sign_in_its_path(
    preset: str, label: str, run: Run, photos: Path, random_llava: Path, tmp_path: Path
) -> None:
    shutil.copytree(random_llava, tmp_path / "runs" / "lr=1e-4" / "model")
    words = ["--captioner", f"{preset}runs/lr=1e-4/model", "--max-samples", "1", "--out", "out"]
    done = run("caption", photos, *words)
    assert done.returncode == 0, done.stderr
    assert f"captioned by {label}\n" in done.stdout


def test_the_line_that_convert_prints_captions(sources: Path, photos: Path, run: Run) -> None:  # noqa: F811 - the fixture
    """Where the folder is called like the preset, and is given as people give it."""
    home = sources.parent
    files = options(sources, out="my models/minigpt-4")
    (home / "my models").mkdir()
    done = run("convert", "minigpt-4", *(word for name, value in files.items() for word in (f"--{name}", value)))
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"^Use it: hf-mllm-aug (.*)$", done.stdout, re.MULTILINE)
    words = [str(photos) if word == "SOURCE" else word for word in shlex.split(line)]
    done = run(*words, "--max-samples", "2")
    assert done.returncode == 0, done.stderr
    assert "minigpt-4: 2 captioned, 0 failed" in done.stdout
    assert caption_column("minigpt-4") in load(home / "captions", "all", home / "cache").column_names


def test_shear_starts_from_what_was_generated(run: Run, staged: Path, tmp_path: Path) -> None:
    done = run("shear", staged, "--out", "short", "--rule", "raw")
    assert done.returncode == 0, done.stderr
    assert f"from {generated_column(NAME)}" in done.stdout
    before, after = (load(folder, "all", tmp_path / "cache") for folder in (staged, tmp_path / "short"))
    assert after["key"][:] == before["key"][:]
    for row in after:
        if row[caption_column(NAME)] is not None:
            assert len(row[caption_column(NAME)].split()) <= len(row["caption"].split()), row["key"]
            assert row[error_column(NAME)] is None, row["key"]
    assert "Describe <image> in English:" in (tmp_path / "short" / "README.md").read_text()


def test_shear_keeps_what_people_wrote_in_the_card(run: Run, staged: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(staged, copy)
    text = (copy / "README.md").read_text()
    text = text.replace("## Limits", "## By hand\n\nMy own words.\n\n## Limits")
    (copy / "README.md").write_text(re.sub(r"^pretty_name: .*$", "pretty_name: Mine\nlicense: mit", text, flags=re.M))
    done = run("shear", copy, "--out", "short", "--rule", "raw")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "short" / "README.md").read_text()
    for part in ("My own words.", "pretty_name: Mine", "license: mit", "rule raw", "rule: raw"):
        assert part in card, part
    for part in ("rule sentence", "rule: sentence"):
        assert part not in card, part


def test_a_captioner_without_captions_takes_none_from_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (SimpleNamespace(label=name, error_column=error_column(name)) for name in ("good", "bad"))
    rows = Dataset.from_dict({good.error_column: [None, None], bad.error_column: ["too big", "too big"]})
    show: Any = outcomes.show_outcomes
    show(rows, [good, bad])
    said = capsys.readouterr().out
    assert "good: 2 captioned, 0 failed" in said
    assert "bad: 0 captioned, 2 failed" in said
    with pytest.raises(CaptionError, match="bad captioned none of 2 pictures"):
        show(rows, [bad])


def test_publish_says_how_to_load_it(staged: Path, hub_env: dict[str, str], tmp_path: Path) -> None:
    splits = load_dataset(str(staged), "raw", cache_dir=str(tmp_path / "cache"))
    splits["validation"] = splits.pop("train")
    save_configs({"raw": splits}, tmp_path / "validation")
    done = run_command("publish", tmp_path / "validation", "photos", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'load_dataset("local/photos", "raw", split="validation")' in " ".join(done.stdout.split())


def test_evaluate_takes_columns_after_one_flag_or_several(run: Run, staged: Path) -> None:
    words = ["evaluate", "--model", "tiny-clip", "--dataset", staged, "--columns", "caption"]
    one = run(*words, caption_column(NAME))
    several = run(*words, "--columns", caption_column(NAME))
    assert (one.returncode, several.returncode) == (0, 0), one.stderr + several.stderr
    assert one.stdout == several.stdout
    assert caption_column(NAME) in one.stdout
    done = run("evaluate", "--model", "tiny-clip", "--dataset", staged, "caption")
    assert_one_line(done, 2, "unexpected argument 'caption'", "--columns")


def test_publish_and_read_back(staged: Path, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path) -> None:
    done = run_command("publish", staged, "local/photos", "--private", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.url in done.stdout
    reader = f"""
import json
from datasets import load_dataset
rows = load_dataset("local/photos", {NAME!r}, split="train")
pictures = load_dataset("local/photos", split="train")["image"]
print(json.dumps([rows["key"][:], rows["caption"][:], sum(picture is not None for picture in pictures)]))
"""
    read = subprocess.run([*python(), "-c", reader], env=hub_env, capture_output=True, text=True, check=True)
    keys, captions, pictures = json.loads(read.stdout)
    rows = load(staged, NAME, tmp_path / "cache")
    assert (keys, captions, pictures) == (rows["key"][:], rows["caption"][:], 10)


def test_a_dry_run_changes_nothing(staged: Path, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path) -> None:
    done = run_command("publish", staged, "local/photos", "--dry-run", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all/train-00000-of-00001.parquet" in done.stdout
    assert "nothing was changed" in done.stdout
    assert hub.count("POST", "/commit/") == hub.count("POST", "/repos/create") == 0


def test_publish_leaves_pictures_out_when_asked(staged: Path, hub_env: dict[str, str], tmp_path: Path) -> None:
    done = run_command("publish", staged, "local/captions", "--images", "none", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reader = 'from datasets import load_dataset; print(load_dataset("local/captions", split="train").column_names)'
    read = subprocess.run([*python(), "-c", reader], env=hub_env, capture_output=True, text=True, check=True)
    assert "'caption'" in read.stdout
    assert "'image'" not in read.stdout


def test_publish_opens_a_pull_request(staged: Path, hub_env: dict[str, str], tmp_path: Path, hub: LoopbackHub) -> None:
    done = run_command("publish", staged, "local/photos", "--create-pr", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/datasets/local/photos/discussions/1" in done.stdout


def test_models_lists_every_captioner_that_has_a_name(run: Run) -> None:
    from hf_mllm_aug.captioners import PRESETS

    done = run("models")
    assert done.returncode == 0
    for name in PRESETS:
        assert name in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"Example: hf-mllm-aug {command}" in " ".join(done.stdout.split())


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    done = run()
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"  {command} " in done.stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"hf-mllm-aug {hf_mllm_aug.__version__}\n"
