"""Captions find their pictures: in the pictures' order, none at the wrong one, and what does not match is counted."""

from __future__ import annotations

import logging
import pickle
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, Value, load_dataset

from hf_mllm_aug.errors import ColumnError, UsageError
from hf_mllm_aug.loaders import join
from hf_mllm_aug.loaders.join import CaptionIndex, join_captions
from tests.warm_python import python

NOT_A_PICTURE = b"no decoder would take this"


def pictures(keys: Sequence[str | None]) -> Dataset:
    columns = {
        "key": keys,
        "image": [{"bytes": NOT_A_PICTURE, "path": f"{key}.jpg"} for key in keys],
        "url": [f"https://example.org/{key}" for key in keys],
    }
    features = Features({"key": Value("string"), "image": Image(decode=False), "url": Value("string")})
    return Dataset.from_dict(columns, features=features)


def published(captions: dict[str, str | None] | list[tuple[str | None, str | None]]) -> Dataset:
    pairs = list(captions.items()) if isinstance(captions, dict) else captions
    columns = {
        "key": [key for key, _ in pairs],
        "url": [f"https://example.org/{key}" for key, _ in pairs],
        "caption": [caption for _, caption in pairs],
    }
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Value("string"))))


@pytest.fixture(params=["mapped", "streamed"])
def form(request: pytest.FixtureRequest) -> Callable[[Dataset], Any]:
    """The pictures as a `Dataset` or as a stream of three shards."""
    if request.param == "mapped":
        return lambda rows: rows
    return lambda rows: rows.to_iterable_dataset(num_shards=min(3, len(rows)))


def joined(images: Any, captions: Any, column: str = "caption_otter", **options: Any) -> list[Any]:
    rows = join_captions(images, captions, column=column, **options)
    assert type(rows) is type(images)
    return [(row["key"], row[column]) for row in rows]


def test_rows_stay_in_the_pictures_order_with_what_they_had(form: Callable[[Dataset], Any]) -> None:
    images = pictures(["c", "a", "d", "b"])
    captions = published({"a": "ay", "b": "bee", "c": "sea", "d": None, "e": "unused"})
    for source in (captions, captions.to_iterable_dataset(), captions.shuffle(seed=1)):
        rows = join_captions(form(images), source, column="caption_otter")
        assert rows.column_names == ["key", "image", "url", "caption_otter"]
        assert rows.features == Features({**images.features, "caption_otter": Value("string")})
        found = list(rows)
        assert [row.pop("caption_otter") for row in found] == ["sea", "ay", None, "bee"]
        assert found == list(images)


def test_pictures_are_not_decoded_and_their_format_stays(form: Callable[[Dataset], Any]) -> None:
    images = pictures(["a", "b"]).cast_column("image", Image(decode=True))
    rows = join_captions(form(images), published({"a": "x"}), column="caption_otter")
    assert rows.features["image"] == Image(decode=True)
    assert [row["caption_otter"] for row in rows.cast_column("image", Image(decode=False))] == ["x", None]
    mapped = join_captions(images.with_format("numpy", columns=["key"]), published({"a": "x"}), column="caption_otter")
    assert mapped.format["type"] == "numpy"


def test_a_picture_without_captions_is_null_or_left_out_and_counted(
    form: Callable[[Dataset], Any], caplog: pytest.LogCaptureFixture
) -> None:
    images = form(pictures(["a", "x", None, "b", "y", "z"]))
    captions = published([("a", "ay"), ("b", None), (None, "of nobody")])
    left = [("a", "ay"), ("x", None), (None, None), ("b", None), ("y", None), ("z", None)]
    assert joined(images, captions) == left
    assert "have a key that the captions lack: 'x'" in caplog.text
    assert joined(images, captions, how="inner") == [("a", "ay"), ("b", None)], "a failed caption is a match"


def test_misses_are_counted_with_examples(caplog: pytest.LogCaptureFixture) -> None:
    keys = [str(number) for number in range(1000)]
    captions = published({key: key for key in keys if int(key) % 2 == 0})
    joined(pictures(keys), captions)
    assert "pictures: 500 of 1,000 rows have a key that the captions lack: '1', '3', '5' ..." in caplog.text
    caplog.clear()
    joined(pictures(keys).to_iterable_dataset(), captions)
    counts = [record.message.split(" of ")[0] for record in caplog.records]
    assert counts == ["pictures: 50", "pictures: 100"], "a stream says it at the first and at each more digit"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        joined(pictures(keys[:10:2]), captions)
    assert "captions: 495 of 500 rows belong to none of the pictures" in caplog.text
    assert "lack" not in caplog.text


