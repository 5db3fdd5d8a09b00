"""`evaluate` on a data set of several captions a picture, as COCO and Flickr30K are published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value, load_from_disk

from hf_mllm_aug.commands.evaluate import evaluate
from hf_mllm_aug.embedding import evaluate_model
from hf_mllm_aug.errors import ColumnError, OutputExistsError, UsageError
from tests.integration.command_line import Run

COLORS = ["red", "green", "blue", "yellow", "grey", "white", "black", "brown", "pink", "orange"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """Ten pictures, one of which is damaged, each with a list of one to three captions; saved as a data set."""
    captions = [[f"a {color} shape", f"{color}", "a drawing"][: 1 + at % 3] for at, color in enumerate(COLORS)]
    contents = pictures[:10]
    contents[3] = contents[3][:30]
    images = [{"bytes": content, "path": None} for content in contents]
    texts = {"sentences": List(Value("string")), "title": Value("string"), "note": Value("string")}
    features = Features({"image": Image(decode=False), **texts})
    folder = tmp_path_factory.mktemp("several") / "photos"
    rows = {"image": images, "sentences": captions, "title": COLORS, "note": [None, " ", *COLORS[2:]]}
    Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    return folder


def test_lists_of_captions_are_found_scored_and_recorded(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--model", "tiny-clip", "--dataset", photos, "--ks", "1,3", "--json", "out/scores.json"]
    done = run(*words, "--batch-size", "4", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    expected = evaluate_model(
        "tiny-clip", load_from_disk(str(photos)), columns=["sentences"], ks=(1, 3), device="cpu", intervals=True
    )
    found = record["captions"]["sentences"]
    assert list(record["captions"]) == ["sentences"]
    for key in ("text_retrieval_recall@1", "image_retrieval_recall@3"):
        assert found[key] == pytest.approx(expected[key], abs=1e-9)
        assert found["intervals"][key] == pytest.approx(expected["intervals"][key], abs=1e-9)
    assert found["mean_recall@3"] == (found["text_retrieval_recall@3"] + found["image_retrieval_recall@3"]) / 2
    assert (found["n_images"], found["n_texts"], found["n_bad_images"]) == (9, 18, 1)
    assert (record["model"], record["architecture"], record["dataset"]) == ("tiny-clip", "CLIPModel", "photos")
    assert (record["ks"], record["n_rows"], record["device"], record["dtype"]) == ([1, 3], 10, "cpu", "float32")
    assert set(record["versions"]) >= {"torch", "transformers", "hf-mllm-aug"}
    assert str(tmp_path) not in json.dumps(record), "a path of this machine"

    low, high = (f"{100 * bound:.1f}" for bound in expected["intervals"]["text_retrieval_recall@1"])
    assert re.search(rf"sentences +9 / 18 +{expected['text_retrieval_recall@1']:.1%} ", done.stdout), done.stdout
    assert re.search(rf"95%: +{low}-{high} ", done.stdout), done.stdout
    assert "left out: 1 row whose picture cannot be decoded" in done.stdout
    assert "without a caption" not in done.stdout

    with pytest.raises(OutputExistsError, match="is there already"):
        evaluate("tiny-clip", str(photos), json_file=tmp_path / "out" / "scores.json")


def test_columns_may_be_scored_together_and_without_intervals(run: Run, photos: Path) -> None:
    words = ["evaluate", "--model", "tiny-clip", "--dataset", photos, "--columns", "title", "sentences"]
    done = run(*words, "--together", "--no-intervals")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "sentences" in line]
    assert len(lines) == 1
    expected = evaluate_model("tiny-clip", load_from_disk(str(photos)), columns=["title", "sentences"], device="cpu")
    assert re.search(rf"title \+ sentences +9 / 27 +{expected['text_retrieval_recall@1']:.1%} ", lines[0]), lines[0]
    assert "95%" not in done.stdout


def test_columns_that_were_scored_on_other_rows_are_told_apart(run: Run, photos: Path) -> None:
    done = run("evaluate", "--model", "tiny-clip", "--dataset", photos, "--columns", "title", "note", "--no-intervals")
    assert re.search(r"title +9 ", done.stdout), done.stdout + done.stderr
    assert re.search(r"note +7 ", done.stdout), done.stdout
    assert "left out: 2 rows without a caption in one of the columns; recall is higher among fewer" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": "1,x"}, "--ks is '1,x': give cut-offs .* --ks 1,5,10"),
        ({"ks": "0"}, "--ks is '0'"),
        ({"device": "gpu"}, "device is 'gpu': .* 'cuda:1'"),
        ({"dtype": "int8"}, "dtype is 'int8': .* float type"),
        ({"dtype": "float33"}, "dtype is 'float33': .* 'bfloat16'"),
        ({"more_columns": ["title"]}, "unexpected argument 'title'"),
    ],
)
def test_options_that_cannot_work_are_wrong_usage(photos: Path, options: dict[str, Any], message: str) -> None:
    """What the command line makes of a UsageError is tested with the other commands."""
    with pytest.raises(UsageError, match=message):
        evaluate("tiny-clip", str(photos), **options)


def test_a_place_for_the_figures_is_looked_for_before_the_work(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot make the folder of .*scores\.json: .* another --json"):
        evaluate("no/such-model", str(photos), json_file=tmp_path / "file" / "scores.json")


def test_a_data_set_without_captions_is_refused_with_its_columns(tmp_path: Path, pictures: list[bytes]) -> None:
    rows = Dataset.from_dict({"image": [{"bytes": pictures[0], "path": None}], "title": ["red"]})
    rows.cast_column("image", Image(decode=False)).save_to_disk(str(tmp_path / "plain"))
    with pytest.raises(ColumnError, match=r"no column 'caption'.* title.* --columns"):
        evaluate("tiny-clip", str(tmp_path / "plain"))
