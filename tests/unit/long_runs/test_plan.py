"""The plan of a run: what it is known by, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image, Value

from hf_mllm_aug import Augment, Captioner, FetchImages, Shear
from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.long_runs.plan import FILE, Plan, make_plan, read_plan, settle
from hf_mllm_aug.long_runs.source import MapSource
from hf_mllm_aug.long_runs.store import open_store


def plan_of(rows: Dataset, captioner: Captioner, shard_size: int = 4, **settings: Any) -> Plan:
    fetch = settings.pop("fetch", None)
    return make_plan(MapSource(rows, shard_size), Augment(captioner, **settings), fetch)


def begin(folder: Path, plan: Plan, *stages: str) -> None:
    """A run by this plan, with something finished in some stages."""
    settle(open_store(folder), plan)
    for stage in stages or plan.captioners:
        open_store(folder).write(f"{stage}/00000.parquet", b"")


def test_a_plan_comes_back_as_it_was(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    plan = plan_of(rows, captioner)
    assert settle(open_store(tmp_path), plan) == plan
    assert read_plan(open_store(tmp_path)) == plan
    assert settle(open_store(tmp_path), plan) == plan


def test_a_run_goes_on_with_and_without_compiling(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    plan, compiled = plan_of(rows, captioner), plan_of(rows, replace(captioner, compile=True))
    begin(tmp_path, plan)
    assert settle(open_store(tmp_path), compiled) == plan
    (stage,) = plan.captioners
    assert compiled.digest(stage) == plan.digest(stage)


def test_looking_writes_nothing(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    settle(open_store(tmp_path / "run"), plan_of(rows, captioner), write=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"shard_size": 5}, "shard_size: 4 in the folder, 5 now"),
        ({"shear": Shear(max_words=3)}, "shear.max_words: null in the folder, 3 now"),
        ({"shear": None}, "shear: "),
        ({"keep_unsheared": True}, "keep_unsheared: false in the folder, true now"),
        ({"fetch": FetchImages()}, "fetch: null in the folder"),
        ({"captioner": {"prompt": "What is <image>?"}}, "one.prompt: "),
        ({"captioner": {"max_new_tokens": 9}}, "one.decoding.max_new_tokens: 8 in the folder, 9 now"),
        ({"captioner": {"seed": 1}}, "one.decoding.seed: 0 in the folder, 1 now"),
        ({"captioner": {"generation": {"num_beams": 2}}}, "one.decoding.num_beams: 1 in the folder, 2 now"),
        ({"captioner": {"dtype": "float16"}}, "one.dtype: auto in the folder, float16 now"),
        ({"captioner": {"quantization": "int8"}}, "one.quantization: null in the folder, int8 now"),
    ],
)
def test_other_settings_are_refused_by_name(
    rows: Dataset, captioner: Captioner, tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    begin(tmp_path, plan_of(rows, captioner))
    other = replace(captioner, **changes.pop("captioner", {}))
    with pytest.raises(UsageError) as refusal:
        settle(open_store(tmp_path), plan_of(rows, other, **changes))
    assert f"{tmp_path} holds a run with other settings: " in str(refusal.value)
    assert difference in str(refusal.value)


def test_other_rows_and_other_weights_are_refused(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    store = open_store(tmp_path / "run")
    begin(tmp_path / "run", plan_of(rows, captioner))
    with pytest.raises(UsageError, match=r"source.fingerprint: .*; source.rows: 11 in the folder, 10 now"):
        settle(store, plan_of(rows.select(range(10)), captioner))
    with pytest.raises(UsageError, match=r"source.fingerprint: "):
        settle(store, plan_of(rows.select([1, 0, *range(2, 11)]), captioner))
    shutil.copytree(captioner.model, tmp_path / "copy")
    settings = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**settings, "vision_feature_layer": -2}))
    with pytest.raises(UsageError, match=r"one.source: "):
        settle(store, plan_of(rows, replace(captioner, model=tmp_path / "copy")))


def test_what_changes_no_caption_is_no_difference(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    plan = plan_of(rows, captioner)
    begin(tmp_path / "run", plan)
    shutil.copytree(captioner.model, tmp_path / "moved")
    moved = replace(captioner, model=tmp_path / "moved", batch_size=7, device="cpu", on_error="raise")
    assert settle(open_store(tmp_path / "run"), plan_of(rows, moved)) == plan
    assert str(tmp_path) not in (tmp_path / "run" / FILE).read_text()


def test_a_mistake_by_which_nothing_was_finished_can_be_mended(
    rows: Dataset, captioner: Captioner, sampler: Captioner, tmp_path: Path
) -> None:
    begin(tmp_path, plan_of(rows, captioner))
    settle(open_store(tmp_path), plan_of(rows, replace(sampler, image_column="imgae")))
    plan = settle(open_store(tmp_path), plan_of(rows, sampler))
    assert plan.captioners["two"]["settings"]["image_column"] == "image"
    assert list(plan.captioners) == ["one", "two"]
    settle(open_store(tmp_path / "other"), plan_of(rows, captioner, shard_size=1000))
    assert settle(open_store(tmp_path / "other"), plan_of(rows, captioner)).shard_size == 4


def test_captioners_are_added_and_may_be_left_out(
    rows: Dataset, captioner: Captioner, sampler: Captioner, tmp_path: Path
) -> None:
    first = plan_of(rows, captioner)
    begin(tmp_path, first)
    both = settle(open_store(tmp_path), plan_of(rows, sampler))
    assert list(both.captioners) == ["one", "two"]
    assert both.digest("one") == first.digest("one") != both.digest("two")
    assert settle(open_store(tmp_path), plan_of(rows, captioner)) == both


def test_pictures_that_were_fetched_first_bind_no_shearing(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    fetch = FetchImages()
    fetched = make_plan(MapSource(rows, 4), None, fetch)
    begin(tmp_path, fetched, "fetch")
    plan = settle(open_store(tmp_path), plan_of(rows, captioner, shear=Shear(max_words=3), fetch=fetch))
    assert plan.digest("fetch") == fetched.digest("fetch")
    assert plan.shear is not None
    assert plan.shear["max_words"] == 3
    slower = FetchImages(concurrency=2, per_host=1, user_agent="someone")
    assert settle(open_store(tmp_path), make_plan(MapSource(rows, 4), None, slower)) == plan


def test_other_versions_of_packages_are_a_warning(
    rows: Dataset, captioner: Captioner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(rows, captioner)
    begin(tmp_path, replace(plan, versions={**plan.versions, "torch": "1.0"}))
    assert settle(open_store(tmp_path), plan).captioners == plan.captioners
    assert "the run was begun with torch 1.0 and goes on with " in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"{", "is no plan of a run"), (b"[]", "is no plan of a run"), (b'{"format": 99}', "is of format 99")],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(FormatError, match=problem):
        read_plan(open_store(tmp_path))


def fingerprint(rows: Dataset) -> str:
    return MapSource(rows, 4).fingerprint()


def test_the_fingerprint_is_of_the_rows_not_of_how_they_were_loaded(rows: Dataset, tmp_path: Path) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    same = [
        Dataset.load_from_disk(str(tmp_path / "saved")),
        Dataset.from_parquet(str(tmp_path / "rows.parquet")),
        rows.select([*range(10, -1, -1)]).select([*range(10, -1, -1)]),
        rows.cast_column("caption", Value("large_string")),
        rows.remove_columns("image"),
    ]
    assert {fingerprint(found) for found in same} == {fingerprint(rows)}


def test_the_fingerprint_sees_every_value_and_where_it_ends() -> None:
    texts: list[list[str | None]] = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], [None, "abc"], ["abc"]]
    found = [fingerprint(Dataset.from_dict({"key": values}).cast_column("key", Value("string"))) for values in texts]
    assert len(set(found)) == len(texts)


def test_rows_without_texts_are_known_by_their_pictures(pictures: list[bytes]) -> None:
    def of(*images: dict[str, Any] | None) -> str:
        columns = {"image": list(images), "url": [None] * len(images)}
        rows = Dataset.from_dict(columns).cast_column("url", Value("string")).cast_column("image", Image(decode=False))
        return fingerprint(rows)

    named = {"bytes": None, "path": "/home/me/a.png"}
    assert of(named) == of({**named, "path": "/elsewhere/a.png"})
    different = [of(named), of({**named, "path": "/home/me/b.png"}), of(None)]
    different += [of({"bytes": picture, "path": None}) for picture in pictures[:2]]
    assert len(set(different)) == len(different)
