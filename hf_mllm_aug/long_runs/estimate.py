"""What a long run will cost: a few of its pictures are captioned, and the rest is taken to go on like them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_mllm_aug import schema
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.long_runs.long_run import LongRun
from hf_mllm_aug.long_runs.shard_files import KEY

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mllm_aug import Captioner, Shear

_WARM_UP = 8  # pictures, at most


@dataclass(frozen=True)
class Estimate:
    """What a captioner does with a few pictures.

    Args:
        captioner: Its label.
        images_per_second: After the model was loaded and warm.
        failures: Of the pictures.
        pictures: How many there were.
        bytes_per_row: Of the captions and keys, before compression.
    """

    captioner: str
    images_per_second: float
    failures: int
    pictures: int
    bytes_per_row: float

    def hours(self, rows: int) -> float:
        """How long so many rows take on a machine like this one.

        >>> Estimate("tiny-llava", 50.0, 0, 32, 80.0).hours(1_800_000)
        10.0
        """
        return rows / self.images_per_second / 3600


def measure(
    dataset: Dataset, captioner: Captioner, *, shear: Shear | None, keep_unsheared: bool, pictures: int
) -> Estimate:
    """Caption some pictures from all over a data set, in a run of their own that is not kept.

    Args:
        dataset: The rows.
        captioner: Who captions.
        shear: As in `run`.
        keep_unsheared: As in `run`.
        pictures: How many, at most.

    Raises:
        UsageError: The data set has no rows.
    """
    if not len(dataset):
        raise UsageError("the data set has no rows: there is nothing to measure")
    count = min(pictures, len(dataset))
    sample = dataset.select([number * len(dataset) // count for number in range(count)])
    with tempfile.TemporaryDirectory(prefix="hf-mllm-aug-plan-") as folder:

        def run_in(name: str, rows: Dataset) -> LongRun:
            return LongRun(
                rows,
                captioner,
                f"{folder}/{name}",
                shear=shear,
                keep_unsheared=keep_unsheared,
                shard_size=len(rows),  # one shard, whose table holds all of them
            )

        # The first pictures load the model, and on a GPU make it choose its kernels.
        run_in("warm-up", sample.select(range(min(count, _WARM_UP)))).work(progress=False)
        run = run_in("timed", sample)
        summary, job = run.work(progress=False), run.job
        table = job.shards.read(job.stages[0], 0)
    (member,) = run.members
    stage = schema.slug(member.label)
    columns = [] if table is None else [table[name].to_pylist() for name in (KEY, "generated", "caption")]
    return Estimate(
        captioner=member.label,
        images_per_second=summary.images_per_second,
        failures=summary.failures[stage].total(),
        pictures=count,
        bytes_per_row=sum(len(text.encode()) for texts in columns for text in texts if text is not None) / count,
    )
