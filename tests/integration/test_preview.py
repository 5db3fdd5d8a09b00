"""`preview` as a command: a page of this machine until Ctrl-C, one file, folders and a Hub."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from hf_mllm_aug.loopback_hub import LoopbackHub
from tests.integration.command_line import Run, assert_one_line, environment, run_command
from tests.integration.conftest import Client
from tests.preview_folders import stage
from tests.warm_python import python


def start(*words: str | Path, env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A running preview and its address."""
    command = [*python(), "-m", "hf_mllm_aug", "preview", *map(str, words), "--no-open"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline() if process.stdout else ""
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    if address is None:
        process.kill()
        _, said = process.communicate(timeout=20)
        pytest.fail(f"no address: {line!r} {said}")
    return process, address[0]


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def keys(html: str) -> list[str]:
    return re.findall(r'<bdi class="key">(.*?)</bdi>', html)


def test_a_page_until_ctrl_c(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 12)
    process, address = start(folder, "--rows", "5", env=environment(tmp_path / "home"))
    try:
        assert keys(read(f"{address}?page=2")) == [f"k{i}" for i in range(5, 10)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()


def test_one_file(run: Run, tmp_path: Path) -> None:
    stage(tmp_path / "data", 12, pictures=True)
    done = run("preview", "data", "--out", "page.html", "--rows", "4")
    size = (tmp_path / "page.html").stat().st_size
    assert done.stdout == f"page.html: 4 rows a config, 4 pictures, {size:,} bytes\n", done.stderr
    assert keys((tmp_path / "page.html").read_text()) == ["k0", "k1", "k2", "k3"] * 4
    assert not list(tmp_path.glob(".*"))


def test_wrong_usage_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    assert_one_line(run("preview", "nowhere/at/all"), 1, "no such folder: nowhere/at/all")
    stage(tmp_path / "data", 3)
    assert_one_line(run("preview", "data", "--revision", "v1"), 1, "a folder, which has no revisions")
    assert_one_line(run("preview", "data", "--out", "no/such/folder.html"), 2, "cannot write no/such/folder.html")
    card = (tmp_path / "data" / "README.md").read_text()
    assert_one_line(run("preview", "data", "--out", "data/README.md"), 2, "data/README.md is there already")
    assert (tmp_path / "data" / "README.md").read_text() == card
    (tmp_path / "page.html").mkdir()
    assert_one_line(run("preview", "data", "--out", "page.html"), 2, "cannot write page.html")


def test_a_port_that_is_taken_is_said(run: Run, tmp_path: Path) -> None:
    stage(tmp_path / "data", 3)
    with LoopbackHub() as other:
        done = run("preview", "data", "--no-open", "--port", other.url.rpartition(":")[2])
    assert_one_line(done, 2, "cannot listen on port", "Choose another --port")


PUBLISH = """
push_to_hub(rows(n=30), "local/captions")
push_to_hub(rows(n=30, mark="later "), "local/captions")
say(commits=[commit.commit_id for commit in HfApi().list_repo_commits("local/captions", repo_type="dataset")])
"""


def test_a_data_set_on_the_hub(client: Client, hub: LoopbackHub, hub_env: dict[str, str], tmp_path: Path) -> None:
    commits = client(PUBLISH)["commits"]
    process, address = start("local/captions", "--rows", "10", env=hub_env)
    try:
        page = read(f"{address}?page=2&config=otter")
        assert keys(page) == [f"k{i}" for i in range(10, 20)]
        assert "later otter 11" in page
        assert commits[0][:7] in page
        assert "1 hit in 30 rows" in read(f"{address}?q=LLAVA+29")
        assert "<article" in read(f"{address}card")
    finally:
        process.terminate()
        process.communicate(timeout=20)
    out = tmp_path / "old.html"
    done = run_command("preview", "local/captions", "--revision", commits[1], "--out", out, env=hub_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "later" not in out.read_text()
    assert "tiny-llava 0" in out.read_text()


def test_a_hub_without_the_data_set_is_said(hub_env: dict[str, str], tmp_path: Path) -> None:
    done = run_command("preview", "local/nothing", "--no-open", env=hub_env, cwd=tmp_path)
    assert_one_line(done, 1, "repository")