def test_of_captions_that_repeat_a_key_the_first_is_taken_and_they_are_counted(
    form: Callable[[Dataset], Any], caplog: pytest.LogCaptureFixture
) -> None:
    captions = published([("b", "first b"), ("a", "first a"), ("b", "second b"), ("a", "second a"), ("b", "third")])
    assert joined(form(pictures(["a", "b"])), captions) == [("a", "first a"), ("b", "first b")]
    assert (
        "captions: 3 of 5 rows repeat the key of an earlier row, whose captions are taken: 'b', 'a', 'b'" in caplog.text
    )


def test_pictures_that_repeat_a_key_all_get_its_captions(form: Callable[[Dataset], Any]) -> None:
    assert joined(form(pictures(["a", "b", "a"])), published({"a": "x"})) == [("a", "x"), ("b", None), ("a", "x")]


def test_pictures_with_keys_of_their_own_are_joined_by_url(form: Callable[[Dataset], Any]) -> None:
    captions = published({"a": "ay", "b": "bee"})
    own = pictures(["b", "a"]).remove_columns("key").add_column("key", ["0001", "0002"])
    assert joined(form(own), captions, on="url") == [("0001", "bee"), ("0002", "ay")]


def test_where_nothing_matches_both_sides_are_shown() -> None:
    with pytest.raises(
        UsageError, match=r"the pictures have '0', '1', '2' \.\.\., the captions '000' \.\.\.\. Join on"
    ):
        join_captions(pictures(["0", "1", "2", "3"]), published({"000": "x", "001": "y"}), column="caption_otter")


def test_keys_with_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_hash", lambda key: len(key or "") % 3)
    keys = [f"{'x' * (n % 7)}{n}" for n in range(60)]
    index = CaptionIndex(published({key: key for key in keys}).remove_columns(["url"]), "key")
    assert index.find([*reversed(keys), "not there", None, "xx"]).tolist() == [*reversed(range(60)), -1, -1, -1]


@pytest.mark.parametrize("how", ["left", "inner"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_join_that_a_dictionary_makes(seed: int, how: Any, form: Callable[[Dataset], Any]) -> None:
    draw = random.Random(seed)
    some = [None, "", *(f"{n}" for n in range(200))]
    keys, pairs = (
        draw.choices(some, k=150),
        list(zip(draw.choices(some, k=150), draw.choices(some, k=150), strict=True)),
    )
    first: dict[str, str | None] = {}
    for key, caption in pairs:
        if key is not None:
            first.setdefault(key, caption)
    kept = [key for key in keys if how == "left" or key in first]
    assert 0 < len(first) < len(pairs)
    assert len(kept) < len(keys) or how == "left"
    expected = [(key, None if key is None else first.get(key)) for key in kept]
    assert joined(form(pictures(keys)), published(pairs), how=how) == expected


def test_a_stream_of_pythons_rows_may_hold_nulls_anywhere() -> None:
    images = (
        pictures([None, None, "a", None]).remove_columns("url").add_column("url", [None, "https://a.b", None, None])
    )
    stream = IterableDataset.from_generator(images.__iter__, features=images.features)
    assert joined(stream, published({"a": "ay"})) == [(None, None), (None, None), ("a", "ay"), (None, None)]


def test_a_stream_in_which_nothing_matches_has_its_columns_all_the_same() -> None:
    for keys in (["x"], [None], ["x"] * 250):
        images = pictures(keys).to_iterable_dataset()
        for captions in (published({}), published({"a": "ay"})):
            assert joined(images, captions) == [(key, None) for key in keys]
            assert joined(images, captions, how="inner") == []


def test_selected_and_empty_pictures_are_joined_too() -> None:
    images = pictures(["a", "b", "c"])
    captions = published({"a": "ay", "c": "sea"})
    assert joined(images.select([2, 0]), captions) == [("c", "sea"), ("a", "ay")]
    assert joined(images.select([]), captions) == []


# --- which column


def test_a_config_names_its_column_and_all_keeps_the_names(tmp_path: Path) -> None:
    from hf_mllm_aug import save_configs, to_configs

    rows = Dataset.from_dict(
        {"key": ["a", "b"], "url": [None, None], "caption": ["raw a", "raw b"]}
        | {"caption_llava_1_5": ["la", "lb"], "caption_otter": ["oa", None]},
        features=Features(
            dict.fromkeys(["key", "url", "caption", "caption_llava_1_5", "caption_otter"], Value("string"))
        ),
    )
    save_configs(to_configs(rows), tmp_path / "release")
    release, images = str(tmp_path / "release"), pictures(["b", "a"])
    one = join_captions(images, release, config="llava-1.5")
    assert one["caption_llava_1_5"][:] == ["lb", "la"]
    everything = join_captions(images, release)
    assert everything.column_names[3:] == ["caption_llava_1_5", "caption_otter"]
    assert everything["caption_otter"][:] == [None, "oa"]
    assert join_captions(images, release, column="caption_otter").column_names[3:] == ["caption_otter"]
    loaded = load_dataset(release, "otter", split="train")
    assert join_captions(images, loaded)["caption_otter"][:] == [None, "oa"]
    assert join_captions(images, release, config="raw")["caption"][:] == ["raw b", "raw a"]


def test_what_cannot_be_joined_is_refused_before_any_work() -> None:
    images, captions = pictures(["a"]), published({"a": "x"})
    with pytest.raises(UsageError, match="name the new column, such as column='caption_otter'"):
        join_captions(images, captions)
    with pytest.raises(UsageError, match="have a column 'url' already"):
        join_captions(images, captions, column="url")
    with pytest.raises(ColumnError, match="no column 'key'; the data set has: url, caption"):
        join_captions(images, captions.remove_columns("key"), column="c")
    with pytest.raises(ColumnError, match=r"no column 'url'.*that of the images"):
        join_captions(images.remove_columns("url"), captions, on="url", column="c")
    with pytest.raises(ColumnError, match="no column 'caption'"):
        join_captions(images, captions.remove_columns("caption"), column="c")
    with pytest.raises(UsageError, match="of one split, not splits: train, test"):
        join_captions(images, DatasetDict(train=captions, test=captions), column="c")
    with pytest.raises(UsageError, match="on='caption': choose 'key' or 'url'"):
        join_captions(images, captions, on="caption")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="how='outer'"):
        join_captions(images, captions, how="outer")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="config= is for"):
        join_captions(images, captions, config="otter")


