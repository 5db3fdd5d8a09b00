"""The members of a tar archive from strangers, one by one, from a stream: nothing is written to disk, no link followed.

`tarfile` does the parsing of a header; its iteration is not used, for three reasons. It takes a header that is cut off
or overwritten for the end of the archive, so that thousands of rows can be missing without a word. It reads extended
headers whole, whatever size they claim. And it stops at the first end mark, where archives may have been joined by
``cat``. Here an archive ends where its bytes do; anything else is a `TarDamage`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from hf_mllm_aug.errors import FormatError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""What the names of archives end in, in small letters."""

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_MOST_HEADER = 1 << 20  # bytes of an extended header: a path and a few attributes
_MOST_RECORDS = 512  # of an extended header; writers put down a dozen
_MOST_PADDING = 1 << 26  # bytes of zeros after the end mark; the usual padding is 10 KiB
_ZEROS = bytes(_BLOCK)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class TarDamage(FormatError):  # noqa: N818 - it reads as what it is: the reader goes on with other archives
    """The archive is cut off or broken at this place; the members before it have been yielded."""


@dataclass(frozen=True)
class Member:
    """One member of an archive.

    Args:
        name: Its name, as written; bytes that are no UTF-8 are lone surrogates.
        data: What is in it; None where it was not wanted, or ``refused`` says why it was not read.
        refused: Why a member that has a name like others has no data: a link, a device, too large.
    """

    name: str
    data: bytes | None = None
    refused: str | None = None


def iter_members(file: BinaryIO, limit: Callable[[str], int]) -> Iterator[Member]:
    """Yield the members of an archive in their order, folders left out.

    Args:
        file: The archive as bytes, plain or compressed by gzip, bzip2 or xz; it is read forwards only.
        limit: For a member's name the number of bytes up to which it is read into memory; 0 if it is not wanted.

    Raises:
        TarDamage: The archive is cut off or broken; the members before that place have been yielded.

    >>> import io, tarfile
    >>> with tarfile.open(fileobj=(archive := io.BytesIO()), mode="w") as tar:
    ...     member = tarfile.TarInfo("0.txt")
    ...     member.size = 2
    ...     tar.addfile(member, io.BytesIO(b"hi"))
    >>> list(iter_members(io.BytesIO(archive.getvalue()), lambda name: 100))
    [Member(name='0.txt', data=b'hi', refused=None)]
    """
    try:
        yield from _Reader(_decompressed(file)).members(limit)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, _BrokenBzip2) as failure:
        raise TarDamage(f"its compressed data break off or are broken ({failure})") from failure


def is_tar(path: str) -> bool:
    """Whether a file, plain or compressed, begins as an archive does, whatever its name."""
    try:
        with open(path, "rb") as file:
            return _decompressed(file).read(_BLOCK)[257:262] == b"ustar"
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, _BrokenBzip2):
        return False


def _decompressed(file: BinaryIO) -> BinaryIO:
    readable: Any = file  # any file with `readinto` will do
    buffered = io.BufferedReader(readable, _CHUNK)
    start = buffered.peek(6)[:6]
    for magic, reader in _COMPRESSIONS.items():
        if start.startswith(magic):
            return io.BufferedReader(reader(buffered), _CHUNK)
    return buffered


class _BrokenBzip2(Exception):  # noqa: N818
    pass


class _Bzip2(bz2.BZ2File):
    """Says of broken data that they are broken: `bz2` raises an OSError, which a network's failure is too."""

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except OSError as failure:
            if type(failure) is OSError and failure.errno is None:
                raise _BrokenBzip2(str(failure)) from failure
            raise


