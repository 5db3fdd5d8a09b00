"""Runs that fetch their pictures first: each is asked for once, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset

from hf_mllm_aug import Augment, Captioner, run
from hf_mllm_aug.errors import ColumnError, UsageError
from hf_mllm_aug.long_runs import LongRun
from hf_mllm_aug.schema import base_features
from tests.fetching import fetcher
from tests.web_server import WebServer, answer, in_turn


@pytest.fixture
def server(pictures: list[bytes]) -> Iterator[WebServer]:
    with WebServer() as running:
        running.routes = {f"/{number}": answer(picture) for number, picture in enumerate(pictures[:7])}
        running.routes["/2"] = answer(b"<html>", kind="text/html")
        running.routes["/4"] = in_turn(answer(b"", 403), answer(pictures[4]))
        yield running


@pytest.fixture
def rows(server: WebServer) -> Dataset:
    urls = [server.url(f"/{number}") for number in range(7)]
    keys = [f"k{number}" for number in range(7)]
    columns = {"key": keys, "image": [None] * 7, "url": urls, "caption": keys}
    return Dataset.from_dict(columns, features=base_features())


@pytest.fixture
def captioner(random_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Captioner:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return Captioner(random_llava, name="one", batch_size=2, max_new_tokens=6)


def test_fetched_and_captioned_rows_are_those_of_two_maps(
    rows: Dataset, captioner: Captioner, server: WebServer, tmp_path: Path
) -> None:
    fetch, augment = fetcher(), Augment(captioner)
    found = run(rows, captioner, tmp_path / "run", fetch=fetch, shard_size=3)
    assert all(server.count(f"/{number}") == 1 for number in range(7))
    assert found["status"][:] == ["ok", "ok", "not_a_picture", "ok", "http_error", "ok", "ok"]
    assert [error is None for error in found["error_one"][:]] == [status == "ok" for status in found["status"][:]]
    expected = rows.map(fetch, batched=True, features=fetch.features(rows.features))
    expected = expected.map(augment, batched=True, features=augment.features(expected.features))
    assert found.features == expected.features
    retried = run(rows, captioner, tmp_path / "run", fetch=fetch, shard_size=3, retry_errors=True)
    wanted = expected.to_list()
    assert wanted[2]["error_one"] == "no picture"
    wanted[2]["error_one"] = f"not fetched: {wanted[2]['reason']}"  # a captioner in a map cannot know
    assert retried.to_list() == wanted, "by now the server has the fifth picture"


def test_failed_addresses_alone_are_asked_again(
    rows: Dataset, captioner: Captioner, server: WebServer, tmp_path: Path
) -> None:
    run(rows, captioner, tmp_path / "run", fetch=fetcher(), shard_size=3)
    summary = LongRun(rows, captioner, tmp_path / "run", fetch=fetcher(), shard_size=3, retry_errors=True).work()
    assert [server.count(f"/{number}") for number in range(7)] == [1, 1, 1, 1, 2, 1, 1]
    assert summary.worked == {"fetch": 1, "one": 2}, "the text at /2 is no picture today either"
    found = run(rows, captioner, tmp_path / "run", fetch=fetcher(), shard_size=3)
    assert found["status"][4] == "ok"
    assert found["caption_one"][4]


def test_pictures_may_be_fetched_alone_and_captioned_later(
    rows: Dataset, captioner: Captioner, server: WebServer, tmp_path: Path
) -> None:
    fetched = run(rows, [], tmp_path / "run", fetch=fetcher(), shard_size=3)
    assert fetched.column_names == ["key", "image", "url", "caption", "status", "reason"]
    assert (
        fetched[0]["image"]["bytes"]
        == pq.read_table(tmp_path / "run" / "fetch" / "00000.parquet")["image"][0].as_py()["bytes"]
    )
    asked = len(server.requests)
    found = run(rows, captioner, tmp_path / "run", fetch=fetcher(), shard_size=3)
    assert len(server.requests) == asked
    assert sum(caption is not None for caption in found["caption_one"][:]) == 5


@pytest.mark.parametrize("n_shards", [1, 2])
def test_a_stream_is_fetched_too(
    rows: Dataset, captioner: Captioner, server: WebServer, tmp_path: Path, n_shards: int
) -> None:
    found = run(rows.to_iterable_dataset(n_shards), captioner, tmp_path / "run", fetch=fetcher(), shard_size=3)
    assert found["key"][:] == rows["key"][:]
    assert [caption is not None for caption in found["caption_one"][:]] == [n not in (2, 4) for n in range(7)]
    assert all(server.count(f"/{number}") == 1 for number in range(7))


def test_a_stream_of_many_shards_is_read_once_by_each_that_needs_it(
    captioner: Captioner, server: WebServer, tmp_path: Path
) -> None:
    read: list[int] = []
    n_rows = 100
    urls = [server.url(f"/{number % 7}") for number in range(n_rows)]

    def source() -> Iterator[dict[str, object]]:
        for number in range(n_rows):
            read.append(number)
            yield {"key": f"k{number}", "image": None, "url": urls[number], "caption": f"k{number}"}

    stream = IterableDataset.from_generator(source, features=base_features())
    long_run = LongRun(stream, captioner, tmp_path / "run", fetch=fetcher(), shard_size=1)
    long_run.work(progress=False)
    # Its first rows are its fingerprint; then it is fetched, and read beside that for captioning.
    assert len(read) <= 2 * n_rows + 100
    found = long_run.rows()
    assert found["key"][:] == [f"k{number}" for number in range(n_rows)]
    assert found["status"][2::7] == ["not_a_picture"] * len(range(2, n_rows, 7))
    assert [error is None for error in found["error_one"][:]] == [status == "ok" for status in found["status"][:]]


def test_an_empty_shard_of_a_stream_is_fetched_too(
    rows: Dataset, captioner: Captioner, server: WebServer, tmp_path: Path
) -> None:
    stream = rows.to_iterable_dataset(3).filter(lambda row: row["key"] not in ("k3", "k4"))
    long_run = LongRun(stream, captioner, tmp_path / "run", fetch=fetcher())
    assert long_run.work(progress=False).shards == 3
    assert long_run.finished() == (3, 3)
    assert long_run.rows()["key"][:] == ["k0", "k1", "k2", "k5", "k6"]


def test_columns_that_do_not_fit_are_named(rows: Dataset, captioner: Captioner, tmp_path: Path) -> None:
    with pytest.raises(ColumnError, match="no column 'address'"):
        run(rows, captioner, tmp_path / "run", fetch=fetcher(url_column="address"))
    with pytest.raises(UsageError, match="into the column 'photo' and captioned from 'image'"):
        run(rows, captioner, tmp_path / "other", fetch=fetcher(image_column="photo"))
