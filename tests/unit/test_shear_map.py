"""`Shear` on data sets: columns, `map`, fingerprints, and what the card is told."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
from typing import Any

import pytest

from hf_mllm_aug.errors import ColumnError
from hf_mllm_aug.shearing import Shear, shear
from tests.warm_python import python

ROWS: dict[str, list[Any]] = {
    "key": ["0", "1", "2"],
    "caption": ["raw one.", "raw two words.", None],
    "caption_otter": ["A dog. It runs.", None, "A 3.5 inch disk. It is black."],
    "caption_tiny_llava": ["A cat on St. James St. It", "0", "x y z w"],
}


def test_shear_takes_every_captioners_column_and_never_the_raw_one() -> None:
    assert Shear()(ROWS) == {
        "caption_otter": ["A dog", None, "A 3.5 inch disk"],
        "caption_tiny_llava": ["A cat on St. James St", "0", "x y z w"],
    }
    example = {column: values[0] for column, values in ROWS.items()}
    assert Shear("caption_otter")(example) == {"caption_otter": "A dog"}
    assert Shear(["caption"])(example) == {"caption": "raw one"}  # type: ignore[arg-type]


def test_raw_rule_reads_the_reference_column_and_leaves_rows_without_one() -> None:
    assert Shear(rule="raw")(ROWS)["caption_tiny_llava"] == ["A cat", "0", "x y z w"]
    assert Shear(rule="raw").one("a b c") == "a b c"
    assert Shear(rule="raw", reference_column="key")(ROWS)["caption_otter"] == ["A", None, "A"]


def test_missing_columns_are_named() -> None:
    with pytest.raises(ColumnError, match="no column 'caption_qwen_vl'; the data set has: key, caption"):
        Shear("caption_qwen_vl")(ROWS)
    with pytest.raises(ColumnError, match=r"caption_\*"):
        Shear()({"key": ["0"], "caption": ["x"]})
    with pytest.raises(ColumnError, match="reference_column="):
        Shear(rule="raw", reference_column="alt")(ROWS)


def test_map_gives_the_same_rows_batched_single_parallel_and_streaming() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({column: datasets.Value("string") for column in ROWS})
    rows = datasets.Dataset.from_dict({column: values * 5 for column, values in ROWS.items()}, features=features)
    expected = Shear()({column: values * 5 for column, values in ROWS.items()})["caption_otter"]
    single = rows.map(Shear(), features=features)
    batched = rows.map(Shear(), batched=True, batch_size=4, features=features)
    parallel = rows.map(Shear(), batched=True, num_proc=2, features=features)
    stream = rows.to_iterable_dataset().map(Shear(), batched=True, batch_size=2)
    assert single["caption_otter"][:] == batched["caption_otter"][:] == parallel["caption_otter"][:] == expected
    assert [row["caption_otter"] for row in stream] == expected
    formatted = rows.with_format("numpy").map(Shear(), batched=True, features=features)
    assert formatted.with_format(None)["caption_otter"][:] == expected


HASH = """
import sys
from datasets.fingerprint import Hasher
from hf_mllm_aug.shearing import Shear
shear = Shear(max_words=7, tokenizer=sys.argv[1] or None)
if len(sys.argv) > 2:
    shear.one("A dog. It")
print(Hasher.hash(shear))
"""


def test_fingerprint_depends_on_settings_and_code_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = pytest.importorskip("datasets.fingerprint").Hasher
    here = hasher.hash(Shear(max_words=7))
    for arguments in ([""], ["", "used"]):
        there = subprocess.run([*python(), "-c", HASH, *arguments], capture_output=True, text=True, check=True).stdout
        assert there.strip() == here
    assert hasher.hash(Shear(max_words=8)) != here
    assert hasher.hash(Shear(rule="seed", max_words=7)) != here
    newer = Shear(max_words=7)
    object.__setattr__(newer, "code_version", newer.code_version + 1)
    assert hasher.hash(newer) != here


def test_fingerprint_with_a_tokenizer_object_survives_use(tokenizer: Any) -> None:
    hasher = pytest.importorskip("datasets.fingerprint").Hasher
    limited = Shear(max_tokens=2, tokenizer=tokenizer)
    before = hasher.hash(limited)
    limited.one("a dog on the grass")
    assert hasher.hash(limited) == before


def test_describe_tells_the_card_what_was_done(tokenizer: Any) -> None:
    assert Shear().describe() == {"rule": "sentence", "version": 2, "language": "en", "sentencex": sentencex_version()}
    assert Shear(rule="raw", max_tokens=3, tokenizer="gpt2", trim_tail=True).describe() == {
        "rule": "raw",
        "version": 2,
        "reference_column": "caption",
        "max_tokens": 3,
        "tokenizer": "gpt2",
        "trim_tail": True,
    }
    assert Shear(max_tokens=3, tokenizer=tokenizer).describe()["tokenizer"]


def sentencex_version() -> str:
    from importlib.metadata import version

    return version("sentencex")


def test_only_the_sentence_rule_lets_a_decoder_stop() -> None:
    assert [Shear(rule=rule).stops_at_sentence for rule in ("sentence", "raw", "seed")] == [True, False, False]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Shear().rule = "raw"  # type: ignore[misc]


@pytest.mark.parametrize("reference", ["", "  \n"])
def test_a_blank_raw_caption_leaves_the_text_as_a_null_one_does(reference: str) -> None:
    text = "A red bus. It is big."
    assert shear(text, rule="raw", reference=reference) == text
    assert Shear(rule="raw").one(text, reference) == Shear(rule="raw").one(text, None) == text
    assert shear(text, rule="raw", reference=reference, max_words=2) == "A red"


def test_fingerprint_sees_the_version_of_sentencex_and_equality_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = pytest.importorskip("datasets.fingerprint").Hasher
    before = [hasher.hash(Shear(rule=rule)) for rule in ("sentence", "seed")]
    shown = repr(Shear())
    monkeypatch.setattr("hf_mllm_aug.shearing.installed_version", lambda name: "0.0.1")
    after = [hasher.hash(Shear(rule=rule)) for rule in ("sentence", "seed")]
    assert after[0] != before[0]
    assert after[1] == before[1]
    copied = pickle.loads(pickle.dumps(Shear(max_words=3)))
    assert copied == Shear(max_words=3)
    assert vars(copied) == vars(Shear(max_words=3))
    assert repr(Shear()) == shown
