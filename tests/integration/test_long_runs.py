"""Runs that are killed, raced and starved: what is in the folder afterwards is what an undisturbed run leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from tests.integration.long_runs_processes import BROKEN, Work, finish, make_source, start

N_ROWS = 64


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, random_llava: Path) -> tuple[Path, dict[str, Any]]:
    """A folder with source and model, and the rows of an undisturbed run."""
    home = tmp_path_factory.mktemp("long-runs")
    shutil.copytree(random_llava, home / "model")
    make_source(N_ROWS).save_to_disk(str(home / "source"))
    work = Work(home)
    work.long_run().work(progress=False)
    expected = _contents(home / "run")
    shutil.rmtree(home / "run")
    return home, expected


@pytest.fixture
def home(prepared: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with an empty run folder, and a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("source", "model"):
        os.symlink(prepared[0] / name, tmp_path / name)
    return tmp_path


def _contents(folder: Path) -> dict[str, Any]:
    """All rows of all shard files, by file."""
    return {path.name: pq.read_table(path).to_pylist() for path in sorted((folder / "one").glob("*.parquet"))}


def assert_as_undisturbed(home: Path, expected: dict[str, Any]) -> None:
    """Row for row: none missing, none twice, in order; nothing left over; and joined they are the source's rows."""
    assert _contents(home / "run") == expected
    assert {path.name for path in (home / "run").rglob("*") if path.is_file()} == {*expected, "plan.json"}
    found = Work(home).long_run().rows()
    assert found["key"][:] == [f"k{n:03}" for n in range(N_ROWS)]
    assert found["caption_one"][:] == [row["caption"] for rows in expected.values() for row in rows]
    assert [n for n, error in enumerate(found["error_one"][:]) if error is not None] == list(BROKEN)


def _kill_at_random(home: Path, processes: list[Any], moments: random.Random) -> None:
    """Kill processes, each a moment after it finished none, one or several shards; what they left is whole."""
    for process in processes:
        shards, log = moments.randrange(4), home / f"log-{process.pid}.jsonl"
        deadline = time.monotonic() + 60
        while process.is_alive() and _lines(log) < shards and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3 if shards else 1.5))
        process.kill()
    for process in processes:
        process.join()
    assert not [path.read_text() for path in home.glob("error-*")]
    finished = sorted((home / "run" / "one").glob("*.parquet"))
    for path in finished:
        pq.ParquetFile(path).read()
    if len(finished) > N_ROWS // 8:  # keep some work for those to come
        for path in moments.sample(finished, 4):
            path.unlink()


def _lines(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def test_twenty_kills_at_random_moments_change_nothing(home: Path, prepared: tuple[Path, dict[str, Any]]) -> None:
    moments, killed = random.Random(1), 0
    for _ in range(20):
        process = start(Work(home, pause=0.02))
        _kill_at_random(home, [process], moments)
        assert process.exitcode in (-signal.SIGKILL, 0), "0: on a busy machine it may be done before the kill comes"
        killed += process.exitcode != 0
    assert killed >= 10
    assert sum(_worked(home).values()) >= 15, "they were killed before they did anything"
    assert finish(start(Work(home))) == 0
    assert_as_undisturbed(home, prepared[1])


@pytest.mark.soak
def test_fifty_kills_of_two_racing_processes_change_nothing(home: Path, prepared: tuple[Path, dict[str, Any]]) -> None:
    moments = random.Random(2)
    for _ in range(25):
        _kill_at_random(home, [start(Work(home, pause=0.02)) for _ in range(2)], moments)
    assert finish(start(Work(home))) == 0
    assert_as_undisturbed(home, prepared[1])


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_kill_while_a_shard_is_written_leaves_no_half_of_it(
    home: Path, prepared: tuple[Path, dict[str, Any]], moment: str
) -> None:
    assert finish(start(Work(home, die=moment))) == -signal.SIGKILL
    assert [path.name for path in (home / "run" / "one").glob("00002.parquet*")] != []
    assert not (home / "run" / "one" / "00002.parquet").exists()
    assert finish(start(Work(home))) == 0
    assert_as_undisturbed(home, prepared[1])


def _worked(home: Path) -> Counter[int]:
    """How often each shard was worked, by the logs."""
    lines = [line for log in home.glob("log-*.jsonl") for line in log.read_text().splitlines()]
    return Counter(json.loads(line)["shard"] for line in lines)


def test_two_processes_share_the_shards_of_one_folder(home: Path, prepared: tuple[Path, dict[str, Any]]) -> None:
    racers = [start(Work(home, pause=0.02)) for _ in range(2)]
    assert [finish(racer) for racer in racers] == [0, 0]
    assert_as_undisturbed(home, prepared[1])
    assert len(list(home.glob("log-*.jsonl"))) == 2, "one of them found nothing to do"
    assert sorted(_worked(home)) == list(range(N_ROWS // 4))
    assert sum(_worked(home).values()) <= N_ROWS // 4 + 1


def test_two_processes_that_see_no_claims_do_it_twice_and_right(
    home: Path, prepared: tuple[Path, dict[str, Any]]
) -> None:
    racers = [start(Work(home, blind=True, pause=0.01)) for _ in range(2)]
    assert [finish(racer) for racer in racers] == [0, 0]
    assert_as_undisturbed(home, prepared[1])


def test_processes_of_accelerate_begin_at_places_of_their_own(
    home: Path, prepared: tuple[Path, dict[str, Any]]
) -> None:
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    racers = [start(Work(home, pause=0.02, environment=place)) for place in places]
    assert [finish(racer) for racer in racers] == [0, 0]
    assert_as_undisturbed(home, prepared[1])
    for rank, first in ((0, 0), (1, N_ROWS // 8)):
        (log,) = home.glob(f"log-{rank}*.jsonl")
        assert json.loads(log.read_text().splitlines()[0])["shard"] == first


def test_an_interruption_keeps_what_is_whole_and_leaves_no_claims(
    home: Path, prepared: tuple[Path, dict[str, Any]]
) -> None:
    process = start(Work(home, pause=0.05))
    deadline = time.monotonic() + 60
    while not (home / "run" / "one" / "00001.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 3
    (failure,) = home.glob("error-*")
    assert failure.read_text().startswith("KeyboardInterrupt")
    failure.unlink()
    kept = _contents(home / "run")
    assert 2 <= len(kept) < len(prepared[1])
    assert kept == {name: prepared[1][name] for name in kept}
    assert {path.name for path in (home / "run").rglob("*") if path.is_file()} == {*kept, "plan.json"}
    assert finish(start(Work(home))) == 0
    assert_as_undisturbed(home, prepared[1])


def test_a_disk_that_takes_no_more_is_one_line_and_nothing_half_written(
    home: Path, prepared: tuple[Path, dict[str, Any]]
) -> None:
    work = Work(home)
    assert finish(start(replace(work, die="renaming"))) == -signal.SIGKILL  # so that some shards are finished
    assert finish(start(replace(work, limit=600))) == 3
    (failure,) = home.glob("error-*")
    said = failure.read_text()
    assert said.startswith("AugError: cannot write one/00002.parquet to ")
    assert "File too large. 2 of 16 shards are finished. Once that is mended, the same command goes on" in said
    assert {path.name for path in (home / "run" / "one").iterdir()} == {"00000.parquet", "00001.parquet"}
    assert finish(start(work)) == 0
    assert_as_undisturbed(home, prepared[1])
