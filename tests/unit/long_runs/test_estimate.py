"""What a run is measured to cost."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_mllm_aug import Augment, Captioner
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.long_runs import LongRun
from hf_mllm_aug.long_runs.estimate import measure
from tests.unit.long_runs.conftest import N_ROWS


def test_all_pictures_of_the_sample_are_counted(
    rows: Dataset, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = Augment(captioner, keep_unsheared=True)
    captioned = rows.map(augment, batched=True, features=augment.features(rows.features))
    columns = ("key", "generated_one", "caption_one")
    size = sum(len(text.encode()) for name in columns for text in captioned[name] if text is not None)
    defaults = LongRun.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "shard_size", 4)  # so that the sample is larger than a shard is by default
    found = measure(rows, captioner, shear=augment.shear, keep_unsheared=True, pictures=100)
    assert (found.captioner, found.pictures, found.failures) == ("one", N_ROWS, 1)
    assert found.bytes_per_row == pytest.approx(size / N_ROWS)
    assert found.images_per_second > 0
    assert found.hours(0) == 0


def test_a_few_pictures_from_all_over(rows: Dataset, captioner: Captioner) -> None:
    found = measure(rows, captioner, shear=None, keep_unsheared=False, pictures=2)
    assert (found.pictures, found.failures) == (2, 1), "rows 0 and 5"


def test_nothing_can_be_measured_on_no_rows(rows: Dataset, captioner: Captioner) -> None:
    with pytest.raises(UsageError, match=r"the data set has no rows: there is nothing to measure"):
        measure(rows.select(range(0)), captioner, shear=None, keep_unsheared=False, pictures=4)
