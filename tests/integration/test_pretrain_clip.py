"""The pre-training example: killed, it goes on to the same losses; two processes train as one with the whole batch."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from safetensors.torch import load_file, save_file

from hf_mllm_aug import save_configs, to_configs
from hf_mllm_aug.demo import PICTURES
from tests.integration.command_line import ROOT, environment
from tests.tiny_dual_encoders import ARCHITECTURES, tokenizer
from tests.warm_python import python

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "pretrain_clip.py"
N_ROWS, STEPS = 24, 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random CLIP and SigLIP checkpoints, a staged data set of the demo's pictures, and one to evaluate on."""
    folder: Path = tmp_path_factory.mktemp("pretraining")
    torch.manual_seed(0)
    for name in ("clip", "siglip"):
        for part in (*ARCHITECTURES[name](), tokenizer(name)):
            part.save_pretrained(folder / name)
    contents = [path.read_bytes() for path in sorted(PICTURES.glob("*.png"))][:N_ROWS]
    contents[5] = contents[5][:40]  # damaged
    colors = ["red", "green", "blue", "dark", "light"]
    rows: dict[str, Any] = {
        "key": [f"k{row}" for row in range(N_ROWS)],
        "image": [{"bytes": content, "path": None} for content in contents],
        "url": [None] * N_ROWS,
        "caption": [f"a {colors[row % 5]} photo" if row != 7 else None for row in range(N_ROWS)],
        "caption_one": [f"{colors[row % 3]} square" if row != 7 else None for row in range(N_ROWS)],
        "caption_two": [
            f"photo of {colors[row % 4]} {colors[row % 5]}" if row % 6 != 1 else None for row in range(N_ROWS)
        ],
    }
    data = Dataset.from_dict(rows).cast_column("image", Image(decode=False))
    save_configs(to_configs(data, images="embed"), folder / "staged")
    for shard in range(4):
        target = folder / "shards" / f"train-{shard:05d}-of-00004.parquet"
        target.parent.mkdir(exist_ok=True)
        data.shard(4, shard).to_parquet(str(target))
    several = {"image": rows["image"][:5], "captions": [[f"{color} square", f"a {color} photo"] for color in colors]}
    features = Features({"image": Image(decode=False), "captions": List(Value("string"))})
    (folder / "test").mkdir()
    Dataset.from_dict(several, features=features).to_parquet(str(folder / "test" / "test-00000-of-00001.parquet"))
    return folder


def command(processes: int, *words: str | Path, first: Sequence[str] = (sys.executable,)) -> list[str]:
    """The command line of some processes; ``first`` says how each Python begins, the launcher and what it launches."""
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    options = ["--lr", "0.01", "--warmup", "3", "--save-every", "2"]
    launch += ["--no_python", *first]
    return [*first, *(launch if processes > 1 else []), str(EXAMPLE), *options, *map(str, words)]


def surroundings(place: Path) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    return environment(place / "home") | quiet


