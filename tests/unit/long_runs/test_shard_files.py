"""Shards on a bad day: a disk that fails for a moment damages nothing."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hf_mllm_aug.long_runs import job as jobs
from hf_mllm_aug.long_runs.job import Job, tasks
from hf_mllm_aug.long_runs.plan import Plan
from hf_mllm_aug.long_runs.shard_files import ERROR, ROW, Shards, Stage, caption_schema
from hf_mllm_aug.long_runs.store import StoreError, open_store

ROWS = 4


def plan() -> Plan:
    source = {"kind": "dataset", "columns": ["key"], "rows": ROWS, "fingerprint": "f"}
    return Plan(source, ROWS, 1, None, False, None, {"one": {"settings": {}, "description": {}}}, {})


def shards_with_one(location: Any) -> tuple[Shards, Stage]:
    """A folder with one finished shard, seen for the first time."""
    store = open_store(location)
    writer = Shards(store, plan())
    table = pa.Table.from_pylist([{ROW: n, ERROR: "broken" if n == 2 else None} for n in range(ROWS)], caption_schema())
    writer.write(writer.stage("one"), 0, table)
    shards = Shards(store, plan())
    return shards, shards.stage("one")


def names(location: Path) -> list[str]:
    return sorted(path.name for path in (location / "one").iterdir())


def test_too_many_open_files_damage_no_shard(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of open files are of POSIX")
    shards, stage = shards_with_one(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        with pytest.raises(StoreError, match=r"cannot read one/00000.parquet of .*: Too many open files"):
            shards.size(stage, 0)
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert names(tmp_path) == ["00000.parquet"]
    assert shards.size(stage, 0) == ROWS


class Failing(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A remote place whose files fail after some bytes, and which counts what it hands out."""

    protocol = "failing"
    failure: BaseException | None = None
    given = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode != "rb":
            return file
        outer, content = type(self), file.getvalue()

        class File(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if outer.failure is not None:
                    raise outer.failure
                found = super().read(size)
                outer.given += len(found)
                return found

        return File(content)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
        found = super().cat_file(path, start, end, **options)
        type(self).given += len(found)
        return found


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Failing]:
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(Failing, "store", {})
    monkeypatch.setattr(Failing, "pseudo_dirs", [""])
    monkeypatch.setattr(Failing, "failure", None)
    monkeypatch.setattr(Failing, "given", 0)
    return Failing


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EIO, "Input/output error"), TimeoutError("slow"), ConnectionError("gone"), ValueError("throttled")],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failure_while_reading_damages_no_shard(failing: type[Failing], failure: BaseException) -> None:
    shards, stage = shards_with_one("failing://run")
    failing.failure = failure
    with pytest.raises(StoreError, match=r"cannot read one/00000.parquet of failing://run: .*(error|slow|gone|thro)"):
        shards.size(stage, 0)
    failing.failure = None
    assert shards.size(stage, 0) == ROWS
    failing.failure = failure
    with pytest.raises(StoreError):
        shards.read(stage, 0)
    failing.failure = None
    table = shards.read(stage, 0)
    assert table is not None
    assert table[ROW].to_pylist() == list(range(ROWS))
    assert shards.store.names("one") == ["00000.parquet"]


def test_looking_at_a_remote_shard_reads_its_end_alone(failing: type[Failing]) -> None:
    shards, stage = shards_with_one("failing://run")
    table = pa.table({ROW: pa.array(range(ROWS)), ERROR: [os.urandom(1 << 18).hex() for _ in range(ROWS)]})
    shards.write(stage, 0, table)
    size = len(shards.store.read(stage.path(0)) or b"")
    failing.given = 0
    assert Shards(shards.store, plan()).size(stage, 0) == ROWS
    assert 0 < failing.given < size / 4


def test_a_shard_that_is_damaged_between_two_looks_is_done_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, stage = shards_with_one(tmp_path)
    job = Job(None, shards.store, plan(), None, None, retry_errors=True)  # type: ignore[arg-type] # no row is read
    job.__dict__["shards"], job.__dict__["stages"] = shards, [Stage("one", stage.digest, object())]  # type: ignore[arg-type]
    (task,) = tasks(job, 0, retry=True)
    assert (task.rows, len(task.before or [])) == (frozenset({2}), ROWS)
    failed = jobs._failed

    def damage(table: pa.Table, column: str) -> frozenset[int]:
        (tmp_path / "one" / "00000.parquet").write_bytes(b"PAR1")
        return failed(table, column)

    monkeypatch.setattr(jobs, "_failed", damage)
    (task,) = tasks(job, 0, retry=True)
    assert (task.rows, task.before) == (None, None)
