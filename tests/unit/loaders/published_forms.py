"""Every form in which the data sets are published or kept, made small, with what of its rows is known in advance."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from hf_mllm_aug import load_cc3m, load_cc12m, load_yfcc15m

N = 2_500  # a list of them is over 128 KiB, so that it is cut into several pieces
PICTURE = b"\xff\xd8 no picture, and never looked at"


def caption(number: int) -> str:
    return f'a <PERSON> of the café no. {number} says "hello", and goes home \N{DOG FACE}'


def url(number: int) -> str:
    return f"https://images.example.org/photos/{number % 7}/{number:08d}_large_version.jpg?w=640"


def key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:24]


@dataclass
class Case:
    """A source, how it is opened, and what of its rows can be said in advance."""

    load: Callable[..., Any]
    form: str
    make: Callable[[Path], Any]
    keys: Callable[[int], str]
    rows: int = N
    image: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def caption_first(folder: Path) -> Path:
    return write(folder / "Train_GCC-training.tsv", "".join(f"{caption(i)}\t{url(i)}\n" for i in range(N)))


def url_first(folder: Path) -> Path:
    return write(folder / "cc12m.tsv", "".join(f"{url(i)}\t{caption(i)}\n" for i in range(N)))


def compressed(folder: Path) -> Path:
    path = folder / "cc12m.tsv.gz"
    path.write_bytes(gzip.compress(url_first(folder).read_bytes()))
    return path


def declip(folder: Path) -> Path:
    rows = ({"filename": f"000/{i}.jpg", "caption": caption(i), "url": url(i)} for i in range(N))
    return write(folder / "yfcc15m_clean_open_data.json", "".join(json.dumps(row) + "\n" for row in rows))


def pairs(folder: Path) -> str:
    for part in range(3):
        rows = [{"image": f"000/{i}.jpg", "caption": caption(i)} for i in range(part, N, 3)]
        write(folder / f"otter_{part}.json", json.dumps(rows))
    return str(folder / "otter_*.json")


def tars(folder: Path) -> Path:
    for shard in range(3):
        with tarfile.open(folder / f"cc3m-train-{shard:04d}.tar", "w") as tar:
            for i in range(shard * 10, shard * 10 + 10):
                record = {"url": url(i), "key": f"{i:09d}", "caption": caption(i), "status": "success"}
                for suffix, data in (("jpg", PICTURE), ("txt", caption(i)), ("json", json.dumps(record))):
                    raw = data if isinstance(data, bytes) else data.encode()
                    member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    member.size = len(raw)
                    tar.addfile(member, io.BytesIO(raw))
    return folder


def records(numbers: range) -> dict[str, list[Any]]:
    return {
        "key": [f"{i:09d}" for i in numbers],
        "url": [url(i) for i in numbers],
        "caption": [caption(i) for i in numbers],
        "status": ["success"] * len(numbers),
    }


def img2dataset_parquet(folder: Path) -> Path:
    for shard in range(3):
        numbers = range(shard * 10, shard * 10 + 10)
        table = pa.table({**records(numbers), "jpg": [PICTURE] * len(numbers)})
        pq.write_table(table, folder / f"{shard:05d}.parquet")
    return folder


def img2dataset_folder(folder: Path) -> Path:
    for shard in range(3):
        numbers = range(shard * 10, shard * 10 + 10)
        for i in numbers:
            place = folder / f"{shard:05d}" / f"{i:09d}"
            write(place.with_suffix(".txt"), caption(i))
            place.with_suffix(".jpg").write_bytes(PICTURE)
            record = {"url": url(i), "key": f"{i:09d}", "caption": caption(i), "status": "success"}
            write(place.with_suffix(".json"), json.dumps(record))
        pq.write_table(pa.table(records(numbers)), folder / f"{shard:05d}.parquet")
    return folder


def conceptual_copy(folder: Path) -> Path:
    """A clone of the repository: two configs, two splits, a card."""
    write(folder / "README.md", "---\nconfigs:\n- config_name: unlabeled\n---\n")
    (folder / "unlabeled").mkdir()
    (folder / "labeled").mkdir()
    for part in range(3):
        numbers = range(part, N, 3)
        table = pa.table({"image_url": [url(i) for i in numbers], "caption": [caption(i) for i in numbers]})
        pq.write_table(table, folder / "unlabeled" / f"train-{part:05d}-of-00003.parquet")
    other = pa.table({"image_url": [url(-1)], "caption": ["validated"]})
    pq.write_table(other, folder / "unlabeled" / "validation-00000-of-00001.parquet")
    labels: dict[str, list[Any]] = {"labels": [["dog"]], "MIDs": [["/m/0bt9lr"]], "confidence_scores": [[0.9]]}
    labelled = pa.table({"image_url": [url(-2)], "caption": ["labelled"], **labels})
    pq.write_table(labelled, folder / "labeled" / "train-00000-of-00001.parquet")
    return folder


def yfcc_copy(folder: Path) -> Path:
    for part in range(2):
        numbers = range(part * 10, part * 10 + 10)
        columns = {
            "photoid": [str(1000 + i) for i in numbers],
            "key": [f"{i:032x}" for i in numbers],
            "title": ["not+this"] * len(numbers),
            "title_clean": [caption(i) for i in numbers],
            "description_clean": [""] * len(numbers),
            "downloadurl": [url(i) for i in numbers],
            "img": [PICTURE] * len(numbers),
        }
        pq.write_table(pa.table(columns), folder / f"train-{part:05d}-of-00002.parquet")
    return folder


def saved(folder: Path) -> Path:
    rows = {"image_url": [url(i) for i in range(N)], "caption": [caption(i) for i in range(N)]}
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def openai_list(folder: Path) -> Path:
    lines = (f"{3 * i}\t{1000 + i}\t{i:032x}\n" for i in range(N))
    return write(folder / "yfcc100m_subset_data.tsv", "".join(lines))


def yfcc_metadata(folder: Path) -> Path:
    """YFCC100M's own 25 columns; every other line is of a photo that is not in the list."""
    lines = []
    for i in range(N):
        for photo in (500_000 + i, 1000 + i):
            columns = [""] * 25
            columns[:3] = [str(2 * i), str(photo), f"{i:032x}"]
            columns[8] = (
                caption(i).replace(" ", "+").replace("<", "%3C").replace(">", "%3E").replace("%3CPERSON%3E", "man")
            )
            columns[16] = url(i)
            lines.append("\t".join(columns) + "\n")
    return write(folder / "yfcc100m_dataset", "".join(lines))


