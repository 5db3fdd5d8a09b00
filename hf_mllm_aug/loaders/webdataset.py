"""WebDataset tars: samples are runs of members whose names are equal up to the first dot.

`datasets` has a builder for them. It is not used: it takes the columns from the first five samples of the first tar and
fails where those differ (a caption is missing, say), it parses JSON as it reads, so that one broken record ends the
stream, and where a tar is cut off within a header it takes that for the end.

Source: github.com/webdataset/webdataset, the README's section on the format.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterator
from typing import Any, BinaryIO

from hf_mllm_aug.images import MAX_BYTES
from hf_mllm_aug.loaders.img2dataset import MAX_TEXT_BYTES, PICTURE_TYPES, encodable, make_row
from hf_mllm_aug.loaders.keys import path_key
from hf_mllm_aug.loaders.tally import Tally
from hf_mllm_aug.loaders.tar_members import Member, TarDamage, iter_members

_LONGEST_NAME = 1024
_MOST_PARTS = 64
_KINDS = (PICTURE_TYPES, ("txt",), ("json",))


def iter_tar(file: BinaryIO, tally: Tally) -> Iterator[dict[str, Any]]:
    """Yield the rows of one tar in its order; samples without a picture are counted.

    Args:
        file: The tar as bytes, plain or compressed; it is read forwards only.
        tally: Where samples without a row are counted, and where the tar's end before its time is reported.
    """
    samples = _samples(file, tally)
    while True:
        try:
            sample = next(samples, None)
        except TarDamage as damage:
            tally.damage(str(damage))
            return
        if sample is None:
            return
        row = sample.row(tally)
        if row is not None:
            tally.delivered(sample.key)
            yield row


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into its sample's key and its part; None for a hidden file, and one without a part.

    >>> split_name("./a.b/0001.seg.PNG"), split_name("a/.hidden.jpg"), split_name("a/README")
    (('a.b/0001', 'seg.png'), None, None)
    """
    folder, file = posixpath.split(path_key(name))
    stem, dot, part = file.partition(".")
    if not stem or not dot or stem.startswith("__"):
        return None
    return (posixpath.join(folder, stem), part.lower())


def _unsafe(key: str) -> str | None:
    """What is wrong with a key from a stranger's archive, if anything."""
    if key.startswith("/") or ".." in key.split("/"):
        return "with a name that leads out of the archive"
    if len(key) > _LONGEST_NAME or any(unicodedata.category(character) == "Cc" for character in key):
        return "with a name that is too long or has control characters"
    return None if encodable(key) else "with a name that is not UTF-8"


def _limit(name: str) -> int:
    split = split_name(name)
    last = split[1].rpartition(".")[2] if split else ""
    return MAX_BYTES if last in PICTURE_TYPES else MAX_TEXT_BYTES if last in ("txt", "json") else 0


class _Sample:
    """What the members of one name add up to."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.parts: dict[str, Member] = {}
        self._bytes = 0
        self._problem = _unsafe(key)

    def add(self, part: str, member: Member) -> None:
        self._bytes += len(member.data or b"")
        if part in self.parts:
            self._problem = self._problem or f"with two members .{part}"
        elif self._bytes > MAX_BYTES + 2 * MAX_TEXT_BYTES or len(self.parts) == _MOST_PARTS:
            self._problem = self._problem or "with too large or too many members"
        else:
            self.parts[part] = member

    def is_full(self) -> bool:
        """Whether there is a picture, a caption and a record."""
        return all(self._pick(*kinds) is not None for kinds in _KINDS)

    def row(self, tally: Tally) -> dict[str, Any] | None:
        """The schema's row, or None with the reason counted."""
        picture, text, record = (self._pick(*kinds) for kinds in _KINDS)
        found = [self.parts[part] for part in (picture, text, record) if part is not None]
        refused = next((f"with {member.refused}" for member in found if member.refused), None)
        problem = self._problem or refused
        if problem is not None:
            tally.reject(problem, self.key)
            return None
        image = None
        if picture is not None:
            image = {"bytes": self.parts[picture].data, "path": f"{posixpath.basename(self.key)}.{picture}"}
        return make_row(self.key, image, self._data(text), self._data(record), tally)

    def _pick(self, *kinds: str) -> str | None:
        """The part of one of these kinds: the first that the sample has as such (``jpg``), else its only one with a
        longer name (``image.jpg``).
        """
        plain = next((kind for kind in kinds if kind in self.parts), None)
        if plain is not None:
            return plain
        longer = [part for part in self.parts if part.rpartition(".")[2] in kinds]
        if len(longer) > 1:
            self._problem = self._problem or f"with several members that could be its .{kinds[0]}"
        return longer[0] if longer else None

    def _data(self, part: str | None) -> bytes | None:
        return None if part is None else self.parts[part].data


def _samples(file: BinaryIO, tally: Tally) -> Iterator[_Sample]:
    """Group members into samples.

    The last one before a damage is taken for whole if it has all parts that the one before it has, or, being the first,
    all parts that a sample can have: its other members may be what is lost.

    Raises:
        TarDamage: After the last whole sample.
    """
    sample: _Sample | None = None
    usual: frozenset[str] | None = None
    try:
        for member in iter_members(file, _limit):
            split = split_name(member.name)
            if split is None:
                continue
            key, part = split
            if sample is None or key != sample.key:
                if sample is not None:
                    usual = frozenset(sample.parts)
                    yield sample
                sample = _Sample(key)
            sample.add(part, member)
    except TarDamage:
        if sample is not None and (sample.is_full() if usual is None else usual <= sample.parts.keys()):
            yield sample
        elif sample is not None:
            tally.leave_out("cut off")
        raise
    if sample is not None:
        yield sample
