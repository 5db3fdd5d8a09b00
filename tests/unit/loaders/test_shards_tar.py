"""Archives from strangers: what tarfile writes is read, what breaks or bends the format is named and bounded."""

from __future__ import annotations

import io
import re
import tarfile
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mllm_aug.loaders.tar_members import Member, TarDamage, iter_members


def tar_of(parts: dict[str, bytes], mode: str = "w", tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tar_format) as tar:  # type: ignore[call-overload]
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def everything(data: bytes, limit: int = 1 << 20) -> list[Member]:
    return list(iter_members(io.BytesIO(data), lambda name: limit))


def until_damage(data: bytes) -> tuple[list[Member], str | None]:
    found = []
    try:
        for member in iter_members(io.BytesIO(data), lambda name: 1 << 20):
            found.append(member)
    except TarDamage as damage:
        return found, str(damage)
    return found, None


PARTS = {
    "0.jpg": b"x" * 700,
    "0.txt": b"",
    "folder/" + "n" * 150 + ".jpg": b"long name",
    "folder/" * 20 + "m.txt": b"deep",
    "Zoë 犬.jpg": b"y" * 512,
    "z.txt": b"z" * 511,
}


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_what_tarfile_writes_is_read(mode: str, tar_format: int) -> None:
    assert everything(tar_of(PARTS, mode, tar_format)) == [Member(name, data) for name, data in PARTS.items()]


def test_the_oldest_format_is_read_too() -> None:
    parts = {"a.jpg": b"1", "f" * 120 + "/b.jpg": b"2"}
    assert everything(tar_of(parts, tar_format=tarfile.USTAR_FORMAT)) == [Member(*part) for part in parts.items()]


def test_archives_joined_by_cat_are_read_to_the_end() -> None:
    joined = tar_of({"a": b"1"}) + tar_of({"b": b"2"}) + tar_of({})
    assert [member.name for member in everything(joined)] == ["a", "b"]
    with tarfile.open(fileobj=io.BytesIO(joined)) as tar:
        assert tar.getnames() == ["a"], "tarfile stops at the first end mark; if it no longer does, so may we use it"


@pytest.mark.parametrize("keep", [0, 100, 511])
def test_a_broken_header_is_no_end(keep: int) -> None:
    data = bytearray(tar_of({"a": b"1", "b": b"2", "c": b"3"}))
    data[1024 + keep : 1024 + 512] = b"\xff" * (512 - keep)
    found, damage = until_damage(bytes(data))
    assert found == [Member("a", b"1")]
    assert re.fullmatch(r"no header of a tar archive \((bad checksum|invalid header)\), at byte 1,024", str(damage))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        assert [member.name for member in tar] == ["a"], "tarfile takes it for the end"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_data_that_are_cut_or_broken_are_damage(mode: str) -> None:
    import random

    noise = random.Random(0)
    data = tar_of({str(number): noise.randbytes(3000) for number in range(400)}, mode)
    whole = everything(data)
    half = len(data) // 2
    for spoilt in (data[:half], data[:-3], data[:half] + bytes(50) + data[half:]):
        found, damage = until_damage(spoilt)
        if len(spoilt) < len(data):
            assert found == whole[: len(found)]
        assert damage is not None
        assert "break off or are broken" in damage or "header" in damage, damage