def train(place: Path, processes: int, *words: str | Path) -> None:
    done = subprocess.run(
        command(processes, *words, first=python()),
        env=surroundings(place),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def log_of(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record in records:
        del record["pairs_per_second"]
    return records


PLAIN = ["--model-config", "clip", "--dataset", "staged", "--steps", str(STEPS), "--workers", "0", "--crop", "1"]


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> list[dict[str, Any]]:
    """Two processes with four pairs each, to the end."""
    train(place, 2, *PLAIN, "--batch-size", "4", "--out", "undisturbed")
    return log_of(place / "undisturbed")


def test_killed_after_two_steps_it_goes_on_to_the_same_losses(place: Path, undisturbed: list[dict[str, Any]]) -> None:
    words = command(2, *PLAIN, "--batch-size", "4", "--out", "killed")
    process = subprocess.Popen(
        words, env=surroundings(place), cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        end = time.monotonic() + 120
        while not (place / "killed" / "checkpoints" / "step-00000002").exists():
            assert process.poll() is None, "it ended before its second step"
            assert time.monotonic() < end, "it came to no second step"
            time.sleep(0.002)
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=30)
        process.communicate()
    assert 2 <= len(log_of(place / "killed")) < STEPS, "it was not killed on its way"
    assert not (place / "killed" / "model").exists()

    train(place, 2, *PLAIN, "--batch-size", "4", "--out", "killed")
    assert [record["step"] for record in undisturbed] == list(range(1, STEPS + 1))
    assert log_of(place / "killed") == undisturbed
    weights = [load_file(place / name / "model" / "model.safetensors") for name in ("killed", "undisturbed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert sorted(path.name for path in (place / "killed" / "checkpoints").iterdir()) == [
        "step-00000018",
        "step-00000020",
    ]


def test_two_processes_take_the_steps_of_one_with_the_whole_batch(
    place: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """Losses alone would not tell: Adam forgives a gradient of another length. So gradients' lengths are compared."""
    train(place, 1, *PLAIN, "--batch-size", "8", "--out", "alone")
    alone = log_of(place / "alone")
    for one, two in zip(alone, undisturbed, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3), f"step {one['step']}"
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-2), f"step {one['step']}"
    assert alone[-1]["loss"] < alone[0]["loss"] - 0.2
    # A damaged picture and a row without captions, in every epoch of three steps.
    assert (alone[2]["pairs"], alone[2]["bad_pictures"]) == (22, 1)
    assert (undisturbed[17]["pairs"], undisturbed[17]["bad_pictures"]) == (6 * 22, 6)


def test_a_stream_read_by_two_workers_goes_on_in_the_middle_and_siglip_trains(place: Path) -> None:
    words: list[str | Path] = ["--model-config", "siglip", "--dataset", "shards", "--config", "default", "--streaming"]
    words += [
        "--shuffle",
        "4",
        "--workers",
        "2",
        "--batch-size",
        "2",
        "--accumulate",
        "3",
        "--steps",
        "6",
        "--out",
        "stream",
    ]
    words += ["--eval-dataset", "test", "--eval-columns", "captions", "--save-every", "3"]
    train(place, 1, *words)
    out = place / "stream"
    first, trained = log_of(out), load_file(out / "model" / "model.safetensors")
    _, turn = json.loads((out / "checkpoints" / "step-00000003" / "trainer.json").read_text())["places"][0]
    assert turn == 1, "after nine batches of two workers it is the second one's turn"
    # As if it had been killed before the last checkpoint.
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    shutil.rmtree(out / "model")
    train(place, 1, *words)
    assert log_of(out) == first
    again = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(again[name], trained[name]) for name in trained)
    recall = first[-1]["recall"]
    assert (recall["n_images"], recall["n_texts"]) == (5, 10)
    low, high = recall["intervals"]["text_retrieval_recall@1"]
    assert low <= recall["text_retrieval_recall@1"] <= high


def test_a_run_is_not_gone_on_with_other_settings(
    place: Path, undisturbed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    example = importlib.import_module(EXAMPLE.stem)
    monkeypatch.setattr(sys, "argv", command(1, *PLAIN, "--batch-size", "8", "--out", place / "undisturbed")[1:])
    args = example.arguments()
    args.processes = 1
    with pytest.raises(SystemExit, match="step-00000020 was made with other settings: batch_size was 4, is 8; proc"):
        example.resume(None, args, {}, None)
    assert len(log_of(place / "undisturbed")) == len(undisturbed)


def test_parts_of_the_loss_add_up_to_that_of_the_whole_batch_and_so_do_gradients(tmp_path: Path) -> None:
    """Two processes of six rows against the papers' losses of twelve, three of which do not count."""
    torch.manual_seed(0)
    rows = {name: torch.randn(12, 6, dtype=torch.float64) for name in ("images", "texts")}
    rows |= {"scale": torch.tensor(7.0, dtype=torch.float64), "bias": torch.tensor(-2.0, dtype=torch.float64)}
    rows["valid"] = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1], dtype=torch.uint8)
    save_file(rows, tmp_path / "rows")
    program, processes = Path(__file__).with_name("pretrain_loss.py"), []
    for rank in range(2):
        paths = [tmp_path / "store", tmp_path / "rows", tmp_path / f"{rank}"]
        words = map(str, [program, EXAMPLE.parent, rank, 2, *paths])
        processes.append(
            subprocess.Popen(
                [*python(), *words], env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said[-3000:]
    parts = [load_file(tmp_path / f"{rank}") for rank in range(2)]

    kept = rows["valid"].bool()
    for name in ("images", "texts", "scale", "bias"):
        rows[name].requires_grad_()
    images, texts = (torch.nn.functional.normalize(rows[name][kept], dim=1) for name in ("images", "texts"))
    logits = rows["scale"] * images @ texts.T
    sign = 2 * torch.eye(9, dtype=torch.float64) - 1
    expected = {
        "softmax": -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2,
        "sigmoid": -torch.log(torch.sigmoid(sign * (logits + rows["bias"]))).sum() / 9,
    }
    for kind, loss in expected.items():
        torch.testing.assert_close(parts[0][kind] + parts[1][kind], loss.detach())
        for name in ("images", "texts", "scale", *(["bias"] if kind == "sigmoid" else [])):
            (gradient,) = torch.autograd.grad(loss, [rows[name]], retain_graph=True)
            both = parts[0][f"{kind} {name}"] + parts[1][f"{kind} {name}"]
            torch.testing.assert_close(both, gradient, rtol=1e-9, atol=1e-12, msg=f"{kind} {name}")
