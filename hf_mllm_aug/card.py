"""The card of a data set: YAML that the Hub acts on, and a page that people read, from a template in ``cards/``.

Every value that a template shows is made inert on its way in (see `safe_text`), so a caption cannot become markup, a
second YAML block or a template of its own, whatever the template's author forgets. What this library writes stands
between marks; a later release replaces that and leaves alone what people wrote around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import __version__, schema
from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.card_facts import ConfigFacts, collect, describe, samples
from hf_mllm_aug.card_template import open_template
from hf_mllm_aug.configs import check_config_names, config_metadata
from hf_mllm_aug.parquet_shards import WrittenSplit, published_features
from hf_mllm_aug.safe_text import plain, scrub, scrub_values

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import DatasetCard

REPO_PLACEHOLDER = "OWNER/NAME"
"""Stands in the code of a card until the release has an address."""

_TASKS = ["image-to-text", "text-to-image"]
_TAGS = ["image-captioning", "synthetic", "multimodal", "hf-mllm-aug", "arxiv:2311.18765"]
_SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_SIZES = [(10 ** (3 + i), name) for i, name in enumerate(_SIZE_NAMES)]
_SETTING_ORDER = ("max_new_tokens", "engine", "dtype", "seed", "version")
_SHOWN_ELSEWHERE = (
    "name",
    "model",
    "revision",
    "digest",
    "prompt",
    "decoding",
    "licence",
    "license",
    "preset",
    "variant",
)
_NOT_SHOWN = ("citation", "description", "package", "variants")


def build_card(
    configs: Mapping[str, Dataset | DatasetDict | Mapping[str, Dataset]],
    *,
    captioners: Sequence[object] | object = (),
    shear: object = None,
    template: str | Path | None = None,
    repo_id: str | None = None,
    pretty_name: str | None = None,
    description: str | None = None,
    source: str | None = None,
    license: str | None = None,  # noqa: A002 (the card's own word)
    languages: Sequence[str] = ("en",),
    tags: Sequence[str] = (),
    command: Sequence[str] = (),
    sample_rows: int = 5,
) -> DatasetCard:
    """Build the card of a data set from its configs.

    Args:
        configs: The configs; see `to_configs`.
        captioners: `Captioner` objects, their ``describe()``, or names: model, revision, prompt and decoding of each
            are shown beside the config of its name.
        shear: The `Shear` that was applied, its ``describe()``, or a sentence about it.
        template: The name of a template in ``cards/`` (``"cc3m"``, ``"cc12m"``, ``"yfcc15m"``), or the path of a Jinja
            file of your own; None is ``default``. A template may bring metadata of its data set, see `card_template`:
            its lists are added to, its other fields hold unless they are given here.
        repo_id: The repository, for the code that loads it. `push_to_hub` fills it in where it is not known yet.
        pretty_name: The title.
        description: A paragraph about this data set.
        source: Where pictures and raw captions come from: a Hub id, or words.
        license: The licence of the captions, as the Hub abbreviates it: ``"cc-by-4.0"``.
        languages: ISO 639 codes of the captions' languages.
        tags: Further tags.
        command: The words of the command that makes this data set again; local paths in it are cut to their names.
        sample_rows: How many rows are shown.

    Returns:
        The card. ``str(card)`` is the README.

    Raises:
        UnknownNameError: There is no such template.
        UsageError: The template is broken, or the configs' names are.

    Source: arXiv 2311.18765 is what the card cites.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"key": ["a"], "url": [None], "caption": ["<b>cat</b> | {{ dog }}"]})
    >>> card = build_card({"raw": rows}, pretty_name="Cats", license="cc-by-4.0")
    >>> card.data.configs[0]["default"], card.data.license, "<b>cat" in card.text, "{{" in card.text
    (True, 'cc-by-4.0', False, False)
    """
    from datasets import Dataset
    from huggingface_hub import DatasetCard, DatasetCardData

    named: dict[str, dict[str, Any]] = {
        name: {"train": rows} if isinstance(rows, Dataset) else dict(rows) for name, rows in configs.items()
    }
    check_config_names(named)
    given = list(captioners) if isinstance(captioners, (list, tuple)) else [captioners]
    facts = collect(named, given)
    base = open_template(template)
    title = pretty_name or base.metadata.get("pretty_name")
    title = str(title or (repo_id.split("/")[-1] if repo_id else "Image captions by multimodal LLMs"))
    metadata: dict[str, Any] = {
        "pretty_name": plain(title, 200),
        "license": license,
        "language": list(languages),
        "task_categories": _TASKS,
        "size_categories": [_size_category(max(fact.rows for fact in facts))],
        "source_datasets": [source] if source and re.fullmatch(r"[\w.-]+/[\w.-]+", source) else None,
        "tags": [*_TAGS, *(plain(tag, 100) for tag in tags)],
        **config_metadata(_unwritten(named)),
    }
    metadata = _with_template(metadata, base.metadata)
    data = DatasetCardData(**{key: value for key, value in scrub_values(metadata).items() if value is not None})
    values = {
        "title": title,
        "description": description,
        "source": source,
        "license": license,
        "repo_id": repo_id or REPO_PLACEHOLDER,
        "configs": facts,
        "captioned": [fact for fact in facts if fact.name not in (schema.ALL_CONFIG, schema.RAW_CONFIG)],
        "shear": _shear_text(shear),
        "split": next(iter(next(iter(named.values())))),
        "samples": samples(named, sample_rows),
        "command": list(command),
        "version": __version__,
        "settings": _settings,
        "variant": _variant,
    }
    body = scrub(base.render(values))
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n", ignore_metadata_errors=True)


def _with_template(own: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a card and those of its template: lists united, the template's first; else the card's own hold.

    >>> _with_template({"license": None, "tags": ["a"]}, {"license": "other", "license_name": "x", "tags": ["b", "a"]})
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


def _unwritten(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, WrittenSplit]]:
    """What is known of the files before they are written; `save_configs` puts the true sizes in."""
    return {
        name: {
            split: WrittenSplit(published_features(dataset.features), len(dataset), dataset.data.nbytes)
            for split, dataset in splits.items()
        }
        for name, splits in configs.items()
    }


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows.

    >>> _size_category(999), _size_category(1000), _size_category(2 * 10**12)
    ('n<1K', '1K<n<10K', 'n>1T')
    """
    above = [label for size, label in _SIZES if rows >= size]
    if not above:
        return "n<1K"
    if len(above) == len(_SIZES):
        return "n>1T"
    return f"{above[-1]}<n<{_SIZES[len(above)][1]}"