# --- size and processes


def test_a_joined_stream_travels_to_another_process(tmp_path: Path) -> None:
    published({"a": "ay", "b": "bee"}).save_to_disk(tmp_path / "captions")
    captions = Dataset.load_from_disk(str(tmp_path / "captions"))
    stream = join_captions(pictures(["b", "x", "a"]).to_iterable_dataset(), captions, column="c")
    (tmp_path / "stream.pickle").write_bytes(pickle.dumps(stream))
    code = "import pickle, sys; print([r['c'] for r in pickle.load(open(sys.argv[1], 'rb'))])"
    command = [*python(), "-c", code, str(tmp_path / "stream.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['bee', None, 'ay']", done.stderr[-2000:]


def test_the_index_takes_twelve_bytes_a_caption() -> None:
    keys = [f"{number:09d}" for number in range(50_000)]
    random.Random(0).shuffle(keys)
    index = CaptionIndex(Dataset.from_dict({"key": keys, "c": keys}), "key")
    assert index.nbytes == 12 * 50_000
    assert index.find(keys[::1000]).tolist() == list(range(0, 50_000, 1000))


def test_keys_that_name_other_pictures_among_the_captions_are_refused(form: Callable[[Dataset], Any]) -> None:
    """img2dataset counts its samples: another list, subset or shard size gives the same numbers to other pictures."""
    numbers = [f"{number:09d}" for number in range(3)]
    images = Dataset.from_dict({"key": numbers, "url": [f"https://a.b/{i}.jpg?token=secret" for i in range(3)]})
    columns = {"key": numbers, "url": [f"https://a.b/{2 - i}.jpg?token=secret" for i in range(3)]}
    captions = Dataset.from_dict({**columns, "caption": ["two", "one", "nought"]})
    with pytest.raises(UsageError, match=r"same keys, other addresses: .*'000000000'.*a\.b/0\.jpg.*on='url'") as raised:
        list(join_captions(form(images), captions, column="caption_otter"))
    assert "secret" not in str(raised.value)
    rows = join_captions(form(images), captions, on="url", column="caption_otter")
    assert [row["caption_otter"] for row in rows] == ["nought", "one", "two"]


def test_addresses_that_are_null_on_a_side_are_not_compared(form: Callable[[Dataset], Any]) -> None:
    features = Features({"key": Value("string"), "url": Value("string")})
    images = Dataset.from_dict({"key": ["a", "b"], "url": [None, "https://a.b/b.jpg"]}, features=features)
    captions = Dataset.from_dict({"key": ["b", "a"], "url": [None, "https://a.b/a.jpg"], "caption": ["bee", "ay"]})
    assert joined(form(images), captions) == [("a", "ay"), ("b", "bee")]
