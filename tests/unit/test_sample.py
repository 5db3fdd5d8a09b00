"""One caption a picture a visit: fair, changing from visit to visit, reproducible, also in the workers of a loader."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from datasets import Dataset, Image
from datasets.fingerprint import Hasher
from PIL import Image as PilImage
from torch.utils.data import DataLoader

from hf_mllm_aug.errors import CaptionError, ColumnError, FormatError, UsageError
from hf_mllm_aug.sample import SampleCaption


def batch(n: int = 6) -> dict[str, list[Any]]:
    rows = range(n)
    return {
        "key": [f"k{row}" for row in rows],
        "url": [None for _ in rows],
        "caption": [f"raw {row}" for row in rows],
        "caption_otter": [f"otter {row}" for row in rows],
        "error_otter": [None for _ in rows],
        "caption_llava_1_5": [f"llava {row}" for row in rows],
        "error_llava_1_5": [None for _ in rows],
    }


def kinds(captions: list[str]) -> Counter[str]:
    return Counter(caption.split()[0] for caption in captions)


def test_every_caption_has_the_same_chance_by_default() -> None:
    sample = SampleCaption()
    seen = kinds([caption for _ in range(100) for caption in sample(batch(60))["caption"]])
    assert all(1850 < seen[kind] < 2150 for kind in ("raw", "otter", "llava")), seen


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_raw_weight_is_the_probability_of_the_raw_caption(weight: float) -> None:
    sample = SampleCaption(raw_weight=weight)
    seen = kinds([caption for _ in range(100) for caption in sample(batch(60))["caption"]])
    assert abs(seen["raw"] / 6000 - weight) < 0.02
    assert abs(seen["otter"] - seen["llava"]) < 300


def test_each_row_gets_a_caption_of_its_own() -> None:
    for row, caption in enumerate(SampleCaption()(batch(50))["caption"]):
        assert caption.endswith(f" {row}"), caption


def test_nulls_and_blanks_are_never_drawn() -> None:
    rows = batch(200)
    rows["caption"] = ["  "] * 200
    rows["caption_otter"] = [None] * 200
    assert kinds(SampleCaption(raw_weight=0.9)(rows)["caption"]) == {"llava": 200}
    rows["caption_llava_1_5"] = [""] * 200
    rows["caption"] = ["raw"] * 200
    assert kinds(SampleCaption(raw_weight=0.0)(rows)["caption"]) == {"raw": 200}


def test_a_row_without_any_caption_is_none_or_an_error() -> None:
    rows = {"key": ["a", "b"], "caption": [None, "raw"], "caption_otter": ["", "otter"]}
    assert SampleCaption()(rows)["caption"][0] is None
    with pytest.raises(CaptionError, match="row 'a' has no caption"):
        SampleCaption(on_empty="raise")(rows)


def test_only_the_sources_are_dropped_and_pictures_are_left_alone() -> None:
    rows = {**batch(2), "image": [object(), object()], "label": [1, 2], "generated_otter": ["x", "y"]}
    given = copy.copy(rows)
    output = SampleCaption()(rows)
    assert list(output) == ["key", "url", "caption", "image", "label"]
    assert output["image"] is rows["image"]
    assert rows == given, "the input batch is not changed"
    kept = SampleCaption(keep_sources=True, output_column="text")(rows)
    assert {"caption_otter", "error_otter", "generated_otter", "text"} < set(kept)
    assert kept["caption"] == rows["caption"]


def test_columns_select_the_new_captions() -> None:
    seen = kinds(SampleCaption(columns=["caption_otter"])(batch(300))["caption"])
    assert set(seen) == {"raw", "otter"}
    with_raw = SampleCaption(columns=["caption", "caption_otter"], raw_weight=0.5)
    assert set(kinds(with_raw(batch(300))["caption"])) == {"raw", "otter"}
    assert kinds(SampleCaption(columns=["label"], raw_weight=0)({"label": ["x y"]})["caption"]) == {"x": 1}


def test_the_same_seed_draws_the_same_and_visits_differ() -> None:
    first, second = SampleCaption(seed=3), SampleCaption(seed=3)
    visits = [first(batch(40))["caption"] for _ in range(4)]
    assert visits == [second(batch(40))["caption"] for _ in range(4)]
    assert len({tuple(visit) for visit in visits}) == 4
    assert SampleCaption(seed=4)(batch(40))["caption"] != visits[0]


def test_with_an_epoch_set_a_draw_depends_on_seed_epoch_and_key_only() -> None:
    sample = SampleCaption()
    sample.set_epoch(0)
    forward = sample(batch(40))["caption"]
    backward = sample({name: values[::-1] for name, values in batch(40).items()})["caption"]
    assert backward[::-1] == forward
    sample.set_epoch(1)
    assert sample(batch(40))["caption"] != forward
    sample.set_epoch(0)
    assert sample(batch(40))["caption"] == forward


def test_rows_without_a_key_are_told_apart_by_their_captions() -> None:
    rows = batch(60)
    del rows["key"]
    sample = SampleCaption()
    sample.set_epoch(2)
    assert len(kinds(sample(rows)["caption"])) == 3


def test_one_example_gives_one_example() -> None:
    row = {name: values[0] for name, values in batch(1).items()}
    output = SampleCaption()(row)
    assert output["key"] == "k0"
    assert output["caption"] in ("raw 0", "otter 0", "llava 0")


def test_settings_are_frozen_pickle_and_hash_the_same_after_use() -> None:
    sample = SampleCaption(["caption_otter"], raw_weight=0.2, seed=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.seed = 1  # type: ignore[misc]
    before = Hasher.hash(sample)
    first = sample(batch(40))
    assert Hasher.hash(sample) == before
    assert Hasher.hash(SampleCaption(["caption_otter"], raw_weight=0.2, seed=8)) != before
    again = pickle.loads(pickle.dumps(sample))
    assert again == sample
    assert again(batch(40)) == first, "a copy starts from the first visit"


def test_bad_settings_and_batches_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="probability"):
        SampleCaption(raw_weight=1.5)
    with pytest.raises(UsageError, match="list of column names"):
        SampleCaption(columns="caption_otter")
    with pytest.raises(UsageError, match="on_empty"):
        SampleCaption(on_empty="ignore")  # type: ignore[arg-type]
    with pytest.raises(ColumnError, match="no column 'caption_\\*'; the data set has: key, caption"):
        SampleCaption()({"key": ["a"], "caption": ["b"]})
    with pytest.raises(ColumnError, match="caption_ottr"):
        SampleCaption(columns=["caption_ottr"])(batch())
    with pytest.raises(ColumnError, match="raw_weight=0"):
        SampleCaption(raw_weight=0.5)({"caption_otter": ["a"]})
    with pytest.raises(FormatError, match="row 1"):
        SampleCaption()({"caption": ["a", 3], "caption_otter": ["a", "b"]})


def dataset(n: int = 64) -> Dataset:
    return Dataset.from_dict(batch(n))


def epoch_of(loader: DataLoader[Any]) -> dict[str, str]:
    return {key: caption for part in loader for key, caption in zip(part["key"], part["caption"], strict=True)}


def collate(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def loader_of(sample: SampleCaption, workers: int, persistent: bool = False, shuffle: bool = False) -> DataLoader[Any]:
    rows: Any = dataset().with_transform(sample)
    return DataLoader(
        rows,
        batch_size=4,
        num_workers=workers,
        persistent_workers=persistent,
        shuffle=shuffle,
        collate_fn=collate,
    )


def test_set_transform_draws_anew_at_each_access_and_keeps_pictures() -> None:
    rows = batch(8)
    rows["image"] = [PilImage.new("RGB", (2, 2), (row, 0, 0)) for row in range(8)]
    data = Dataset.from_dict(rows).cast_column("image", Image())
    data.set_transform(SampleCaption())
    assert len({data[3]["caption"] for _ in range(40)}) == 3
    assert data[3]["image"].getpixel((0, 0)) == (3, 0, 0)
    assert len(data[:5]["caption"]) == 5


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_loader_workers_draw_independently_and_anew_in_every_epoch(persistent: bool, shuffle: bool) -> None:
    """Forked workers are copies: a shared generator would give them, and every epoch, the same draws."""

    def run() -> list[dict[str, str]]:
        torch.manual_seed(11)
        loader = loader_of(SampleCaption(seed=5), 2, persistent, shuffle)
        return [epoch_of(loader) for _ in range(3)]

    epochs = run()
    assert all(len(epoch) == 64 for epoch in epochs)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        same = sum(epochs[first][key] == epochs[second][key] for key in epochs[first])
        assert same < 40, f"epochs {first} and {second} agree on {same} of 64 rows, and should on about 21"
    # Batches go to the workers in turn: streams of two identical workers would agree batch by batch.
    kinds_in_order = [epochs[0][f"k{row}"].split()[0] for row in range(64)]
    left = [kind for row, kind in enumerate(kinds_in_order) if row // 4 % 2 == 0]
    right = [kind for row, kind in enumerate(kinds_in_order) if row // 4 % 2 == 1]
    assert left != right
    assert run() == epochs, "the same seeds give the same captions"


def test_with_set_epoch_the_number_of_workers_changes_nothing() -> None:
    drawn = []
    for workers in (0, 2):
        sample = SampleCaption(seed=5)
        loader = loader_of(sample, workers)
        epochs = []
        for epoch in range(2):
            sample.set_epoch(epoch)
            epochs.append(epoch_of(loader))
        drawn.append(epochs)
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


def test_persistent_workers_see_later_epochs() -> None:
    sample = SampleCaption(seed=5)
    loader = loader_of(sample, 2, persistent=True)
    epochs = []
    for epoch in (0, 1, 0):
        sample.set_epoch(epoch)
        epochs.append(epoch_of(loader))
    assert epochs[0] == epochs[2] != epochs[1]


def test_works_as_a_map_function_of_data_sets_and_streams() -> None:
    mapped = dataset(30).map(SampleCaption(), batched=True, batch_size=7)
    assert len(kinds(mapped["caption"])) == 3
    for options in ({"batched": True, "batch_size": 7}, {}):
        stream = dataset(30).to_iterable_dataset().map(SampleCaption(), **options)
        captions = [row["caption"] for row in stream]
        assert [caption.split()[1] for caption in captions] == [str(row) for row in range(30)]
        assert len(kinds(captions)) == 3


def test_set_epoch_reaches_the_copies_that_data_sets_make() -> None:
    sample = SampleCaption()
    copied = copy.deepcopy(sample)
    sample.set_epoch(3)
    rows = batch(40)
    assert copied(rows) == sample(rows) == copied(rows)
    drawn = copied(rows)
    sample.set_epoch(4)
    assert copied(rows) == sample(rows) != drawn
