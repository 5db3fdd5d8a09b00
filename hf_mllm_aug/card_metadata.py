"""The YAML of a card: what the Hub searches, filters and warns by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.card_facts import ConfigFacts
from hf_mllm_aug.card_settings import HUB_ID, hub_id
from hf_mllm_aug.configs import config_metadata
from hf_mllm_aug.parquet_shards import WrittenSplit, published_features
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from datasets import Dataset

_TASKS = ["image-to-text", "text-to-image"]
_TAGS = ["image-captioning", "synthetic", "multimodal", "hf-mllm-aug", "arxiv:2311.18765"]
_SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_SIZES = [(10 ** (3 + i), name) for i, name in enumerate(_SIZE_NAMES)]
# The Hub's list (hub-docs, repositories-licenses.md); a name that is not on it makes it refuse the whole card.
# fmt: off
_LICENCES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research",
    "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr",
    "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other",
))
# fmt: on


def card_metadata(
    configs: Mapping[str, Mapping[str, Dataset]],
    facts: Sequence[ConfigFacts],
    *,
    title: str,
    source: str | None,
    license: str | None,  # noqa: A002 (the card's own word)
    languages: Sequence[str],
    tags: Sequence[str],
) -> dict[str, Any]:
    """The fields of a card, in the forms that the Hub's validation asks for.

    ``base_model`` is a field of model cards. In a data set's card the Hub lets it pass and makes nothing of it, as of
    any field that it does not know; it is written all the same, for programs that look for the data sets that a model
    wrote, and only with ids of the Hub, since that is what the field holds elsewhere. What people see are the links in
    the card's body.

    ``source_datasets`` holds ``original``, ``extended`` or ids of the Hub. A source in other words is said in the body
    alone.

    Args:
        configs: The splits of each config.
        facts: See `collect`.
        title: The ``pretty_name``.
        source: Where pictures and raw captions come from.
        license: The licence of the captions.
        languages: ISO 639 codes.
        tags: Further tags.

    Source: hub-docs, ``datasetcard.md`` and ``modelcard.md``.
    """
    models = dict.fromkeys(filter(None, (hub_id(fact.captioner) for fact in facts)))
    return {
        "pretty_name": plain(title, 200),
        **_licence(license),
        "language": list(languages),
        "task_categories": _TASKS,
        "size_categories": [size_category(max(fact.rows for fact in facts))],
        "annotations_creators": ["machine-generated"],
        "source_datasets": [source] if source and HUB_ID.fullmatch(source) else None,
        "base_model": list(models) or None,
        "tags": [*_TAGS, *(plain(tag, 100) for tag in tags)],
        **config_metadata(_unwritten(configs)),
    }


def with_template(own: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a card and those of its template: lists united, the template's first; else the card's own hold.

    >>> with_template({"license": None, "tags": ["a"]}, {"license": "other", "license_name": "x", "tags": ["b", "a"]})
    {'license': 'other', 'license_name': 'x', 'tags': ['b', 'a']}
    """
    merged = dict(template)
    if own.get("license") is not None:  # the name and the text of another licence do not belong to it
        merged = {name: value for name, value in merged.items() if not name.startswith("license")}
    for name, value in own.items():
        if isinstance(value, list) and isinstance(merged.get(name), list):
            merged[name] = list(dict.fromkeys([*merged[name], *value]))
        elif value is not None or name not in merged:
            merged[name] = value
    return merged


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows.

    >>> size_category(999), size_category(1000), size_category(2 * 10**12)
    ('n<1K', '1K<n<10K', 'n>1T')
    """
    above = [label for size, label in _SIZES if rows >= size]
    if not above:
        return "n<1K"
    if len(above) == len(_SIZES):
        return "n>1T"
    return f"{above[-1]}<n<{_SIZES[len(above)][1]}"


def _licence(name: str | None) -> dict[str, str | None]:
    """A licence as the Hub takes it: one of its list, or ``other`` and a name in small letters.

    >>> _licence("MIT"), _licence("Tongyi Qianwen License")
    ({'license': 'mit'}, {'license': 'other', 'license_name': 'tongyi-qianwen-license'})
    """
    if name is None or name.lower() in _LICENCES:
        return {"license": name and name.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")[:100] or "other"}


def _unwritten(configs: Mapping[str, Mapping[str, Dataset]]) -> dict[str, dict[str, WrittenSplit]]:
    """What is known of the files before they are written; `save_configs` puts the true sizes in."""
    return {
        name: {
            split: WrittenSplit(published_features(dataset.features), len(dataset), dataset.data.nbytes)
            for split, dataset in splits.items()
        }
        for name, splits in configs.items()
    }
