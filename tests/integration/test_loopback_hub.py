"""The loopback Hub speaks the Hub's protocol: asked by the official client, and by hand where the client would not."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hf_mllm_aug.loopback_hub import LoopbackHub

Answer = tuple[int, dict[str, str], bytes]
AUTH = {"Authorization": "Bearer hf_loopbacktesttokenloopbacktest"}


def ask(hub: LoopbackHub, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(hub.url).port or 0, timeout=10)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, data, headers={**AUTH, **(headers or {})})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def commit(hub: LoopbackHub, files: dict[str, bytes], parent: str | None = None, query: str = "") -> Answer:
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "test", "parentCommit": parent}}]
    for path, data in files.items():
        value = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    body = "\n".join(json.dumps(line) for line in lines).encode()
    return ask(hub, "POST", f"/api/datasets/me/x/commit/main{query}", body)


def create(hub: LoopbackHub, private: bool = False) -> None:
    body = {"name": "x", "organization": "me", "type": "dataset", "private": private}
    assert ask(hub, "POST", "/api/repos/create", body)[0] == 200


def test_a_repository_that_is_there_is_told_with_its_address(hub: LoopbackHub) -> None:
    create(hub)
    body = {"name": "x", "organization": "me", "type": "dataset"}
    status, _, answer = ask(hub, "POST", "/api/repos/create", body)
    assert (status, json.loads(answer)["url"]) == (409, f"{hub.url}/datasets/me/x")


def test_says_what_it_is(hub: LoopbackHub) -> None:
    status, headers, body = ask(hub, "GET", "/")
    assert status == 200
    assert b"local stand-in for the Hugging Face Hub" in body
    assert "loopback" in headers["server"]
    assert "Loopback Hub" in headers["x-loopback-hub"]


def test_official_client_pushes_pages_and_reads(tmp_path: Path, hub_env: dict[str, str], client_of: Any) -> None:
    with LoopbackHub(tmp_path / "small", page_size=2, part_size=5000) as hub:
        answer = client_of({**hub_env, **hub.environment})("""
api = HfApi()
data = Dataset.from_dict({"a": [f"{i * 7919 % 65537:032x}" for i in range(2000)]})
data.push_to_hub("me/x", "one")
data.push_to_hub("me/x", "two")
api.create_branch("me/x", branch="b/1", repo_type="dataset")
pull = api.create_commit("me/x", [], commit_message="nothing", repo_type="dataset")
say(equal=load_dataset("me/x", "one", split="train")[:] == data[:],
    streamed=[row["a"] for row in load_dataset("me/x", "two", split="train", streaming=True)] == data["a"][:],
    files=[f.path for f in api.list_repo_tree("me/x", recursive=True, repo_type="dataset")],
    branches=[b.name for b in api.list_repo_refs("me/x", repo_type="dataset").branches],
    titles=[c.title for c in api.list_repo_commits("me/x", repo_type="dataset")],
    first=[f.last_commit.title for f in api.list_repo_tree("me/x", expand=True, repo_type="dataset")][0],
    user=api.whoami()["name"], path=api.get_paths_info("me/x", ["one", "nope"], repo_type="dataset")[0].path)
