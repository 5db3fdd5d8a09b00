"""A new card over the one that is published: nothing that another release or a person wrote is lost.

Each publisher knows its own configs only. So the metadata are merged config by config, the table row by row, and text
outside of this library's marks is kept as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.card import REPO_PLACEHOLDER

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

RECORD = "hf_mllm_aug"
"""Where a card's YAML keeps what made the captions (`Augment.describe`)."""

_BLOCK = re.compile(
    r"<!-- hf-mllm-aug:begin (?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- hf-mllm-aug:end (?P=name) -->", re.DOTALL
)
_ROW = re.compile(r'^<tr id="config-(?P<name>[^"]+)">.*</tr>\n', re.MULTILINE)


def with_repo_id(card: DatasetCard, repo_id: str) -> DatasetCard:
    """Put the repository's name into the code that this library wrote, where it was not known yet."""
    card.text = _BLOCK.sub(lambda block: block[0].replace(REPO_PLACEHOLDER, repo_id), card.text)
    return card


def merge_cards(published: DatasetCard | None, new: DatasetCard) -> DatasetCard:
    """Lay a new card over the published one.

    - Metadata: the new configs replace those of their names, the others stay. There is exactly one default: `all` when
      it arrives, and later the one that the published card names. Lists such as tags are united; of other fields
      a release with the config `all` renews those that it has, and one without it adds those that were missing.
    - Text: a release with the config `all` renews every block between marks. One without it only adds to a data set,
      and renews no more than its own rows of the table of configs. Everything outside of the marks stays. A card
      without marks, new or published, is a person's own: a new one replaces the text, a published one gets the blocks
      appended.

    Args:
        published: The card at the commit that the release builds upon; None if there is none.
        new: The release's card.

    Returns:
        The card to publish.
    """
    from huggingface_hub import DatasetCard

    if published is None:
        return new
    own = {str(config["config_name"]) for config in _listed(new, "configs")}
    order = (published, new) if schema.ALL_CONFIG in own else (new, published)
    data: dict[str, Any] = {name: value for card in order for name, value in _fields(card).items()}
    for name in ("tags", "language", "task_categories", "source_datasets"):
        if values := [*_listed(published, name), *_listed(new, name)]:
            data[name] = list(dict.fromkeys(values))
    data["configs"] = _merge_configs(_listed(published, "configs"), _listed(new, "configs"))
    data["dataset_info"] = _merge_named(_listed(published, "dataset_info"), _listed(new, "dataset_info"))
    if record := _merge_records(published.data.get(RECORD), new.data.get(RECORD)):
        data[RECORD] = record
    card = DatasetCard("---\n{}\n---\n", ignore_metadata_errors=True)
    for name, value in data.items():
        card.data[name] = value
    card.text = _merge_text(published.text, new.text, renew_all=schema.ALL_CONFIG in own)
    return card


def published_configs(card: DatasetCard | None) -> list[str]:
    """The names of a card's configs."""
    return [str(config.get("config_name")) for config in _listed(card, "configs")] if card else []


def _fields(card: DatasetCard) -> dict[str, Any]:
    return {name: value for name, value in card.data.__dict__.items() if value is not None}


def _listed(card: DatasetCard, name: str) -> list[Any]:
    value = card.data.get(name)
    return value if isinstance(value, list) else [value] if value else []


def _merge_named(published: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    merged = {str(item.get("config_name", "default")): dict(item) for item in published}
    for item in new:
        merged[str(item["config_name"])] = dict(item)
    return [
        {"config_name": name, **{k: v for k, v in item.items() if k != "config_name"}} for name, item in merged.items()
    ]


def _merge_configs(published: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged = _merge_named(published, new)
    names = [config["config_name"] for config in merged]
    before, ours = ({c.get("config_name") for c in configs} for configs in (published, new))
    arrives = bool(before) and schema.ALL_CONFIG in ours - before
    chosen = [schema.ALL_CONFIG] if arrives else [c["config_name"] for c in [*published, *new] if c.get("default")]
    # `datasets` takes a config of the name `default` for one, flag or no flag, and refuses two.
    default = "default" if "default" in names else next(iter(chosen), names[0] if names else None)
    for config in merged:
        config.pop("default", None)
        if config["config_name"] == default != "default":
            config["default"] = True
    return merged


def _merge_records(published: Any, new: Any) -> dict[str, Any]:
    """What made the captions, of both releases: a captioner by its name, the rest as the later one says."""
    old, fresh = (record if isinstance(record, dict) else {} for record in (published, new))
    captioners = [item for record in (old, fresh) for item in record.get("captioners") or [] if isinstance(item, dict)]
    named = {str(item.get("name")): item for item in captioners}
    return {**old, **fresh, **({"captioners": list(named.values())} if named else {})}


def _merge_text(published: str, new: str, *, renew_all: bool) -> str:
    blocks = {block["name"]: block for block in _BLOCK.finditer(new)}
    if not blocks or not published.strip():
        return new
    if not _BLOCK.search(published):
        return published.rstrip() + "\n\n" + new.lstrip()

    def renew(block: re.Match[str]) -> str:
        fresh = blocks.get(block["name"])
        if fresh is None:
            return block[0]
        if block["name"] == "configs":
            return _merge_rows(block[0], fresh[0], keep_rest=not renew_all)
        return fresh[0] if renew_all else block[0]

    return _BLOCK.sub(renew, published)


def _merge_rows(published: str, new: str, *, keep_rest: bool) -> str:
    """One table with the rows of both; the text around it is the published block's or the new one's."""
    rows = {row["name"]: row[0] for row in _ROW.finditer(published)}
    rows |= {row["name"]: row[0] for row in _ROW.finditer(new)}
    frame = published if keep_rest else new
    first = _ROW.search(frame)
    if first is None:
        return frame
    return frame[: first.start()] + "".join(rows.values()) + _ROW.sub("", frame[first.start() :])
