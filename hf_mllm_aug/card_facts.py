"""What a data set's card says of each config, counted column by column, never all rows at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.card_statistics import TextCounts, column, count_texts
from hf_mllm_aug.configs import captioner_name, config_name
from hf_mllm_aug.safe_text import plain, scrub, scrub_values

if TYPE_CHECKING:
    from datasets import Dataset

_THREADS = min(4, os.cpu_count() or 1)
_REASONS = 5


@dataclass
class ConfigFacts:
    """One config.

    Args:
        name: Its name.
        rows: Its rows.
        counts: Its captions in numbers; of `all`, its raw captions.
        generated: What its captioner wrote, before shearing; None where that was not kept.
        failures: Why captions are null, the most frequent reasons first, each with its number of rows.
        captioner: The settings of its captioner, as far as they are known.
        figure: The path of its plot in the repository; empty if there is none.
    """

    name: str
    rows: int
    counts: TextCounts
    generated: TextCounts | None = None
    failures: list[tuple[str, int]] = field(default_factory=list)
    captioner: dict[str, Any] = field(default_factory=dict)
    figure: str = ""

    @property
    def is_captioned(self) -> bool:
        """Whether a captioner wrote its captions."""
        return self.name not in (schema.ALL_CONFIG, schema.RAW_CONFIG)

    @property
    def failed(self) -> int:
        """Rows without a caption."""
        return self.rows - self.counts.texts


def describe(thing: object) -> dict[str, Any]:
    """The settings of a captioner or of a shearing: its ``describe()``, a dictionary, or its name.

    >>> describe("otter"), describe({"model": "/data/otter", "prompt": None})
    ({'model': 'otter'}, {'model': '…/otter'})
    """
    if isinstance(thing, Mapping):
        settings: dict[str, Any] = dict(thing)
    elif callable(getattr(thing, "describe", None)):
        settings = dict(thing.describe())  # type: ignore[attr-defined]
    else:
        settings = {"model": captioner_name(thing)}
    clean = scrub_values({key: value for key, value in settings.items() if value is not None})
    return dict(clean)


def collect(configs: Mapping[str, Mapping[str, Dataset]], captioners: Sequence[object] = ()) -> list[ConfigFacts]:
    """Count every config.

    Args:
        configs: The splits of each config; see `to_configs`.
        captioners: Whose settings to add: the config that bears a captioner's name gets them.

    Returns:
        The facts in the order of the configs. Reasons of failures and texts before shearing are in `all` alone, so they
        are counted there; the reasons are the most frequent ones and the sum of the rest.
    """
    described = {config_name(captioner_name(captioner)): describe(captioner) for captioner in captioners}
    everything = list(configs.get(schema.ALL_CONFIG, {}).values())
    # The raw captions of `all` are those of `raw`.
    names = [name for name in configs if name != schema.ALL_CONFIG or schema.RAW_CONFIG not in configs]
    with ThreadPoolExecutor(_THREADS) as pool:  # Arrow and NumPy count without Python's lock
        counts_of = pool.map(lambda name: count_texts(list(configs[name].values()), schema.CAPTION), names)
        counted = dict(zip(names, counts_of, strict=True))
    facts = []
    for name, splits in configs.items():
        rows = sum(len(dataset) for dataset in splits.values())
        counts = counted[name] if name in counted else counted[schema.RAW_CONFIG]
        fact = ConfigFacts(name, rows, counts, captioner=described.get(name, {}))
        if fact.is_captioned:
            generated = count_texts(everything, schema.generated_column(name), closely=False)
            fact.generated = generated if generated.texts else None
            fact.failures = _reasons(everything, schema.error_column(name))
            if (unexplained := fact.failed - sum(count for _, count in fact.failures)) > 0:
                fact.failures.append(("no reason given", unexplained))
        facts.append(fact)
    return facts


def raw_counts(facts: Sequence[ConfigFacts]) -> TextCounts | None:
    """The raw captions in numbers, if a config has them."""
    return next((fact.counts for fact in facts if not fact.is_captioned and fact.counts.texts), None)


def _reasons(datasets: Sequence[Dataset], name: str) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for values in column(datasets, name):
        for item in values.drop_null().value_counts().to_pylist():
            # A reason may begin with the name of its file; the reason itself is what can be counted.
            reason = plain(scrub(str(item["values"])), 200)
            head, colon, tail = reason.partition(": ")
            counts[plain(tail if colon and "." in head and " " not in head else reason, 80)] += item["counts"]
    common = counts.most_common(_REASONS)
    rest = sum(counts.values()) - sum(count for _, count in common)
    return [*common, ("other reasons", rest)] if rest else common