def test_links_devices_and_unknown_kinds_have_no_data() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, target in (
            ("s.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("h.jpg", tarfile.LNKTYPE, "../../x"),
            ("d.jpg", tarfile.CHRTYPE, ""),
            ("p.jpg", tarfile.FIFOTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
            ("u.jpg", b"Z", ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
        member = tarfile.TarInfo("last.jpg")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"ok"))
    assert [(member.name, member.data, member.refused) for member in everything(buffer.getvalue())] == [
        ("s.jpg", None, "a link instead of a file"),
        ("h.jpg", None, "a link instead of a file"),
        ("d.jpg", None, "a device instead of a file"),
        ("p.jpg", None, "a device instead of a file"),
        ("u.jpg", None, "a member of an unknown kind"),
        ("last.jpg", b"ok", None),
    ]


def test_members_that_are_too_large_or_not_wanted_are_not_read_into_memory() -> None:
    data = tar_of({"large.jpg": bytes(40 << 20), "unwanted.mp4": bytes(8 << 20), "small.jpg": b"x"}, "w:gz")
    limits = {"large.jpg": 1 << 20, "unwanted.mp4": 0, "small.jpg": 1 << 20}
    tracemalloc.start()
    found = list(iter_members(io.BytesIO(data), limits.__getitem__))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [
        Member("large.jpg", refused="more than 1,048,576 bytes"),
        Member("unwanted.mp4"),
        Member("small.jpg", b"x"),
    ]
    assert peak < 16 << 20, f"{peak >> 20} MiB"


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("x", tarfile.XHDTYPE, 1 << 40) + bytes(4096), "an extended header of 1,099,511,627,776 bytes"),
        (header("x", tarfile.GNUTYPE_LONGNAME, 2 << 20) + bytes(4 << 20), "an extended header of 2,097,152 bytes"),
        (header("x", tarfile.XHDTYPE, 9) + block(b"99 path=a"), "a broken extended header"),
        (header("x", tarfile.XHDTYPE, 9) + block(b"0 path=aa"), "a broken extended header"),
        (header("x", tarfile.XHDTYPE, 9) + block(b"no record"), "a broken extended header"),
        (header("x", tarfile.XHDTYPE, 12) + block(b"12 path=abc\n") + bytes(512), "between a header and its member"),
        (header("x", tarfile.XHDTYPE, 22) + block(b"22 GNU.sparse.major=1\n"), "a sparse member"),
        (header("x", tarfile.XHDTYPE, 5 * 200_000) + block(b"5 a=\n" * 200_000), "a broken extended header"),
        (header("x", tarfile.GNUTYPE_SPARSE, 0), "a sparse member"),
        (header("a.jpg", tarfile.REGTYPE, 1 << 45) + b"x" * 100, "breaks off within a member, at byte 612"),
        (bytes(80 << 20), "more than 67,108,864 zero bytes"),
    ],
)
def test_what_is_made_to_break_a_reader_is_damage(data: bytes, message: str) -> None:
    found, damage = until_damage(data)
    assert found == []
    assert damage is not None
    assert message in damage


def pax(keyword: bytes, value: bytes) -> bytes:
    """A record of an extended header: its length in front counts itself."""
    rest = b" %s=%s\n" % (keyword, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d%s" % (length, rest)


def test_an_extended_header_is_read_in_linear_time() -> None:
    """Cutting each record off the front of a megabyte takes seconds; a few records of it, nothing to speak of."""
    many = pax(b"comment", b"v" * 500_000) + b"".join(pax(b"x%d" % n, b"v" * 900) for n in range(400))
    data = b"".join(
        header("x", tarfile.XHDTYPE, len(named)) + block(named) + header("b", tarfile.REGTYPE, 0)
        for named in (many + pax(b"path", b"%d.jpg" % n) for n in range(10))
    )
    start = time.process_time()
    assert everything(data + bytes(1024)) == [Member(f"{n}.jpg", b"") for n in range(10)]
    assert time.process_time() - start < 1.5


def test_a_size_of_thousands_of_digits_is_passed_over() -> None:
    record = pax(b"size", b"1" * 5_000)
    data = header("x", tarfile.XHDTYPE, len(record)) + block(record) + header("a", tarfile.REGTYPE, 0) + bytes(1024)
    assert everything(data) == [Member("a", b"")]


def test_a_member_of_negative_size_is_damage() -> None:
    raw = bytearray(header("a.jpg", tarfile.REGTYPE, 0))
    raw[124:136] = b"\xff" * 12  # -1 in base 256
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    assert until_damage(bytes(raw)) == ([], "a member of negative size, at byte 0")


class Connection(io.RawIOBase):
    """A file on a network that fails half-way."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._data.read(min(len(buffer), 4096))
        if not data:
            raise ConnectionError("the connection was lost")
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_network_that_fails_is_no_damage_of_the_file(mode: str) -> None:
    data = tar_of({"a": bytes(range(256)) * 999, "b": b"2"}, mode)
    file: Any = Connection(data[: len(data) // 2])
    with pytest.raises(ConnectionError, match="was lost"):
        list(iter_members(file, lambda name: 1 << 20))


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=130).map(
    lambda name: name.rstrip("/") or "x"  # a slash at the end says folder
)
archives = st.lists(st.tuples(names, st.binary(max_size=1200)), max_size=5)


@given(archives, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(0, 20_000))
@settings(max_examples=100, deadline=None)
def test_members_of_a_cut_archive_are_those_of_the_whole_one_so_far(
    parts: list[tuple[str, bytes]], tar_format: int, length: int
) -> None:
    data = tar_of(dict(parts), tar_format=tar_format)
    whole = everything(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = [member for member in tar if member.isreg()]
        opened = [(member.name, tar.extractfile(member)) for member in files]
        assert [(m.name, m.data) for m in whole] == [(name, file and file.read()) for name, file in opened]
    found, damage = until_damage(data[:length])
    assert found == whole[: len(found)]
    assert len(found) == len(whole) or damage is not None
