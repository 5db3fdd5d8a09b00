"""The marks in a card: which of its text this library wrote, where, and in what words.

A block stands between ``<!-- hf-mllm-aug:begin NAME -->`` and ``<!-- hf-mllm-aug:end NAME -->``. The card's YAML keeps,
under `WRITTEN`, a digest of each block and the values of each field as they were written, so that the next release can
tell what people have changed since.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    AnyCard = TypeVar("AnyCard", bound=DatasetCard)

RECORD = "hf_mllm_aug"
"""Where a card's YAML keeps what made the captions (`Augment.describe`)."""

WRITTEN = "hf_mllm_aug_card"
"""Where it keeps what this library wrote: ``fields`` and ``blocks``; and the ``inputs`` that it wrote them from."""

COUNTED = ("configs", "dataset_info", "size_categories", RECORD, WRITTEN)
"""Fields that are no one's to say."""

REPO_PLACEHOLDER = "OWNER/NAME"
"""Stands in the code of a card until the release has an address."""

CONFIGS_BLOCK = "configs"
CAPTIONER_BLOCK = "captioner-"
"""What the name of the block about a captioner begins with; its config's name follows."""

README = "README.md"
"""The file that is a repository's card."""

BLOCK = re.compile(
    r"<!-- hf-mllm-aug:begin (?P<name>[\w.+-]+) -->\n(?P<body>.*?)<!-- hf-mllm-aug:end (?P=name) -->", re.DOTALL
)
ROW = re.compile(r'^<tr id="config-(?P<name>[^"]+)">.*</tr>\n', re.MULTILINE)
# Lines with an id: rows of the table of configs, and the note that a config is newer than `all`.
_OF_ITS_OWN = re.compile(r'^<(?P<tag>tr|p) id="[^"]*">.*</(?P=tag)>\n', re.MULTILINE)


def parse_card(data: bytes, where: str) -> DatasetCard:
    """A card from its file.

    Args:
        data: The file.
        where: What it is, for the message.

    Raises:
        FormatError: It is no text in UTF-8, or the YAML at its head is broken.
    """
    import yaml
    from huggingface_hub import DatasetCard

    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")  # an editor's marks, in which ours would not be found
        return DatasetCard(text, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise FormatError(f"{where}: its metadata cannot be read: {plain(problem, 300)}.") from error


def remember(card: AnyCard, inputs: Mapping[str, Any]) -> AnyCard:
    """Note in a card's YAML what stands in it, as this library's words.

    Args:
        card: A card that was just built; it is changed in place.
        inputs: What its publisher said of the data set, for a card that is built again from the same folder.
    """
    said = copy.deepcopy(dict(fields(card)))  # the same object twice would become a reference in the YAML
    given = {name: value for name, value in inputs.items() if value}
    card.data[WRITTEN] = {"fields": said, "blocks": digests(card.text), "inputs": given}
    return card


def rewrite(card: AnyCard, text: str) -> AnyCard:
    """Give a card another text, written by this library: blocks that were its own stay so, whatever they say now.

    Args:
        card: The card; it is changed in place.
        text: The text to give it, made from the one that it has.
    """
    before, ours = digests(card.text), written(card, "blocks")
    card.text = text
    if ours is not None:
        own = {name: new for name, new in digests(text).items() if name in ours and before.get(name) == ours[name]}
        card.data[WRITTEN] = {**card.data[WRITTEN], "blocks": {**ours, **own}}
    return card


def written(card: DatasetCard, part: str) -> dict[str, Any] | None:
    """What this library had written into a card: ``fields``, ``blocks`` or ``inputs``; None if it does not say."""
    record = card.data.get(WRITTEN)
    found = record.get(part) if isinstance(record, dict) else None
    return dict(found) if isinstance(found, dict) else None


def fields(card: DatasetCard) -> Iterator[tuple[str, Any]]:
    """The fields of a card that someone has to say."""
    for name, value in vars(card.data).items():
        if value is not None and name not in COUNTED:
            yield name, value


def digests(text: str) -> dict[str, str]:
    """A digest of each block of a card's text."""
    return {block["name"]: digest(block[0]) for block in BLOCK.finditer(text)}


def digest(block: str) -> str:
    r"""What a block says, in a few letters: less the rows and notes that come and go by themselves, and the spacing.

    >>> digest("a  b\n") == digest("a b"), digest("a b") == digest("a c")
    (True, False)
    """
    return hashlib.sha256(" ".join(_OF_ITS_OWN.sub("", block).split()).encode()).hexdigest()[:12]
