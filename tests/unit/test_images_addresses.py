"""Which addresses `to_rgb` opens for a row, and what its reasons say of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import PROTOCOLS, to_rgb


@pytest.fixture(scope="module")
def picture() -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, picture: bytes) -> list[str]:
    """The addresses that fsspec is asked to open; each holds the picture."""
    asked: list[str] = []

    def answer(address: str, mode: str) -> Any:
        asked.append(address)
        return io.BytesIO(picture)

    monkeypatch.setattr("fsspec.open", answer)
    return asked


def test_archives_and_memory_are_opened(tmp_path: Path, picture: bytes) -> None:
    with fsspec.open("memory://pictures/a.png", "wb") as file:
        file.write(picture)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("c/b.png", picture)
    for address in ("memory://pictures/a.png", f"zip://c/b.png::{tmp_path / 'b.zip'}"):
        assert to_rgb(address).tobytes() == to_rgb(picture).tobytes()


@pytest.mark.parametrize(
    "address", ["hf://datasets/me/mine@0123abc/a.png", "zip://a.png::hf://datasets/me/mine/b.zip", "gzip://::a.png.gz"]
)
def test_what_lies_on_the_hub_is_opened(address: str, opened: list[str]) -> None:
    assert to_rgb({"bytes": None, "path": address}).size == (64, 48)
    assert opened == [address]


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/a.png",
        "ssh://host/a.png",
        "file:///a.png",
        "github://org:repo@main/a.png",
        "reference://a.png",
        "zip://a.png::ftp://host/b.zip",
        "zip://a.png::simplecache::https://host/b.zip",
        "simplecache::https://host/a.png",
        "HTTPS://host/a.png",
        "zip://a.png::data:application/zip;base64,AAAA",
    ],
)
def test_other_addresses_are_not_opened_whatever_a_caller_allows(address: str, opened: list[str]) -> None:
    for protocols in (PROTOCOLS, {"http", "ftp", "ssh", "file", "github", "simplecache", "data", "HTTPS", "reference"}):
        with pytest.raises(ImageError, match="not opened"):
            to_rgb(address, protocols=protocols)
    assert opened == []


@pytest.mark.parametrize(
    ("address", "todo"),
    [
        ("http://169.254.169.254/latest/meta-data", r"dataset\.map\(FetchImages\(\)\)"),
        ("https://images.example.org/a.png", r"dataset\.map\(FetchImages\(\)\)"),
        ("zip://a.png::https://images.example.org/b.zip", r"dataset\.map\(FetchImages\(\)\)"),
        ("s3://somebodys-private-bucket/a.png", r"protocols=\{'s3'\}"),
        ("gs://bucket/a.png", r"protocols=\{'gs'\}"),
    ],
)
def test_the_web_and_clouds_are_opened_only_by_a_caller_who_says_so(address: str, todo: str, opened: list[str]) -> None:
    for value in (address, {"bytes": None, "path": address}):
        with pytest.raises(ImageError, match=todo):
            to_rgb(value)
    assert opened == []
    assert to_rgb(address, protocols={"http", "https", "s3", "gs"}).size == (64, 48)
    assert opened == [address]


def test_signed_addresses_do_not_get_into_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, mode: str) -> Any:
        seen = f"(see 9s3://me:key@bucket/x?Signature=5ecret#5ecret and {'l' * 40}://host/y?token=5ecret)"
        raise OSError(f"403, message='Forbidden', url='{address}' {seen}")

    monkeypatch.setattr("fsspec.open", refuse)
    with pytest.raises(ImageError, match=r"^a\.png: cannot be read: 403, message='Forbidden', url='a\.png") as caught:
        to_rgb("https://me:key@host/dir/a.png?X-Signature=5ecret/5ecret&q='5ecret'", protocols={"https"})
    assert not [word for word in ("5ecret", "key@", "host", "bucket", "dir/") if word in str(caught.value)]
