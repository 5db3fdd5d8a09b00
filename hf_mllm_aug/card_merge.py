"""A new card over the one that is published: nothing that another release or a person wrote is lost.

Each publisher knows its own configs only. So the metadata are merged config by config, the table row by row, the
blocks about captioners one by one, and text outside of this library's marks is kept as it stands. What people changed
inside of the marks, or in a field, since the release before is theirs from then on: the card itself says what that
release wrote there (see `card_marks`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.card_marks import (
    BLOCK,
    CAPTIONER_BLOCK,
    CONFIGS_BLOCK,
    REPO_PLACEHOLDER,
    ROW,
    WRITTEN,
    digest,
    digests,
    fields,
    rewrite,
    written,
)
from hf_mllm_aug.card_marks import RECORD as RECORD

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

_LISTS = (
    "annotations_creators",
    "base_model",
    "language",
    "language_creators",
    "source_datasets",
    "tags",
    "task_categories",
)
_LICENCE = "license"
_HEADING = "## Captioners"


def with_repo_id(card: DatasetCard, repo_id: str) -> DatasetCard:
    """Put the repository's name into the code that this library wrote, where it was not known yet."""
    return rewrite(card, BLOCK.sub(lambda block: block[0].replace(REPO_PLACEHOLDER, repo_id), card.text))


def merge_cards(published: DatasetCard | None, new: DatasetCard) -> DatasetCard:
    """Lay a new card over the published one.

    - Metadata: the new configs replace those of their names, the others stay. There is exactly one default: `all` when
      it arrives, and later the one that the published card names. Lists such as tags are united, less what people took
      out of them. Of other fields a release with the config `all` renews those that it has, and one without it adds
      those that were missing; a field that people changed stays as they have it.
    - Text: a release with the config `all` renews every block between marks that people did not change. One without it
      only adds to a data set: its own rows of the table of configs, and the blocks about its captioners. Everything
      outside of the marks stays, and a block whose marks were taken out is text outside of them; it does not come
      again. A card that never had marks, new or published, is a person's own: a new one replaces the text, a published
      one gets the blocks appended.

    Args:
        published: The card at the commit that the release builds upon; None if there is none.
        new: The release's card.

    Returns:
        The card to publish, with the files of the new one.
    """
    from hf_mllm_aug.card import Card

    if published is None:
        return new
    renew_all = schema.ALL_CONFIG in published_configs(new)
    data, said = _merge_fields(published, new, renew_all=renew_all)
    sizes = [card.data.get("size_categories") for card in ((new, published) if renew_all else (published, new))]
    data["size_categories"] = next(filter(None, sizes), None)
    data["configs"] = _merge_configs(listed(published, "configs"), listed(new, "configs"))
    data["dataset_info"] = _merge_named(listed(published, "dataset_info"), listed(new, "dataset_info"))
    if record := _merge_records(published.data.get(RECORD), new.data.get(RECORD)):
        data[RECORD] = record
    text, blocks = _merge_text(published, new, renew_all=renew_all)
    if WRITTEN in published.data or WRITTEN in new.data:
        inputs = written(new if renew_all else published, "inputs") or {}
        data[WRITTEN] = {"fields": said, "blocks": blocks, "inputs": inputs}
    card = Card("---\n{}\n---\n", getattr(new, "files", {}))
    for name, value in data.items():
        if value is not None:
            card.data[name] = value
    card.text = text
    return card


def published_configs(card: DatasetCard | None) -> list[str]:
    """The names of a card's configs."""
    return [str(config.get("config_name", "default")) for config in listed(card, "configs")] if card else []


def as_list(value: Any) -> list[Any]:
    """A field's values: a list as it is, one value as a list, nothing as none."""
    return value if isinstance(value, list) else [value] if value else []


def listed(card: DatasetCard, name: str) -> list[dict[str, Any]]:
    """The items of a field that has fields itself; what people wrote there that is none is passed over."""
    return [item for item in as_list(card.data.get(name)) if isinstance(item, dict)]