def yfcc_archive(folder: Path) -> Path:
    (folder / "metadata").mkdir()
    (folder / "data").mkdir()
    for part in ("00a", "00b", "00c"):
        numbers = range(10 * "abc".index(part[-1]), 10 * "abc".index(part[-1]) + 10)
        with zipfile.ZipFile(folder / "data" / f"data_{part}.zip", "w") as archive:
            for i in numbers:
                archive.writestr(f"data/images/000/{i:032x}.jpg", PICTURE)
        rows = (
            {"photoid": 1000 + i, "key": f"{i:032x}", "title_clean": caption(i), "downloadurl": url(i)} for i in numbers
        )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata" / f"metadata_{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def by_url(number: int) -> str:
    return key(url(number))


def by_path(number: int) -> str:
    return f"000/{number}.jpg"


def by_photo(number: int) -> str:
    return str(1000 + number)


CASES = {
    "cc3m list": Case(load_cc3m, "tsv-caption-url", caption_first, by_url),
    "cc12m list": Case(load_cc12m, "tsv-url-caption", url_first, by_url),
    "cc12m list, gz": Case(load_cc12m, "tsv-url-caption", compressed, by_url),
    "cc3m repository": Case(load_cc3m, "table", conceptual_copy, by_url),
    "cc12m saved": Case(load_cc12m, "saved", saved, by_url),
    "cc3m tars": Case(load_cc3m, "webdataset", tars, by_url, 30, image=True),
    "cc12m parquet": Case(load_cc12m, "img2dataset-parquet", img2dataset_parquet, by_url, 30, image=True),
    "cc12m folders": Case(load_cc12m, "img2dataset-folder", img2dataset_folder, by_url, 30, image=True),
    "cc3m pairs": Case(load_cc3m, "pairs", pairs, by_path, image=True, options={"image_root": "/pictures"}),
    "declip": Case(load_yfcc15m, "declip", declip, by_path),
    "declip with pictures": Case(
        load_yfcc15m, "declip", declip, by_path, image=True, options={"image_root": "/pictures"}
    ),
    "yfcc repository": Case(load_yfcc15m, "table", yfcc_copy, by_photo, 20, image=True),
    "yfcc archive": Case(load_yfcc15m, "yfcc-archive", yfcc_archive, by_photo, 30, image=True),
    "openai list": Case(load_yfcc15m, "openai-list", openai_list, by_photo, options={"metadata": yfcc_metadata}),
}
