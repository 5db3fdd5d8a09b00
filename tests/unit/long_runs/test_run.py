"""`run`: the rows of `map(Augment)`, in shards that are kept."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from hf_mllm_aug import Augment, Captioner, Shear, run
from hf_mllm_aug.errors import AugError, CaptionError, ColumnError, FormatError, UnknownNameError, UsageError
from hf_mllm_aug.long_runs import LongRun, local
from hf_mllm_aug.long_runs.claims import Claims
from hf_mllm_aug.long_runs.report import ShardReport
from hf_mllm_aug.long_runs.shard_files import Shards
from hf_mllm_aug.long_runs.store import LocalStore, StoreError
from tests.unit.long_runs.conftest import BROKEN, N_ROWS, Asked


def mapped(rows: Dataset, augment: Augment) -> Dataset:
    return rows.map(augment, batched=True, features=augment.features(rows.features), load_from_cache_file=False)


def values(found: Dataset, columns: Sequence[str]) -> dict[str, list[Any]]:
    return {name: found[name][:] for name in columns}


@pytest.mark.parametrize("shard_size", [1, 4, 100])
def test_the_rows_are_those_of_map(
    rows: Dataset, captioner: Captioner, sampler: Captioner, tmp_path: Path, shard_size: int
) -> None:
    augment = Augment([captioner, sampler], keep_unsheared=True)
    expected = mapped(rows, augment)
    found = run(rows, [captioner, sampler], tmp_path / "run", keep_unsheared=True, shard_size=shard_size)
    assert found.features == expected.features
    assert found.column_names == expected.column_names
    assert values(found, expected.column_names) == values(expected, expected.column_names)
    assert found[BROKEN]["error_one"] == "not a picture in a known format"


def test_shearing_by_the_raw_captions(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    expected = mapped(rows, Augment(captioner, shear=Shear(rule="raw")))
    found = run(rows, captioner, tmp_path / "run", shear=Shear(rule="raw"), shard_size=4)
    assert found["caption_one"][:] == expected["caption_one"][:]
    with pytest.raises(ColumnError, match="no column 'caption'"):
        run(rows.remove_columns("caption"), captioner, tmp_path / "other", shear=Shear(rule="raw"))


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_stream_gives_the_rows_of_its_data_set(
    rows: Dataset, captioner: Captioner, tmp_path: Path, asked: Asked, n_shards: int
) -> None:
    expected = values(mapped(rows, Augment(captioner)), ["key", "caption", "caption_one", "error_one"])
    asked.keys.clear()
    for _ in range(2):  # the second time nothing is captioned
        stream = rows.to_iterable_dataset(num_shards=n_shards)
        found = run(stream, captioner, tmp_path / "run", shard_size=4)
        assert values(found, list(expected)) == expected
    assert sorted(asked.keys[0]) == sorted(f"k{n}" for n in range(N_ROWS) if n != BROKEN)
    assert len(list((tmp_path / "run" / "one").glob("*.parquet"))) == 3


@pytest.mark.parametrize("change", ["take", "skip"])
def test_a_part_of_a_stream_is_that_of_iterating(
    rows: Dataset, captioner: Captioner, tmp_path: Path, change: str
) -> None:
    stream = getattr(rows.to_iterable_dataset(3), change)(5)
    found = run(stream, captioner, tmp_path / "run", shard_size=2)
    assert found["key"][:] == [row["key"] for row in stream]
    expected = mapped(rows.take(5) if change == "take" else rows.skip(5), Augment(captioner))
    assert found["caption_one"][:] == expected["caption_one"][:]


def test_empty_shards_of_a_stream_are_finished_too(
    rows: Dataset, captioner: Captioner, tmp_path: Path, asked: Asked
) -> None:
    stream = rows.to_iterable_dataset(3).filter(lambda row: row["key"] not in ("k4", "k5", "k6", "k7"))
    long_run = LongRun(stream, captioner, tmp_path / "run")
    assert long_run.work().shards == 3
    assert long_run.finished() == (3, 3)
    assert long_run.rows()["key"][:] == [row["key"] for row in stream]
    assert pq.read_table(tmp_path / "run" / "one" / "00001.parquet").num_rows == 0
    assert LongRun(stream, captioner, tmp_path / "run").work().shards == 0, "none is left"
    none = rows.to_iterable_dataset(3).filter(lambda row: row["key"] == "none")
    assert len(run(none, captioner, tmp_path / "none")) == 0
    assert len(list((tmp_path / "none" / "one").iterdir())) == 3


def test_a_stream_that_was_broken_off_is_read_on(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    long_run = LongRun(rows.to_iterable_dataset(), captioner, tmp_path / "run", shard_size=4)
    long_run.work()
    expected = long_run.rows()["caption_one"][:]
    (tmp_path / "run" / "one" / "00001.parquet").unlink()
    assert run(rows.to_iterable_dataset(), captioner, tmp_path / "run", shard_size=4)["caption_one"][:] == expected


def test_a_source_that_was_shuffled_keeps_its_order(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    shuffled = rows.shuffle(seed=3)
    expected = mapped(shuffled, Augment(captioner))
    found = run(shuffled, captioner, tmp_path / "run", shard_size=4)
    assert values(found, ["key", "caption_one"]) == values(expected, ["key", "caption_one"])


def test_a_column_of_the_same_name_is_replaced_in_its_place(
    rows: Dataset, captioner: Captioner, tmp_path: Path
) -> None:
    old = rows.add_column("caption_one", ["old"] * N_ROWS).add_column("last", list(range(N_ROWS)))
    expected = mapped(old, Augment(captioner))
    found = run(old, captioner, tmp_path / "run")
    assert found.column_names == expected.column_names
    assert values(found, found.column_names) == values(expected, found.column_names)


def test_a_source_without_rows_gives_none(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    found = run(rows.select(range(0)), captioner, tmp_path / "run")
    assert (len(found), found.column_names) == (0, [*rows.column_names, "caption_one", "error_one"])


def test_a_store_in_memory(rows: Dataset, captioner: Captioner, asked: Asked) -> None:
    import fsspec

    found = run(rows, captioner, "memory://long-runs/first", shard_size=4)
    again = run(rows, captioner, "memory://long-runs/first", shard_size=4)
    assert again["caption_one"][:] == found["caption_one"][:]
    assert len(asked.keys[0]) == N_ROWS - 1
    names = fsspec.filesystem("memory").find("/long-runs/first")
    assert [name.rpartition("first/")[2] for name in names] == [
        "one/00000.parquet",
        "one/00001.parquet",
        "one/00002.parquet",
        "plan.json",
    ]


def test_another_captioner_is_added_and_the_first_is_not_asked_again(
    rows: Dataset, captioner: Captioner, sampler: Captioner, tmp_path: Path, asked: Asked
) -> None:
    run(rows, captioner, tmp_path / "run", shard_size=4)
    before = list(asked.keys[captioner.seed])
    found = run(rows, [captioner, sampler], tmp_path / "run", shard_size=4)
    assert asked.keys[captioner.seed] == before
    assert len(asked.keys[sampler.seed]) == N_ROWS - 1
    assert found.column_names[-4:] == ["caption_one", "error_one", "caption_two", "error_two"]
    assert sorted(json.loads((tmp_path / "run" / "plan.json").read_text())["captioners"]) == ["one", "two"]


def test_an_error_keeps_what_is_finished(
    rows: Dataset, captioner: Captioner, tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Shards.write

    def slow(*arguments: Any) -> None:  # so that shards wait to be written when the model breaks
        time.sleep(0.5)
        write(*arguments)

    monkeypatch.setattr(Shards, "write", slow)

    def fail(keys: Sequence[str]) -> None:
        if "k9" in keys:
            raise CaptionError("the model broke")

    asked.before = fail
    with pytest.raises(CaptionError, match="the model broke"):
        run(rows, captioner, tmp_path / "run", shard_size=4)
    kept = sorted(path.name for path in (tmp_path / "run" / "one").iterdir())
    assert kept == ["00000.parquet", "00001.parquet"]
    assert not list((tmp_path / "run" / "claims").iterdir())
    asked.before = lambda keys: None
    asked.keys.clear()
    run(rows, captioner, tmp_path / "run", shard_size=4)
    assert sorted(asked.keys[0]) == ["k10", "k8", "k9"]


def test_failed_rows_alone_are_tried_again(
    rows: Dataset, captioner: Captioner, tmp_path: Path, asked: Asked, pictures: list[bytes]
) -> None:
    before = run(rows, captioner, tmp_path / "run", shard_size=4)
    asked.keys.clear()
    images = [{"bytes": pictures[n], "path": None} for n in range(N_ROWS)]
    mended = (
        rows.remove_columns("image")
        .add_column("image", images)
        .cast(rows.select_columns(["key", "url", "caption", "image"]).features)
        .select_columns(rows.column_names)
    )
    found = run(mended, captioner, tmp_path / "run", shard_size=4)
    assert found["caption_one"][:] == before["caption_one"][:], "without retry_errors nothing is tried again"
    found = run(mended, captioner, tmp_path / "run", shard_size=4, retry_errors=True)
    assert asked.keys == {0: [f"k{BROKEN}"]}
    assert found["caption_one"][:] == mapped(mended, Augment(captioner))["caption_one"][:]
    assert found["error_one"][:] == [None] * N_ROWS


def test_pieces_of_a_job_array_make_the_whole(
    rows: Dataset, captioner: Captioner, tmp_path: Path, asked: Asked
) -> None:
    expected = run(rows, captioner, tmp_path / "whole", shard_size=2)
    asked.keys.clear()
    pieces = [run(rows, captioner, tmp_path / "run", shard_size=2, shard=f"{i}/3") for i in range(3)]
    assert pieces[1]["key"][:] == ["k2", "k3", "k8", "k9"]
    assert pieces[1]["caption_one"][:] == [expected["caption_one"][n] for n in (2, 3, 8, 9)]
    assert sum(map(len, pieces)) == N_ROWS
    asked.keys.clear()
    found = run(rows, captioner, tmp_path / "run", shard_size=2)
    assert values(found, found.column_names) == values(expected, found.column_names)
    assert not asked.keys


@pytest.mark.parametrize("shard", ["4/4", "-1/4", "1", "1/0", (2, 2), "a/b"])
def test_a_piece_that_is_none_is_refused(rows: Dataset, tmp_path: Path, shard: Any) -> None:
    with pytest.raises(UsageError, match="must be i/n with 0 <= i < n"):
        run(rows, "tiny-llava", tmp_path / "run", shard=shard)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "inside"])
def test_a_damaged_file_is_reported_and_its_shard_done_again(
    rows: Dataset, captioner: Captioner, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(rows, captioner, tmp_path / "run", shard_size=4)["caption_one"][:]
    file = tmp_path / "run" / "one" / "00001.parquet"
    content = file.read_bytes()
    zeros = bytes(content[:4]) + bytes(500) + content[504:]
    file.write_bytes({"cut": content[: len(content) // 2], "garbage": b"x" * 99, "empty": b"", "inside": zeros}[damage])
    assert run(rows, captioner, tmp_path / "run", shard_size=4)["caption_one"][:] == expected
    assert "one/00001.parquet is damaged" in caplog.text
    assert (tmp_path / "run" / "one" / "00001.parquet.bad").is_file()


def test_a_file_of_another_run_is_never_taken(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    run(rows, captioner, tmp_path / "run", shard_size=4)
    run(rows, Captioner(captioner.model, name="one", prompt="What is <image>?"), tmp_path / "other", shard_size=4)
    foreign = (tmp_path / "other" / "one" / "00001.parquet").read_bytes()
    (tmp_path / "run" / "one" / "00001.parquet").write_bytes(foreign)
    with pytest.raises(FormatError, match=r"one/00001.parquet was written with other settings"):
        run(rows, captioner, tmp_path / "run", shard_size=4)
    own = (tmp_path / "run" / "one" / "00000.parquet").read_bytes()
    (tmp_path / "run" / "one" / "00001.parquet").write_bytes(own)
    with pytest.raises(FormatError, match="as another shard"):
        run(rows, captioner, tmp_path / "run", shard_size=4)


def test_a_shard_file_says_what_was_generated(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    run(rows, captioner, tmp_path / "run", shard_size=4, keep_unsheared=True)
    table = pq.read_table(tmp_path / "run" / "one" / "00001.parquet")
    assert table.column_names == ["row", "key", "generated", "caption", "tokens", "finish_reason", "error"]
    assert table["row"].to_pylist() == [4, 5, 6, 7]
    assert table["key"].to_pylist() == ["k4", "k5", "k6", "k7"]
    assert [tokens is None for tokens in table["tokens"].to_pylist()] == [False, True, False, False]
    assert set(table["finish_reason"].to_pylist()) <= {None, "stop", "length", "sentence"}


def test_each_finished_shard_has_a_line_of_json(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    run(rows, captioner, tmp_path / "run", shard_size=4, log_json=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["shard"] for line in lines] == [0, 1, 2]
    assert [line["rows"] for line in lines] == [4, 4, 3]
    assert [line["failures"]["one"] for line in lines] == [0, 1, 0]
    assert all(line["tokens"]["one"] > 0 and line["seconds"]["model"] > 0 for line in lines)


def test_the_summary_counts_rows_failures_and_time(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    long_run = LongRun(rows, captioner, tmp_path / "run", shard_size=4)
    assert long_run.finished() == (0, 3)
    assert not (tmp_path / "run").exists(), "looking writes nothing"
    summary = long_run.work()
    assert (summary.shards, summary.rows) == (3, N_ROWS)
    assert summary.failures == {"one": {"not a picture in a known format": 1}}
    assert summary.images_per_second == pytest.approx(N_ROWS / summary.elapsed)
    assert summary.shares["model"] < 1
    assert long_run.finished() == (3, 3)
    assert LongRun(rows, captioner, tmp_path / "run", shard_size=4).work().rows == 0


def test_finished_shards_are_opened_once_and_later_ones_are_seen(
    rows: Dataset, captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(rows, captioner, tmp_path / "run", shard_size=4)
    last = tmp_path / "run" / "one" / "00002.parquet"
    content = last.read_bytes()
    last.unlink()
    opened: list[str] = []
    real = LocalStore.open

    def noted(store: LocalStore, name: str) -> IO[bytes]:
        opened.append(name)
        return real(store, name)

    monkeypatch.setattr(LocalStore, "open", noted)
    long_run = LongRun(rows, captioner, tmp_path / "run", shard_size=4)
    assert long_run.finished() == (2, 3)
    last.write_bytes(content)  # by another process
    assert long_run.finished() == (3, 3)
    assert long_run.work().rows == 0
    assert sorted(opened) == [f"one/0000{n}.parquet" for n in range(3)]


def test_claims_of_the_dead_are_swept_once_a_run(
    rows: Dataset, captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    void = tmp_path / "run" / "claims" / "two-00007.json"
    void.parent.mkdir(parents=True)
    void.write_text('{"host": "elsewhere", "pid": 1, "time": 0}')
    swept: list[Claims] = []
    real = Claims.sweep

    def noted(claims: Claims) -> None:
        swept.append(claims)
        real(claims)

    monkeypatch.setattr(Claims, "sweep", noted)
    long_run = LongRun(rows, captioner, tmp_path / "run", shard_size=4)
    for shard in range(3):  # as workers of a cluster do
        local.work(long_run.job, [shard], lambda report: None)
    assert (len(swept), void.exists()) == (0, True)
    long_run.work()
    assert (len(swept), void.exists()) == (1, False)


def test_on_error_raise_ends_the_run(rows: Dataset, random_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=f"row 'k{BROKEN}'"):
        run(rows, Captioner(random_llava, on_error="raise", name="one"), tmp_path / "run", shard_size=4)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"captioners": []}, "name a captioner, or pass fetch="),
        ({"shard_size": 0}, "shard_size=0 must be an integer of 1 or more"),
        ({"captioners": Captioner(name="Fetch")}, "cannot be called 'Fetch'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    rows: Dataset, tmp_path: Path, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        run(rows, **{"captioners": "tiny-llava", "output_dir": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_unknown_executors_and_several_splits_are_refused(rows: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'local'"):
        run(rows, "tiny-llava", tmp_path / "run", executor="locl")
    with pytest.raises(UsageError, match=r"not a DatasetDict. Choose one of its splits: 'train'"):
        run(DatasetDict(train=rows), "tiny-llava", tmp_path / "run")


def test_a_job_may_travel_to_another_process(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    long_run = LongRun(rows, captioner, tmp_path / "run", shard_size=4)
    reports: list[ShardReport] = []
    local.work(pickle.loads(pickle.dumps(long_run.job)), [2, 0], reports.append)
    assert [report.shard for report in reports] == [2, 0]
    assert LongRun(rows, captioner, tmp_path / "run", shard_size=4).finished() == (2, 3)


def test_a_folder_that_cannot_be_written_is_one_line(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AugError, match=r"cannot .*: Not a directory\. Once that is mended, the same command goes on"):
        run(rows, captioner, tmp_path / "file" / "run")


def test_a_folder_that_fails_while_rows_are_joined_is_one_line(
    rows: Dataset, captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_run = LongRun(rows, captioner, tmp_path / "run", shard_size=4)
    long_run.work()

    def fail(store: LocalStore, name: str) -> IO[bytes]:
        raise StoreError(f"cannot read {name}: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "open", fail)
        with pytest.raises(AugError, match=r"error\. 3 of 3 shards are finished\. Once that is mended"):
            long_run.rows()
    assert len(long_run.rows()) == N_ROWS
