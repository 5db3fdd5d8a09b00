"""The first command that people run: the whole way, shown, twice, and without touching what is theirs."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from datasets import load_dataset

import hf_mllm_aug
from hf_mllm_aug import demo
from hf_mllm_aug.errors import OutputExistsError
from hf_mllm_aug.loopback_hub import LoopbackHub
from hf_mllm_aug.schema import caption_column
from tests.warm_python import python

ROOT = Path(hf_mllm_aug.__file__).parents[1]
CAPTIONERS = ("tiny-llava", "tiny-minigpt-4", "tiny-qwen-vl", "tiny-otter")


def _demo(cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    path = os.pathsep.join([str(ROOT), clean.get("PYTHONPATH", "")])
    # A token that nobody may see, and a Hub that is down: the demo must need neither.
    settings = {
        "HF_TOKEN": "hf_preciouspreciousprecious",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(cwd / "home"),
    }
    return subprocess.run(
        [*python(), "-m", "hf_mllm_aug", "demo", *words],
        env={**clean, "PYTHONPATH": path, **settings, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo said the second time, and where it ran."""
    cwd = tmp_path_factory.mktemp("demo")
    for _ in range(2):
        done = _demo(cwd)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    return done.stdout, cwd


def test_every_picture_is_in_the_table(shown: tuple[str, Path]) -> None:
    pictures = [path for path in demo.PICTURES.iterdir() if path.suffix in (".png", ".jpg", ".jpeg", ".webp")]
    assert len(pictures) >= 20
    for name in CAPTIONERS:
        assert f"{name}: {len(pictures)} pictures, {len(pictures)} captioned, 0 failed" in shown[0]


def test_what_shearing_cut_is_visible_without_colour(shown: tuple[str, Path]) -> None:
    assert "⟨cut: " in shown[0]
    assert "\x1b[" not in shown[0]


def test_the_configs_the_card_and_the_address_are_told(shown: tuple[str, Path]) -> None:
    said, cwd = shown
    for config in ("all", "raw", *CAPTIONERS):
        assert re.search(rf"^{config}: \d+ rows of key, ", said, re.MULTILINE), config
    (card,) = re.findall(r"^card: (.*)$", said, re.MULTILINE)
    assert (cwd / card).is_file()
    assert re.search(r"published to http://127\.0\.0\.1:\d+/datasets/local/mllm-aug-demo \(a Hub server", said)


def test_what_was_published_was_read_back_and_compared(shown: tuple[str, Path]) -> None:
    read = re.findall(r'load_dataset\("local/mllm-aug-demo", "(.*?)"\): \d+ rows, equal to the staged', shown[0])
    assert read == ["all", "raw", *CAPTIONERS]


def test_recall_of_raw_and_new_captions_is_shown_with_its_encoder(shown: tuple[str, Path]) -> None:
    assert "encoder: tiny-clip" in shown[0]
    for column in ("caption", *map(caption_column, CAPTIONERS)):
        assert re.search(rf"^{column} +\d+ +([\d.]+% +){{5}}[\d.]+%", shown[0], re.MULTILINE), column


def test_it_says_what_the_miniature_is_not_and_what_to_do_next(shown: tuple[str, Path]) -> None:
    assert "no substitute for the full models" in shown[0]
    assert "hf-mllm-aug caption FOLDER" in shown[0]


def test_what_it_staged_loads(shown: tuple[str, Path], tmp_path: Path) -> None:
    rows = load_dataset(str(shown[1] / "demo-output" / "dataset"), split="train", cache_dir=str(tmp_path))
    assert {"creator", "license"} <= set(rows.column_names)  # the authors stay named
    assert all(picture is not None for picture in rows["image"])
    assert all(rows["caption_tiny_llava"])


def test_no_token_of_the_person_gets_out(shown: tuple[str, Path]) -> None:
    said, cwd = shown
    assert "hf_precious" not in said
    for path in (cwd / "demo-output").rglob("*"):
        assert path.is_dir() or b"hf_precious" not in path.read_bytes(), path


@pytest.mark.slow
def test_it_publishes_where_it_is_told(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        done = _demo(tmp_path, "--repo", "me/pictures", "--out", "elsewhere", **hub.environment)
        assert done.returncode == 0, done.stderr
        assert f"published to {hub.url}/datasets/me/pictures\n" in done.stdout
        assert hub.count("POST", "/me/pictures/commit/") == 1
    assert (tmp_path / "elsewhere" / "dataset" / "README.md").is_file()


def test_a_folder_of_a_person_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputExistsError, match="was not written by the demo"):
        demo.prepare_output(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    (demo.prepare_output(tmp_path / "out")).mkdir()
    assert not demo.prepare_output(tmp_path / "out").exists()