def _shear_text(shear: object) -> str | None:
    if shear is None or isinstance(shear, str):
        return shear
    settings = describe(shear)
    rule = settings.pop("rule", None)
    words = [f"rule {rule}"] if rule else []
    return ", ".join([*words, *(f"{key} {value}" for key, value in settings.items())])


def _settings(fact: ConfigFacts) -> str:
    """A captioner's decoding and other settings in one line; parameters that change nothing are left out."""
    settings = dict(fact.captioner)
    decoding = settings.get("decoding")
    if isinstance(decoding, Mapping):
        idle = {**NEUTRAL, "sentence_stop": False}
        parts = [f"{k}={v}" for k, v in decoding.items() if k == "do_sample" or k not in idle or v != idle[k]]
    else:
        parts = [str(decoding)] if decoding else []
    rest = {key: value for key, value in settings.items() if key not in (*_SHOWN_ELSEWHERE, *_NOT_SHOWN)}
    if isinstance(rest.get("clean_up"), Mapping):
        rest["clean_up"] = _clean_up(rest["clean_up"])
        rest = {key: value for key, value in rest.items() if key != "clean_up" or value}
    order = [*(key for key in _SETTING_ORDER if key in rest), *(key for key in rest if key not in _SETTING_ORDER)]
    return ", ".join([*parts, *(f"{key}={rest[key]}" for key in order)])


def _variant(fact: ConfigFacts) -> str:
    """Which variant of a preset was asked, what was set otherwise, and what the preset's other variants are."""
    chosen, variants = fact.captioner.get("variant"), fact.captioner.get("variants") or {}
    if not isinstance(variants, Mapping) or not isinstance(variants.get(chosen), Mapping):
        return ""
    overridden = " and ".join(_overridden(fact.captioner, variants[chosen]))
    text = f"variant {chosen} of {fact.captioner.get('preset')}{f', {overridden} overridden' if overridden else ''}"
    others = {name: variant for name, variant in variants.items() if name != chosen and isinstance(variant, Mapping)}
    for name, variant in others.items():
        asked = variant.get("prompt")
        question = "asks the same" if asked == fact.captioner.get("prompt") else f'asks "{asked}"'
        decoding = ", ".join(f"{key}={value}" for key, value in (variant.get("decoding") or {}).items())
        clean_up = _clean_up(variant.get("clean_up") or {})
        text += f"; variant {name} {question}, decodes {f'with {decoding}' if decoding else 'greedily'}, "
        text += f"cleans up {clean_up}" if clean_up else "cleans up nothing"
    return text


def _overridden(captioner: Mapping[str, Any], variant: Mapping[str, Any]) -> list[str]:
    """What a captioner has otherwise than its variant."""
    decoding = captioner.get("decoding") or {}
    used = {name: decoding.get(name, value) for name, value in NEUTRAL.items()}
    now = captioner.get("prompt"), used, captioner.get("clean_up") or {}
    then = variant.get("prompt"), {**NEUTRAL, **(variant.get("decoding") or {})}, variant.get("clean_up") or {}
    words = ("prompt", "decoding", "clean-up")
    return [word for word, one, other in zip(words, now, then, strict=True) if one != other]


def _clean_up(rules: Mapping[str, Any]) -> str:
    """A captioner's clean-up in words: each rule, and the strings that it goes by.

    >>> _clean_up({"stops": ["###", "."], "dropped": ["U+200B"]})
    'stops "###" ".", dropped U+200B'
    """
    return ", ".join(
        f"{rule} {' '.join(text if rule == 'dropped' else json.dumps(text, ensure_ascii=False) for text in strings)}"
        for rule, strings in rules.items()
    )
