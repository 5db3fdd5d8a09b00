"""Where runs are kept: files are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_mllm_aug.long_runs.claims import Claims
from hf_mllm_aug.long_runs.lookahead import Ahead
from hf_mllm_aug.long_runs.store import HOST, Store, StoreError, open_store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "run" if request.param == "local" else f"memory://store/{uuid.uuid4().hex}")


def test_files_are_written_read_renamed_and_deleted(store: Store) -> None:
    assert store.read("a/x") is None
    assert store.names("a") == []
    assert store.write("a/x", b"1")
    with store.writing("a/y") as path:
        Path(path).write_bytes(b"2")
        assert not store.exists("a/y")
    assert store.names("a") == ["x", "y"]
    assert (store.read("a/x"), store.open("a/y").read()) == (b"1", b"2")
    assert not store.write("a/x", b"3", new=True)
    assert store.write("a/z", b"3", new=True)
    store.rename("a/z", "a/x")
    store.delete("a/y")
    store.delete("a/y")
    assert store.names("a") == ["x"]
    assert store.read("a/x") == b"3"


def test_a_block_that_fails_leaves_nothing(store: Store) -> None:
    store.write("a/x", b"before")

    def fail() -> None:
        with store.writing("a/x") as path:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.names("a") == ["x"]
    assert store.read("a/x") == b"before"


def _dead() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_leftovers_of_dead_writers_are_swept_and_no_others(tmp_path: Path) -> None:
    names = {
        f"0.parquet.tmp~{HOST}~{_dead()}~ab": False,
        f"1.parquet.tmp~{HOST}~{os.getpid()}~ab": True,
        f"2.parquet.tmp~elsewhere~{_dead()}~ab": True,
        "3.parquet.tmp~elsewhere~1~ab": False,
        "4.parquet": True,
    }
    for name in names:
        (tmp_path / name).touch()
    old = time.time() - 25 * 3600
    os.utime(tmp_path / "3.parquet.tmp~elsewhere~1~ab", (old, old))
    open_store(tmp_path).sweep(".")
    assert {path.name for path in tmp_path.iterdir()} == {name for name, kept in names.items() if kept}


def test_failures_are_one_line_without_passwords(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write plan.json to .*file: (File exists|Not a directory)"):
        open_store(tmp_path / "file").write("plan.json", b"")
    assert str(open_store("sftp://me:secret@host/run")) == "sftp://host/run"


# Claims


def test_a_claim_keeps_others_away_until_it_is_released(store: Store) -> None:
    held = b'{"host": "elsewhere", "pid": 1, "time": %f}' % time.time()
    store.write("claims/one-00003.json", held)
    claims = Claims(store)
    try:
        assert not claims.take("one", 3)
        assert claims.take("one", 4)
        assert claims.take("one", 4)
        assert store.names("claims") == ["one-00003.json", "one-00004.json"]
        claims.release("one", 4)
        claims.release("one", 3)
        assert store.names("claims") == ["one-00003.json"]
        assert claims.take("two", 1)
    finally:
        claims.close()
    assert store.names("claims") == ["one-00003.json"], "claims end with the process"


@pytest.mark.parametrize(
    "claim",
    [
        lambda: f'{{"host": "{HOST}", "pid": {_dead()}, "time": {time.time()}}}',
        lambda: f'{{"host": "elsewhere", "pid": 1, "time": {time.time() - 61}}}',
        lambda: "",
        lambda: "[]",
    ],
    ids=["dead", "old", "empty", "no claim"],
)
def test_claims_of_nobody_are_void(tmp_path: Path, claim: Callable[[], str]) -> None:
    store = open_store(tmp_path)
    store.write("claims/one-00000.json", claim().encode())
    claims = Claims(store)
    try:
        claims.sweep()
        assert store.names("claims") == []
        store.write("claims/one-00000.json", claim().encode())
        assert claims.take("one", 0)
        claims.sweep()
        assert store.names("claims") == ["one-00000.json"], "its own claim is not swept"
    finally:
        claims.close()


def test_claims_are_kept_alive(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    claims = Claims(store, beat=0.05)
    try:
        claims.take("one", 0)
        first = store.read("claims/one-00000.json")
        deadline = time.monotonic() + 10
        while store.read("claims/one-00000.json") == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert store.read("claims/one-00000.json") != first
    finally:
        claims.close()


# Looking ahead


def test_what_is_ahead_is_bounded() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with Ahead(numbers(), 2, "numbers") as ahead:
        assert next(iter(ahead)) == 0
        time.sleep(0.3)
        assert len(made) <= 5
    assert len(made) <= 6, "it ends with the block"


def test_a_failure_ahead_comes_after_what_was_before_it() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with Ahead(numbers(), 2, "numbers") as ahead:
        found = iter(ahead)
        assert next(found) == 1
        with pytest.raises(ValueError, match="broken"):
            next(found)
