"""A card less some of its configs: for a config that is deleted, and for a release of some configs of a folder."""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.card_marks import BLOCK, CAPTIONER_BLOCK, RECORD, ROW, WRITTEN, rewrite
from hf_mllm_aug.card_merge import as_list, listed, published_configs
from hf_mllm_aug.configs import captioner_name, config_name, default_config
from hf_mllm_aug.staged_files import owner_of
from hf_mllm_aug.staging import FIGURES

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

NEWER = "newer_than_all"
"""Where a card's record names the configs whose captions `all` lacks; see `card_staleness`."""

_SAMPLE = re.compile(r'<p dir="auto"><code>(?P<name>[^<]+)</code>.*?</p>', re.DOTALL)
# What shows a figure, with all that belongs to it; and a picture that stands alone.
_SHOWS = re.compile(
    r"<(?P<tag>figure|picture)\b.*?</(?P=tag)>\n?|<img\b[^>]*>\n?|!\[[^\]\n]*\]\([^)\s]*\)\n?",
    re.DOTALL | re.IGNORECASE,
)
_FIGURE = re.compile(rf"{FIGURES}/[A-Za-z0-9._+-]+")
_LOADS = re.compile(r'(?P<call>load_dataset\("[^"\n]*", )"(?P<name>[^"\n]*)"')


def without_configs(card: DatasetCard, names: Collection[str]) -> DatasetCard:
    r"""A card less the configs of some names.

    Their metadata, rows of the table, blocks, samples and figures go, and code between this library's marks that loads
    one of them loads another. If the default goes, `all` or the first that is left takes its place. What people wrote
    stays, outside of the marks and in fields of their own.

    Args:
        card: The card; it is not changed.
        names: The configs that go.

    Returns:
        Another card.

    >>> from huggingface_hub import DatasetCard
    >>> yaml = "configs: [{config_name: raw, default: true}, {config_name: otter}]"
    >>> dict(without_configs(DatasetCard("---\n" + yaml + "\n---\nMine"), ["raw"]).data.configs[0])
    {'config_name': 'otter', 'default': True}
    """
    from huggingface_hub import DatasetCard

    every = published_configs(card)
    rest = [name for name in every if name not in names]
    less = DatasetCard("---\n{}\n---\n", ignore_metadata_errors=True)
    for field, value in vars(card.data).items():
        less.data[field] = value
    configs = [dict(item) for item in listed(card, "configs") if str(item.get("config_name", "default")) not in names]
    if configs and not any(item.get("default") or item.get("config_name") == "default" for item in configs):
        default = default_config(rest)
        for item in configs:
            if item.get("config_name", "default") == default:
                item["default"] = True
    less.data["configs"] = configs
    less.data["dataset_info"] = [
        item for item in listed(card, "dataset_info") if str(item.get("config_name", "default")) not in names
    ]
    if isinstance(record := card.data.get(RECORD), dict):
        less.data[RECORD] = _less_record(record, names)
    gone = {CAPTIONER_BLOCK + name for name in names if name in every}
    written = card.data.get(WRITTEN)
    if isinstance(written, dict) and isinstance(blocks := written.get("blocks"), dict):
        less.data[WRITTEN] = {**written, "blocks": {n: digest for n, digest in blocks.items() if n not in gone}}
    less.text = card.text
    return rewrite(less, BLOCK.sub(lambda block: _less_block(block, every, rest), card.text))


def without_figures(card: DatasetCard, paths: Collection[str]) -> DatasetCard:
    """Take figures out of a card, where this library's marks are around them.

    Args:
        card: The card; changed in place.
        paths: The figures.
    """

    def unless_gone(shown: re.Match[str]) -> str:
        return "" if any(figure in paths for figure in _FIGURE.findall(shown[0])) else shown[0]

    return rewrite(card, BLOCK.sub(lambda block: _SHOWS.sub(unless_gone, block[0]), card.text))


def _less_record(record: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    less = dict(record)
    if isinstance(captioners := record.get("captioners"), list):
        less["captioners"] = [
            item for item in captioners if not isinstance(item, dict) or config_name(captioner_name(item)) not in names
        ]
    newer = [name for name in as_list(record.get(NEWER)) if name not in names]
    less.pop(NEWER, None)
    if newer and schema.ALL_CONFIG not in names:
        less[NEWER] = newer
    return less


def _less_block(block: re.Match[str], every: Collection[str], rest: Collection[str]) -> str:
    def gone(name: str | None) -> bool:
        return name in every and name not in rest

    def unless_gone(named: re.Match[str]) -> str:
        return "" if gone(html.unescape(named["name"])) else named[0]

    def unless_figures_gone(shown: re.Match[str]) -> str:
        owners = [owner_of(figure, every) for figure in _FIGURE.findall(shown[0])]
        return "" if owners and all(map(gone, owners)) else shown[0]

    def load(call: re.Match[str]) -> str:
        other = next((n for n in rest if n not in (schema.ALL_CONFIG, schema.RAW_CONFIG)), next(iter(rest), ""))
        return f'{call["call"]}"{other if gone(call["name"]) else call["name"]}"'

    if block["name"].startswith(CAPTIONER_BLOCK) and gone(block["name"].removeprefix(CAPTIONER_BLOCK)):
        return ""
    text = _SAMPLE.sub(unless_gone, ROW.sub(unless_gone, block[0]))
    return _LOADS.sub(load, _SHOWS.sub(unless_figures_gone, text))
