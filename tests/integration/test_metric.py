"""The evaluate module loads by path without a network and scores as `retrieval_recall` does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped,unused-ignore]

from hf_mllm_aug import metric_path, retrieval_recall
from hf_mllm_aug.errors import UnknownNameError
from tests.warm_python import python

FOLDER = Path(metric_path("retrieval_recall"))


@pytest.fixture(scope="module")
def metric() -> Any:
    return evaluate.load(metric_path("retrieval_recall"))


def case() -> tuple[Any, list[Any], Any, list[int]]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(9, 4)).astype(np.float32)
    references = [
        [image + 0.7 * rng.normal(size=4).astype(np.float32) for _ in range(1 + row % 3)]
        for row, image in enumerate(images)
    ]
    owner = [row for row, captions in enumerate(references) for _ in captions]
    return images, references, np.concatenate([np.stack(captions) for captions in references]), owner


def test_scores_equal_the_function_with_ragged_captions(metric: Any) -> None:
    images, references, texts, owner = case()
    scores = metric.compute(predictions=images, references=references, ks=[1, 5, 10])
    assert list(scores) == [f"{side}_retrieval_recall@{k}" for side in ("text", "image") for k in (1, 5, 10)]
    assert scores == retrieval_recall(images, texts, owner)
    assert 0 < scores["image_retrieval_recall@1"] < 1
    cosine = metric.compute(predictions=images, references=references, normalize=True)
    assert cosine == retrieval_recall(images, texts, owner, normalize=True)


@pytest.mark.parametrize("form", ["list", "numpy", "torch"])
def test_inputs_may_be_lists_arrays_or_tensors(metric: Any, form: str) -> None:
    images, references, texts, owner = case()
    conversions: dict[str, Any] = {"list": lambda x: x.tolist(), "numpy": np.asarray, "torch": torch.tensor}
    convert = conversions[form]
    scores = metric.compute(predictions=convert(images), references=[convert(np.stack(own)) for own in references])
    assert scores == retrieval_recall(images, texts, owner)


def test_batches_may_be_added_one_by_one(metric: Any) -> None:
    images, references, texts, owner = case()
    for row in range(0, 9, 4):
        metric.add_batch(predictions=images[row : row + 4], references=references[row : row + 4])
    assert metric.compute(ks=(2,)) == retrieval_recall(images, texts, owner, ks=(2,))


def test_bad_embeddings_are_named(metric: Any) -> None:
    with pytest.raises(ValueError, match="image_embeddings: row 1 has NaN"):
        metric.compute(predictions=[[1.0, 0.0], [float("nan"), 1.0]], references=[[[1.0, 0.0]], [[0.0, 1.0]]])
    fresh = evaluate.load(metric_path("retrieval_recall"))
    with pytest.raises(ValueError, match="image 1 has no text"):
        fresh.compute(predictions=[[1.0, 0.0], [0.0, 1.0]], references=[[[1.0, 0.0]], []])


def test_loads_where_every_connection_fails(tmp_path: Path) -> None:
    program = """
import socket
def refuse(*args, **kwargs):
    raise SystemExit("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
from hf_mllm_aug import metric_path
scores = evaluate.load(metric_path("retrieval_recall")).compute(
    predictions=[[1.0, 0.0], [0.0, 1.0]], references=[[[1.0, 0.1]], [[0.1, 1.0]]], ks=[1]
)
print(scores)
"""
    done = subprocess.run(
        [*python(), "-c", program],
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "{'text_retrieval_recall@1': 1.0, 'image_retrieval_recall@1': 1.0}" in done.stdout


def test_an_unknown_metric_offers_the_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'retrieval_recall'"):
        metric_path("retrieval_recal")


def test_imports_stand_one_a_line_as_the_loader_of_evaluate_reads_them() -> None:
    for line in (FOLDER / "retrieval_recall.py").read_text().splitlines():
        if line.startswith("import "):
            assert re.fullmatch(r"import [\w.]+", line), line


def test_the_card_is_that_of_a_space_and_its_example_runs() -> None:
    text = (FOLDER / "README.md").read_text()
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    settings = yaml.safe_load(header)
    assert settings["sdk"] == "gradio"
    for name in ("title", "emoji", "colorFrom", "colorTo", "sdk_version", "python_version", "description"):
        assert settings[name], name
    assert settings["pinned"] is False
    assert len(settings["emoji"]) == 1
    assert {"evaluate", "metric"} <= set(settings["tags"])
    assert (FOLDER / settings["app_file"]).is_file()
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", body, re.DOTALL)[0], names)
    assert names["scores"] == retrieval_recall(
        [[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.6], [1.0, 0.0], [0.6, 0.8]], [0, 0, 1]
    )


def test_the_page_of_the_space_scores_its_example(tmp_path: Path) -> None:
    """`app.py` from a copy of the folder, as in a Space, where the folder bears another name."""
    space = tmp_path / "app"
    space.mkdir()
    for file in FOLDER.iterdir():
        if file.is_file():
            (space / file.name).write_bytes(file.read_bytes())
    program = """
import json, app
for inputs in (["[[1.0", *app.EXAMPLE[1:]], ["[[1.0, 0.0]]", *app.EXAMPLE[1:]], ["5", *app.EXAMPLE[1:]]):
    try:
        app.score(*inputs)
    except ValueError as error:
        print(error)
print(json.dumps(app.score(*app.EXAMPLE)))
"""
    done = subprocess.run(
        [*python(), "-c", program],
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(space), *sys.path])},
        cwd=space,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    no_json, no_pairs, no_list, scores = done.stdout.splitlines()
    assert no_json.startswith("predictions is no JSON: ")
    assert "predictions (1) and references (2)" in no_pairs
    assert no_list == "predictions is no list: give one such as [[1.0, 0.0], [0.0, 1.0]]"
    assert json.loads(scores)["text_retrieval_recall@1"] == 1.0
