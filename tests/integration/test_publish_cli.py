"""Publishing, deleting and the metric's Space on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mllm_aug.loopback_hub import LoopbackHub
from tests.integration.command_line import assert_one_line, run_command
from tests.integration.test_publish import files, readme, revisions


@pytest.fixture
def folder(client: Any, tmp_path: Path) -> Path:
    client(f"save_configs(rows(), {str(tmp_path / 'staged')!r}); say()")
    return tmp_path / "staged"


def test_publish_some_configs_on_the_command_line(
    folder: Path, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    words: list[str | Path] = [
        "publish",
        folder,
        "me/x",
        "--config",
        "raw",
        "--config",
        "otter",
        "--revision",
        "dev",
        "--num-proc",
        "2",
    ]
    words += ["--commit-message", "First words", "--gated", "auto", "--max-shard-size", "1KB"]
    done = run_command(*words, env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'load_dataset("me/x", "otter", split="train", revision="dev")' in done.stdout
    repo = hub.store.get("me/x")
    assert repo.resolve("dev").title == "First words"
    assert repo.gated == "auto"
    configs = {path.split("/")[0] for path in repo.resolve("dev").tree if path.endswith(".parquet")}
    assert configs == {"raw", "otter"}
    assert set(repo.resolve("main").tree) == {".gitattributes"}
    done = run_command("publish", folder, "me/x", "--config", "oter", env=hub_env, cwd=tmp_path)
    assert_one_line(done, 2, "unknown config 'oter': did you mean 'otter'?")


def test_pictures_that_are_left_out_are_left_out_of_the_card_too(
    hub: LoopbackHub, hub_env: dict[str, str], client: Any, tmp_path: Path
) -> None:
    client(f"""
import io, PIL.Image
def png(shade):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), (shade, 0, 0)).save(buffer, "PNG")
    return {{"bytes": buffer.getvalue(), "path": None}}
from datasets import Features, Image, Value
kinds = {{"key": Value("string"), "image": Image(decode=False), "caption": Value("string")}}
data = {{"key": list("abc"), "image": [png(i) for i in range(3)], "caption": list("xyz")}}
save_configs(to_configs(Dataset.from_dict(data, features=Features(kinds)), images="embed"), {str(tmp_path / "p")!r})
say()
""")
    shown = [path.name for path in (tmp_path / "p" / "figures").iterdir() if path.suffix != ".svg"]
    assert shown, "the card shows no pictures"
    done = run_command("publish", tmp_path / "p", "me/x", "--images", "none", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path for path in files(hub) if path.startswith("figures/") and not path.endswith(".svg")] == []
    assert not [name for name in shown if name in readme(hub)]
    assert "figures/" in readme(hub), "the plots went too"


def test_dry_runs_and_deletion_on_the_command_line(
    folder: Path, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    done = run_command("publish", folder, "me/x", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head = revisions(hub)
    done = run_command("publish", folder, "me/x", "--dry-run", env=hub_env, cwd=tmp_path)
    assert "same      otter: 20 rows" in done.stdout
    assert "nothing was changed" in done.stdout
    done = run_command("unpublish", "me/x", "otter", "--dry-run", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deleted   otter: 20 rows" in done.stdout
    assert "keeps the captions of 'otter' in a column" in done.stdout
    assert revisions(hub) == head
    done = run_command("unpublish", "me/x", "otter", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [path for path in files(hub) if path.startswith("otter/")]
    done = run_command("unpublish", "me/x", "otter", env=hub_env, cwd=tmp_path)
    assert_one_line(done, 2, "unknown config 'otter'")


def test_the_metric_becomes_a_space_that_evaluate_could_load(
    hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path
) -> None:
    done = run_command("publish-metric", "me/recall", "--dry-run", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "add" in done.stdout
    assert not hub.store.repos
    done = run_command("publish-metric", "me/recall", "--private", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/spaces/me/recall/commit/" in done.stdout
    space = hub.store.get("me/recall", "spaces")
    assert space.private
    tree = space.resolve("main").tree
    assert {"README.md", "app.py", "recall.py", "requirements.txt"} <= set(tree)
    text = {path: hub.store.blob_path(blob.sha256).read_text() for path, blob in tree.items()}
    card = yaml.safe_load(text["README.md"].split("---\n")[1])
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert card["sdk_version"]
    assert {"evaluate", "metric"} <= set(card["tags"])
    assert "hf-mllm-aug" in text["requirements.txt"]
    # The module as it lies there is one that evaluate loads.
    home = tmp_path / "recall"
    home.mkdir()
    for path in ("recall.py", "app.py", "README.md"):
        (home / path).write_text(text[path])
    code = """
import sys
import evaluate
sys.path.insert(0, "recall")
import app
metric = evaluate.load("recall/recall.py")
both = metric.compute(predictions=[[1.0, 0.0], [0.0, 1.0]], references=[[[1.0, 0.0]], [[0.0, 1.0]]], ks=[1])
print(both["text_retrieval_recall@1"], app.score(*app.EXAMPLE)["text_retrieval_recall@1"])
"""
    out = subprocess.run([sys.executable, "-c", code], env=hub_env, cwd=tmp_path, capture_output=True, text=True)
    assert out.stdout.split() == ["1.0", "1.0"], out.stderr
    done = run_command("publish-metric", "me/recall", env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, "a second time it is brought up to date"