def _merge_fields(
    published: DatasetCard, new: DatasetCard, *, renew_all: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the merged card, and what of them is to count as this library's."""
    old, fresh = dict(fields(published)), dict(fields(new))
    ours = written(published, "fields")
    names = list(dict.fromkeys([*old, *fresh, *(ours or {})]))
    # The name and the text of one licence do not belong to another: they are one field in three.
    licence = [name for name in names if name.startswith(_LICENCE)]
    groups = [[name] for name in names if name not in licence] + ([licence] if licence else [])
    data: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for group in groups:
        before, after, base = (
            {name: values[name] for name in group if name in values} for values in (old, fresh, ours or {})
        )
        if group[0] in _LISTS:
            (name,) = group
            lists = [as_list(values.get(name)) for values in (before, after, base)]
            data[name], said[name] = _merge_lists(*lists)
        elif ours is not None and before != base:  # people said otherwise
            data |= before
            said |= base
        else:
            merged = (after or before) if renew_all else (before or after)
            data |= merged
            said |= merged
    kept = {name: value for name, value in data.items() if value != []}
    return kept, copy.deepcopy(said)  # the same object twice would become a reference in the YAML


def _merge_lists(old: list[Any], fresh: list[Any], ours: list[Any]) -> tuple[list[Any], list[Any]]:
    """The published list and what is new, less what was written before and taken out; and all that was written.

    >>> _merge_lists(["a", "mine"], ["a", "b", "c"], ["a", "b"])
    (['a', 'mine', 'c'], ['a', 'b', 'c'])
    """
    removed = [item for item in ours if item not in old]
    merged = [*old, *(item for item in fresh if item not in old and item not in removed)]
    return merged, [*ours, *(item for item in fresh if item not in ours)]


def _merge_named(published: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    merged = {str(item.get("config_name", "default")): dict(item) for item in published}
    for item in new:
        merged[str(item.get("config_name", "default"))] = dict(item)
    return [
        {"config_name": name, **{k: v for k, v in item.items() if k != "config_name"}} for name, item in merged.items()
    ]


def _merge_configs(published: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged = _merge_named(published, new)
    names = [config["config_name"] for config in merged]
    before, ours = ({c.get("config_name") for c in configs} for configs in (published, new))
    arrives = bool(before) and schema.ALL_CONFIG in ours - before
    marked = [str(c.get("config_name", "default")) for c in [*published, *new] if c.get("default")]
    chosen = [schema.ALL_CONFIG] if arrives else marked
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
    every = [item for record in (old, fresh) for item in as_list(record.get("captioners"))]
    captioners = [item for item in every if isinstance(item, dict)]
    named = {str(item.get("name")): item for item in captioners}
    return {**old, **fresh, **({"captioners": list(named.values())} if named else {})}


def _merge_text(published: DatasetCard, new: DatasetCard, *, renew_all: bool) -> tuple[str, dict[str, str]]:
    """The text of the merged card, and the digests of its blocks that are this library's."""
    fresh = {block["name"]: block[0] for block in BLOCK.finditer(new.text)}
    ours = written(published, "blocks") or {}
    if not fresh or not published.text.strip():
        return new.text, digests(new.text)
    if not BLOCK.search(published.text):
        if ours:  # there were marks, and people took them out: the text is theirs
            return published.text, ours
        text = published.text.rstrip() + "\n\n" + new.text.lstrip()
        return text, digests(new.text)
    said: dict[str, str] = dict(ours)

    def renew(block: re.Match[str]) -> str:
        name, old = block["name"], block[0]
        edited = name in ours and digest(old) != ours[name]
        result = old
        if name in fresh:
            if name == CONFIGS_BLOCK:
                result = _merge_rows(old, fresh[name], keep_rest=edited or not renew_all)
            elif not edited and (renew_all or name.startswith(CAPTIONER_BLOCK)):
                result = fresh[name]
        if not edited:
            said[name] = digest(result)
        return result

    text = BLOCK.sub(renew, published.text)
    known = {CAPTIONER_BLOCK + name for name in published_configs(published)}
    arrived = {name: block for name, block in fresh.items() if name.startswith(CAPTIONER_BLOCK) and name not in known}
    arrived = {name: block for name, block in arrived.items() if name not in digests(text)}
    said |= {name: digest(block) for name, block in arrived.items()}
    return _insert(text, list(arrived.values())), said


def _insert(text: str, blocks: list[str]) -> str:
    """Put the blocks of captioners that are new behind those that are there, or else behind the table of configs."""
    if not blocks:
        return text
    places = {block["name"]: block.end() for block in BLOCK.finditer(text)}
    others = [end for name, end in places.items() if name.startswith(CAPTIONER_BLOCK)]
    place = max(others) if others else places.get(CONFIGS_BLOCK, max(places.values()))
    heading = [] if others or _HEADING in text else [_HEADING]
    return text[:place] + "".join(f"\n\n{part}" for part in [*heading, *blocks]) + text[place:]


def _merge_rows(published: str, new: str, *, keep_rest: bool) -> str:
    """One table with the rows of both; the text around it is the published block's or the new one's."""
    rows = {row["name"]: row[0] for row in ROW.finditer(published)}
    rows |= {row["name"]: row[0] for row in ROW.finditer(new)}
    frame = published if keep_rest else new
    first = ROW.search(frame)
    if first is None:
        return frame
    return frame[: first.start()] + "".join(rows.values()) + ROW.sub("", frame[first.start() :])
