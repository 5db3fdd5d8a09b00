"""The server: who is answered, what is sent, and as what."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageStat

from hf_mllm_aug.preview.pictures import NO_PICTURE
from hf_mllm_aug.preview.repository import open_repository
from hf_mllm_aug.preview.server import PreviewServer
from hf_mllm_aug.preview.views import Views
from tests.conftest import picture_bytes
from tests.preview_folders import columns, stage


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreviewServer]:
    folder = stage(tmp_path_factory.mktemp("server") / "data", 12, pictures=True, plots=True)
    (folder / "notes.html").write_text("<script>alert(1)</script>")
    with PreviewServer(Views(open_repository(str(folder)))) as running:
        yield running


def get(server: PreviewServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/card", "/plots", "/?config=otter&q=row", "/picture", "/nowhere"])
def test_every_answer_forbids_what_it_does_not_need(server: PreviewServer, path: str) -> None:
    _, headers, _ = get(server, path)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    if headers["content-type"].startswith("text/html"):
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data:;")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert policy.count("'sha256-") == 2


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example:1", ""])
def test_requests_for_another_host_are_refused(server: PreviewServer, host: str) -> None:
    status, _, body = get(server, "/", Host=host)
    assert status == 403
    assert b"tiny-llava" not in body


def test_our_own_names_are_answered(server: PreviewServer) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert get(server, "/", Host=f"{name}:{server.port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_there_is_nothing_but_get(server: PreviewServer, method: str) -> None:
    assert get(server, "/", method)[0] == 405


def test_pictures_are_written_anew(server: PreviewServer) -> None:
    status, headers, body = get(server, "/picture?config=all&split=train&row=3")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert body != picture_bytes(3)
    with Image.open(io.BytesIO(body)) as picture, Image.open(io.BytesIO(picture_bytes(3))) as original:
        assert picture.size == original.size
        difference = ImageChops.difference(picture.convert("RGB"), original.convert("RGB"))
    assert max(ImageStat.Stat(difference).mean) < 16


@pytest.mark.parametrize("row", ["99", "-1", "x", "1e3", ""])
def test_what_is_no_picture_is_our_own_drawing(server: PreviewServer, row: str) -> None:
    status, headers, body = get(server, f"/picture?config=all&split=train&row={row}")
    assert (status, headers["content-type"], body) == (200, "image/svg+xml", NO_PICTURE)


def test_bytes_in_the_data_never_choose_their_type(tmp_path: Path) -> None:
    evil = [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<html><script>alert(1)</script>",
        b"GIF89a;x",
    ]
    folder = stage(tmp_path / "data", 3)
    table = pa.table({**columns(3), "image": [{"bytes": each, "path": "/etc/passwd"} for each in evil]})
    pq.write_table(table, folder / "all" / "train-00000-of-00001.parquet")
    with PreviewServer(Views(open_repository(str(folder)))) as server:
        for row in range(3):
            _, headers, body = get(server, f"/picture?config=all&split=train&row={row}")
            assert (headers["content-type"], body) == ("image/svg+xml", NO_PICTURE)


def test_plots_are_sent_so_that_they_cannot_act(server: PreviewServer) -> None:
    status, headers, _ = get(server, "/repository/figures/otter-lengths.svg")
    assert (status, headers["content-type"]) == (200, "image/svg+xml")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["content-security-policy"].endswith("sandbox")


@pytest.mark.parametrize(
    "path",
    [
        "/repository/README.md",
        "/repository/notes.html",
        "/repository/../../etc/passwd",
        "/repository/..%2f..%2fetc%2fpasswd",
        "/repository//etc/passwd",
        "/static/../server.py",
        "/static/",
        "/static",
        "/?config=nothing",
        "/?config=all&split=nothing",
        "/picture?config=nothing&row=1",
    ],
)
def test_nothing_else_is_there(server: PreviewServer, path: str) -> None:
    status, headers, body = get(server, path)
    assert status == 404
    assert headers["content-type"].startswith("text/html")
    assert b"root:" not in body
    assert b"<script>alert" not in body


def test_a_request_with_too_many_fields_is_refused(server: PreviewServer) -> None:
    assert get(server, "/?" + "&".join(f"a{i}=1" for i in range(200)))[0] == 400


def test_an_address_that_is_none_is_refused(server: PreviewServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(f"GET http://[x/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_file_that_breaks_later_is_said_on_the_page(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 4)
    with PreviewServer(Views(open_repository(str(folder)))) as server:
        (folder / "raw" / "train-00000-of-00001.parquet").write_bytes(b"x" * 100)
        status, _, body = get(server, "/?config=raw")
        assert status == 500
        assert b"raw/train-00000-of-00001.parquet: not a Parquet file" in body
        assert str(tmp_path).encode() not in body
        assert get(server, "/")[0] == 200
