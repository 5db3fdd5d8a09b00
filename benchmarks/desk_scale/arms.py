"""The rows of the study's table: which captions a picture has in each, and how one of them is drawn at a visit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from benchmarks.desk_scale.captions import MINIATURES
from hf_mllm_aug import SampleCaption, schema, shear

SHEARED, UNSHEARED, RAW_LENGTH, SHUFFLED = "sheared", "unsheared", "raw_length", "shuffled"


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Args:
        name: In results and file names.
        title: In the table.
        captioners: The miniatures whose captions are used.
        form: What of them: sheared (the first sentence), unsheared, cut to the raw caption's number of words, or
            sheared and given to other pictures at random.
        with_raw: Whether the raw caption is among those that are drawn.
    """

    name: str
    title: str
    captioners: tuple[str, ...] = MINIATURES
    form: str = SHEARED
    with_raw: bool = True

    @property
    def sampler_weight(self) -> float | None:
        """`SampleCaption`'s ``raw_weight``: every caption of a picture the same chance, as in the paper."""
        if not self.captioners:
            return 1.0
        return None if self.with_raw else 0.0


ARMS = (
    Arm("raw", "raw captions only", ()),
    *(Arm(name, f"raw + {name}", (name,)) for name in MINIATURES),
    Arm("two", "raw + two MLLMs", MINIATURES[:2]),
    Arm("three", "raw + three MLLMs", MINIATURES[:3]),
    Arm("four", "raw + four MLLMs"),
    Arm("four-unsheared", "raw + four MLLMs, not sheared", form=UNSHEARED),
    Arm("four-raw-length", "raw + four MLLMs, sheared to the raw length", form=RAW_LENGTH),
    Arm("four-no-raw", "four MLLMs instead of raw", with_raw=False),
    Arm("four-shuffled", "raw + four MLLMs, of other pictures (control)", form=SHUFFLED),
)


def captions(arm: Arm, rows: Dataset) -> dict[str, list[str | None]]:
    """The columns that an arm's captions are drawn from: key, the raw caption and one for each captioner.

    Args:
        arm: The row of the table.
        rows: The config ``all`` of the staged data set.
    """
    columns = {schema.KEY: rows[schema.KEY][:], schema.CAPTION: rows[schema.CAPTION][:]}
    for number, name in enumerate(arm.captioners):
        source = schema.caption_column(name) if arm.form in (SHEARED, SHUFFLED) else schema.generated_column(name)
        texts: list[str | None] = rows[source][:]
        if arm.form == RAW_LENGTH:
            raw = columns[schema.CAPTION]
            texts = [text and shear(text, rule="raw", reference=own) for text, own in zip(texts, raw, strict=True)]
        elif arm.form == SHUFFLED:
            texts = [texts[row] for row in np.random.default_rng(number).permutation(len(texts))]
        columns[schema.caption_column(name)] = texts
    return columns


def draw(arm: Arm, columns: Mapping[str, list[str | None]], *, seed: int, epoch: int) -> list[str | None]:
    """The caption of every picture at one visit, by the library's sampler."""
    sampler = SampleCaption(raw_weight=arm.sampler_weight, seed=seed)
    sampler.set_epoch(epoch)
    drawn: list[str | None] = sampler(columns)[schema.CAPTION]
    return drawn