""")
        assert hub.stats()["uploads"], "nothing was uploaded"
        assert max(hub.uploads.values()) == 1, "an object was sent twice"
        assert any(path[-2:] == "/2" for path in hub.uploads), "nothing was sent in parts"
    assert answer["equal"]
    assert answer["streamed"]
    assert "one/train-00000-of-00001.parquet" in answer["files"]
    assert answer["branches"] == ["main", "b/1"]
    assert answer["titles"] == ["Upload dataset", "Upload dataset", "initial commit"]
    assert answer["first"] == "initial commit"
    assert (answer["user"], answer["path"]) == ("local", "one")


def test_token_is_checked(hub: LoopbackHub) -> None:
    create(hub, private=True)
    for path in ("/api/datasets/me/x", "/api/whoami-v2"):
        assert ask(hub, "GET", path, headers={"Authorization": "Bearer hf_wrong"})[0] == 401
        assert ask(hub, "GET", path, headers={"Authorization": ""})[0] == 401
        assert ask(hub, "GET", path)[0] == 200
    body = {"name": "y", "type": "dataset"}
    assert ask(hub, "POST", "/api/repos/create", body, {"Authorization": ""})[0] == 401


def test_private_data_sets_are_listed_to_those_who_may_read_them(hub: LoopbackHub) -> None:
    create(hub, private=True)
    for path in ("/", "/api/datasets"):
        assert b"me/x" in ask(hub, "GET", path)[2]
        status, _, body = ask(hub, "GET", path, headers={"Authorization": ""})
        assert (status, b"me/x" in body) == (200, False), path


def test_no_name_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("the full name of this machine was asked for")

    monkeypatch.setattr(socket, "getfqdn", refuse)
    with LoopbackHub() as hub:
        assert ask(hub, "GET", "/")[0] == 200


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", ".git/config", "a\\b", ""])
def test_commit_refuses_paths_that_leave(hub: LoopbackHub, path: str) -> None:
    create(hub)
    assert commit(hub, {path: b"x"})[0] == 400


def test_downloads_and_uploads_stay_in_the_store(hub: LoopbackHub, tmp_path: Path) -> None:
    create(hub)
    (tmp_path / "secret").write_text("secret")
    for path in ("..%2f..%2fsecret", "../../secret", "%2e%2e/secret"):
        assert ask(hub, "GET", f"/datasets/me/x/resolve/main/{path}")[0] == 404
    batch = {"objects": [{"oid": "../../../escape", "size": 1}]}
    assert ask(hub, "POST", "/datasets/me/x.git/info/lfs/objects/batch", batch)[0] == 400
    upload = next(pattern.pattern for _, pattern, _ in hub.api.routes if "_lfs" in pattern.pattern).split("/(")[0]
    assert ask(hub, "PUT", f"{upload}/..%2f..%2fescape", b"x")[0] == 400
    assert ask(hub, "PUT", f"{upload}/{'0' * 64}", b"x")[0] == 400, "bytes of another digest were taken"
    assert not list(tmp_path.rglob("escape"))


def test_other_names_and_pages_are_refused(hub: LoopbackHub) -> None:
    assert ask(hub, "GET", "/", headers={"Host": "evil.example"})[0] == 403
    assert ask(hub, "POST", "/_faults", {"path": "/", "kind": 500}, {"Origin": "http://evil.example"})[0] == 403


def test_stale_parent_is_refused(hub: LoopbackHub) -> None:
    create(hub)
    parent = json.loads(ask(hub, "GET", "/api/datasets/me/x")[2])["sha"]
    assert commit(hub, {"a": b"1"}, parent)[0] == 200
    assert commit(hub, {"a": b"2"}, parent)[0] == 412
    status, _, body = commit(hub, {"a": b"3"}, parent, "?create_pr=1")
    assert status == 200, "a pull request may start from an old commit"
    assert json.loads(body)["pullRequestUrl"].endswith("/discussions/1")
    assert ask(hub, "GET", "/datasets/me/x/resolve/refs%2Fpr%2F1/a")[2] == b"3"
    assert ask(hub, "GET", "/datasets/me/x/resolve/main/a")[2] == b"1"


def test_not_found_says_what(hub: LoopbackHub) -> None:
    create(hub)
    for path, code in [
        ("/api/datasets/me/nope", "RepoNotFound"),
        ("/api/datasets/me/x/revision/nope", "RevisionNotFound"),
        ("/datasets/me/x/resolve/main/nope", "EntryNotFound"),
        ("/api/datasets/me/x/tree/main/nope", "EntryNotFound"),
    ]:
        status, headers, _ = ask(hub, "GET", path)
        assert (status, headers.get("x-error-code")) == (404, code), path


@pytest.mark.parametrize(
    ("content", "valid"),
    [
        ("no metadata", True),
        ("---\nlicense: mit\n---\n", True),
        ("---\n[\n---\n", False),
        ("---\n- a\n---\n", False),
        ("---\nconfigs:\n- config_name: a\n  default: true\n- config_name: b\n  default: true\n---\n", False),
        ("---\nconfigs:\n- config_name: default\n- config_name: b\n  default: true\n---\n", False),
        ("---\nconfigs:\n- config_name: a\n- config_name: a\n---\n", False),
        ("---\nconfigs: a\n---\n", False),
    ],
)
def test_metadata_is_really_read(hub: LoopbackHub, content: str, valid: bool) -> None:
    status, _, body = ask(hub, "POST", "/api/validate-yaml", {"content": content, "repoType": "dataset"})
    assert (status, bool(json.loads(body)["errors"])) == ((200, False) if valid else (400, True))
    create(hub)
    assert (commit(hub, {"README.md": content.encode()})[0] == 200) is valid


def test_ranges(hub: LoopbackHub) -> None:
    create(hub)
    commit(hub, {"a": b"0123456789"})
    path = "/datasets/me/x/resolve/main/a"
    for span, expected in [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-99", b"89")]:
        status, headers, body = ask(hub, "GET", path, headers={"Range": span})
        assert (status, body) == (206, expected)
        assert headers["content-range"].endswith("/10")
    assert ask(hub, "GET", path, headers={"Range": "bytes=10-"})[0] == 416
    status, headers, body = ask(hub, "HEAD", path)
    assert (status, headers["content-length"], body) == (200, "10", b"")


def test_page_of_a_data_set_is_inert(hub: LoopbackHub) -> None:
    create(hub)
    commit(hub, {"README.md": b"<script>alert(1)</script>", "<b>.txt": b"x"})
    _, headers, body = ask(hub, "GET", "/datasets/me/x")
    assert b"<script" not in body
    assert b"<b>" not in body
    assert b"&lt;script&gt;" in body
    assert headers["content-security-policy"].startswith("default-src 'none'")


def test_injected_statuses_come_and_go(hub: LoopbackHub) -> None:
    hub.inject("whoami", 429, retry_after=3, times=1)
    hub.inject("whoami", 503, skip=1)
    status, headers, _ = ask(hub, "GET", "/api/whoami-v2")
    assert (status, headers["retry-after"]) == (429, "3")
    assert [ask(hub, "GET", "/api/whoami-v2")[0] for _ in range(3)] == [200, 503, 200]


def test_injected_cuts_break_the_line(hub: LoopbackHub) -> None:
    create(hub)
    commit(hub, {"a": b"x" * 100_000})
    for kind in ("cut", "cut-half"):
        hub.inject("resolve/main/a", kind)
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(hub, "GET", "/datasets/me/x/resolve/main/a")
    hub.inject("commit/main", "cut")
    with pytest.raises((http.client.HTTPException, OSError)):
        commit(hub, {"b": b"1"})
    assert ask(hub, "GET", "/datasets/me/x/resolve/main/b")[0] == 404, "a cut request was carried out"
    hub.inject("commit/main", "cut-after")
    with pytest.raises((http.client.HTTPException, OSError)):
        commit(hub, {"b": b"1"})
    assert ask(hub, "GET", "/datasets/me/x/resolve/main/b")[0] == 200, (
        "a request with a lost answer was not carried out"
    )


def test_faults_by_http_for_other_processes(hub: LoopbackHub) -> None:
    assert ask(hub, "POST", "/_faults", {"path": "whoami", "kind": "slow", "seconds": 0.3})[0] == 200
    start = time.monotonic()
    assert ask(hub, "GET", "/api/whoami-v2")[0] == 200
    assert time.monotonic() - start >= 0.3
    assert ask(hub, "POST", "/_faults", {"path": "whoami", "kind": "nonsense"})[0] == 400
    assert json.loads(ask(hub, "GET", "/_stats")[2])["requests"] >= 3


def test_answers_do_not_wait_for_acknowledgements(hub: LoopbackHub) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(hub.url).port or 0)
    seconds = []
    for _ in range(75):
        start = time.monotonic()
        connection.request("GET", "/api/whoami-v2", headers=AUTH)
        connection.getresponse().read()
        seconds.append(time.monotonic() - start)
    connection.close()
    assert statistics.median(seconds) < 0.032, "Nagle's algorithm costs 40 ms a request"


def test_runs_as_a_process(hub_env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "hf_mllm_aug.loopback_hub"]
    process = subprocess.Popen(command, env=hub_env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        hello = json.loads(process.stdout.readline())
        with urllib.request.urlopen(hello["url"], timeout=10) as response:
            assert b"Loopback Hub" in response.read()
        assert hello["environment"]["HF_ENDPOINT"] == hello["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not [name for name in os.listdir(hub_env["TMPDIR"]) if name.startswith("loopback-hub-")]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", urlsplit(hello["url"]).port or 0), timeout=1).close()