_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": _Bzip2,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0  # of the next byte, in the archive as decompressed
        self._path: str | None = None  # what extended headers say of the member that follows
        self._size: int | None = None

    def members(self, limit: Callable[[str], int]) -> Iterator[Member]:
        while (header := self._header()) is not None:
            if header.type in _PAX:
                self._read_pax(self._extended(header))
            elif header.type == tarfile.XGLTYPE:
                self._extended(header)
            elif header.type in _LONG_NAMES:
                text = self._extended(header).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    self._path = text
            else:
                member = self._member(header, limit)
                self._path = self._size = None
                if member is not None:
                    yield member

    def _header(self) -> tarfile.TarInfo | None:
        """The next header; None at the archive's end."""
        start = self._offset
        while True:
            block = self._file.read(_BLOCK)
            at, self._offset = self._offset, self._offset + len(block)
            if block != _ZEROS[: len(block)]:
                break
            if at == start and len(block) < _BLOCK:
                what = "is empty" if not at else "ends without the end mark of an archive"
                raise TarDamage(f"it {what}, at byte {self._offset:,}")
            if len(block) < _BLOCK:
                if self._path is not None or self._size is not None:
                    raise TarDamage(f"it ends between a header and its member, at byte {start:,}")
                return None
            if self._offset - start > _MOST_PADDING:
                raise TarDamage(f"more than {_MOST_PADDING:,} zero bytes from byte {start:,} on")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as failure:
            cut = len(block) < _BLOCK
            what = "it breaks off within a header" if cut else f"no header of a tar archive ({failure})"
            raise TarDamage(f"{what}, at byte {at:,}") from failure
        if header.size < 0:
            raise TarDamage(f"a member of negative size, at byte {at:,}")
        return header

    def _member(self, header: tarfile.TarInfo, limit: Callable[[str], int]) -> Member | None:
        name = header.name if self._path is None else self._path
        size = header.size if self._size is None else self._size
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise TarDamage(f"a sparse member, {name[:80]!r}, which is not supported, at byte {self._offset:,}")
        if header.type == tarfile.DIRTYPE:
            return None
        if header.type in tarfile.SUPPORTED_TYPES and header.type not in _FILES:
            kind = "link" if header.islnk() or header.issym() else "device"
            return Member(name, refused=f"a {kind} instead of a file")
        bound = limit(name)
        if header.type in _FILES and bound > 0 and size <= bound:
            return Member(name, self._read(size))
        self._skip(size)
        if header.type not in _FILES:
            return Member(name, refused="a member of an unknown kind")
        return Member(name, refused=f"more than {bound:,} bytes" if bound else None)

    def _extended(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _MOST_HEADER:
            raise TarDamage(f"an extended header of {header.size:,} bytes, at byte {self._offset:,}")
        return self._read(header.size)

    def _read_pax(self, data: bytes) -> None:
        """Take path and size from records of the form ``LENGTH KEYWORD=VALUE``, each with the end of its line."""
        data = data.rstrip(b"\0")
        at = records = 0
        while at < len(data):
            digits, space, _ = data[at : at + 20].partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            keyword, equals, value = data[at + len(digits) + 1 : max(at, at + length - 1)].partition(b"=")
            at, records = at + length, records + 1
            if not equals or at > len(data) or records > _MOST_RECORDS:
                raise TarDamage(f"a broken extended header, before byte {self._offset:,}")
            if keyword == b"path":
                self._path = value.decode("utf-8", "surrogateescape")
            elif keyword == b"size" and value.isdigit() and len(value) < 20:
                self._size = int(value)
            elif keyword.startswith(b"GNU.sparse."):
                raise TarDamage(f"a sparse member, which is not supported, before byte {self._offset:,}")

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._offset += len(data)
        if len(data) < size:
            raise TarDamage(f"it breaks off within a member, at byte {self._offset:,}")
        self._skip_padding(size)
        return data

    def _skip(self, size: int) -> None:
        left = size
        while left:
            data = self._file.read(min(left, _CHUNK))
            self._offset += len(data)
            if not data:
                raise TarDamage(f"it breaks off within a member, at byte {self._offset:,}")
            left -= len(data)
        self._skip_padding(size)

    def _skip_padding(self, size: int) -> None:
        # Cut within the padding, the member is whole all the same; the missing end mark is found next.
        self._offset += len(self._file.read(-size % _BLOCK))
