"""What a card says when a captioner was added or renewed and the config `all` was not.

`all` holds every column, so it is stale then. It is not made again on the Hub: that takes its rows and pictures, which
may be terabytes that this machine does not have. Nor is the release refused: a caption set is of use by itself, and
joins with `all` by key. So the card says which configs are newer, at its table and in its metadata, until `all` is
published again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hf_mllm_aug import schema
from hf_mllm_aug.card_marks import RECORD, rewrite
from hf_mllm_aug.card_merge import as_list, published_configs
from hf_mllm_aug.card_removal import NEWER

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

_NOTE = re.compile(r'<p id="newer-than-all">.*?</p>\n', re.DOTALL)
_END = "<!-- hf-mllm-aug:end configs -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def note_newer(card: DatasetCard, released: Iterable[str], changed: Iterable[str]) -> list[str]:
    """Say in a card which configs are newer than `all`.

    Args:
        card: The card that is about to be published, merged with the one before; changed in place.
        released: The configs of the release.
        changed: Those of them whose files differ from the published ones.

    Returns:
        The configs that `all` lacks, in the card's order.
    """
    present = published_configs(card)
    record = dict(card.data.get(RECORD) or {}) if isinstance(card.data.get(RECORD) or {}, dict) else {}
    before = {str(name) for name in as_list(record.get(NEWER))}
    renewed = schema.ALL_CONFIG in set(released) or schema.ALL_CONFIG not in present
    newer = set() if renewed else (before | set(changed)) - {schema.ALL_CONFIG}
    names = [name for name in present if name in newer and _NAME.fullmatch(name)]
    record.pop(NEWER, None)
    if names:
        record[NEWER] = names
    if record or card.data.get(RECORD) is not None:
        card.data[RECORD] = record
    text = _NOTE.sub("", card.text)
    if names:
        shown = ", ".join(f"<code>{name}</code>" for name in names)
        note = (
            '<p id="newer-than-all">'
            "Newer than <code>all</code>, which lacks these captions or has earlier ones: "
            f"{shown}. Load them by their own configs; they join by <code>key</code>.</p>\n"
        )
        text = text.replace(_END, note + _END, 1)
    rewrite(card, text)
    return names
