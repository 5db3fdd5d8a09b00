"""What a data set's card says in numbers, counted over the configs column by column, never all rows at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.configs import captioner_name, config_name
from hf_mllm_aug.safe_text import plain, scrub, scrub_values

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH_ROWS = 50_000
_REASONS = 5


@dataclass
class ConfigFacts:
    """One row of the card's table. Word counts are means over the captions that are there."""

    name: str
    rows: int
    captions: int
    words: float | None
    words_generated: float | None = None
    failures: list[tuple[str, int]] = field(default_factory=list)
    captioner: dict[str, Any] = field(default_factory=dict)


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
    facts = []
    for name, splits in configs.items():
        rows = sum(len(dataset) for dataset in splits.values())
        captions, words = _words(splits.values(), schema.CAPTION)
        fact = ConfigFacts(name, rows, captions, words, captioner=described.get(name, {}))
        if name not in (schema.ALL_CONFIG, schema.RAW_CONFIG):
            fact.words_generated = _words(everything, schema.generated_column(name))[1]
            fact.failures = _reasons(everything, schema.error_column(name))
            missing = rows - captions - sum(count for _, count in fact.failures)
            if missing > 0:
                fact.failures.append(("no reason given", missing))
        facts.append(fact)
    return facts


def samples(configs: Mapping[str, Mapping[str, Dataset]], count: int) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Rows to show, spread over the first split: the key of each, and its caption in every config but `all`.

    Args:
        configs: The splits of each config, of equal rows in equal order.
        count: The most rows.

    Returns:
        For each row its key and its captions, each with its config's name.
    """
    shown = {name: next(iter(splits.values())) for name, splits in configs.items() if name != schema.ALL_CONFIG}
    shown = {n: d for n, d in shown.items() if {schema.KEY, schema.CAPTION} <= set(d.column_names)}
    lengths = {len(dataset) for dataset in shown.values()}
    if len(lengths) != 1 or not (length := lengths.pop()):
        return []
    picked = sorted({round(i * (length - 1) / max(1, count - 1)) for i in range(min(count, length))})
    parts = {n: d.select_columns([schema.KEY, schema.CAPTION]).select(picked)[:] for n, d in shown.items()}
    keys = next(iter(parts.values()))[schema.KEY]
    if any(part[schema.KEY] != keys for part in parts.values()):
        return []
    return [(key, [(n, part[schema.CAPTION][i]) for n, part in parts.items()]) for i, key in enumerate(keys)]


def _column(datasets: Iterable[Dataset], column: str) -> Iterator[Any]:
    for dataset in datasets:
        if column in dataset.column_names:
            for batch in dataset.select_columns([column]).with_format("arrow").iter(_BATCH_ROWS):
                yield batch.column(column)


def _words(datasets: Iterable[Dataset], column: str) -> tuple[int, float | None]:
    """How many texts a column has, and their mean number of words."""
    import pyarrow.compute as pc

    texts = words = 0
    for values in _column(datasets, column):
        present = pc.utf8_trim_whitespace(values.drop_null().cast("string"))
        texts += len(present)
        lengths = pc.list_value_length(pc.utf8_split_whitespace(pc.filter(present, pc.not_equal(present, ""))))
        words += pc.sum(lengths).as_py() or 0
    return texts, words / texts if texts else None


def _reasons(datasets: Iterable[Dataset], column: str) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for values in _column(datasets, column):
        for item in values.drop_null().value_counts().to_pylist():
            # A reason may begin with the name of its file; the reason itself is what can be counted.
            reason = plain(scrub(str(item["values"])), 200)
            head, colon, tail = reason.partition(": ")
            counts[plain(tail if colon and "." in head and " " not in head else reason, 80)] += item["counts"]
    common = counts.most_common(_REASONS)
    rest = sum(counts.values()) - sum(count for _, count in common)
    return [*common, ("other reasons", rest)] if rest else common
