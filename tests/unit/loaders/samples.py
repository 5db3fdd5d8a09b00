"""Samples as img2dataset writes them, in tars, Parquet files and folders, and the rows that they give."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """A sample's record, with its picture's bytes as ``jpg``."""
    made = {
        "caption": f"Picture {number}, the one  with “quotes”.",
        "url": f"https://example.org/{number}.jpg?w=1",
        "key": f"{number:09d}",
        "status": "success",
        "error_message": None,
        "width": 8,
        "jpg": b"\xff\xd8 picture %d" % number,
    }
    return made | changes


def members(made: dict[str, Any]) -> dict[str, bytes]:
    """The members of a sample in a tar, by name."""
    record = {name: value for name, value in made.items() if name != "jpg"}
    parts = {f"{made['key']}.jpg": made["jpg"], f"{made['key']}.json": json.dumps(record).encode()}
    if made["caption"] is not None:
        parts[f"{made['key']}.txt"] = made["caption"].encode()
    return parts


def tar_bytes(parts: dict[str, bytes] | list[tuple[str, bytes]], kind: str = "", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}", **options) as tar:  # type: ignore[call-overload]
        for name, data in parts.items() if isinstance(parts, dict) else parts:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, numbers: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes({name: data for n in numbers for name, data in members(sample(n)).items()}))
    return path


def write_parquet(path: Path, samples: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(samples), path, **options)
    return path


def write_folder(root: Path, shards: dict[str, range]) -> Path:
    """The "files" form: folders of samples, and beside them records without pictures and statistics."""
    for shard, numbers in shards.items():
        (root / shard).mkdir(parents=True)
        for number in numbers:
            for name, data in members(sample(number)).items():
                (root / shard / name).write_bytes(data)
        records = [{k: v for k, v in sample(n).items() if k != "jpg"} for n in numbers]
        write_parquet(root / f"{shard}.parquet", records)
        (root / f"{shard}_stats.json").write_text("{}")
    return root


def row(number: int) -> dict[str, Any]:
    """The row that a sample gives."""
    made = sample(number)
    image = {"bytes": made["jpg"], "path": f"{made['key']}.jpg"}
    return {"key": key(number), "image": image, "url": made["url"], "caption": made["caption"]}


def key(number: int) -> str:
    """The key of a sample's row: of its address, and not its running number."""
    return hashlib.sha256(sample(number)["url"].encode()).hexdigest()[:24]


NUMBERS = {key(number): number for number in range(300)}


def keys(rows: Dataset | IterableDataset) -> list[int]:
    """The numbers of the samples that the rows are of."""
    return [NUMBERS[each["key"]] for each in rows]


def take(rows: Dataset | IterableDataset) -> list[dict[str, Any]]:
    return list(rows)
