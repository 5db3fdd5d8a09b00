"""The files of the Hub's copy of OpenAI's YFCC subset as they lie there: JSON lines of metadata, zips of pictures.

The repository's own loading script is not run by `datasets` any more. Its metadata (``metadata/metadata_*.jsonl.gz``)
name photos; the zip of the same number under ``data`` has their pictures, each under a name that is the record's
``key`` or ``photoid``. Without zips there are captions and addresses alone.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from hf_mllm_aug import schema
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.images import MAX_BYTES
from hf_mllm_aug.loaders.faults import Faults
from hf_mllm_aug.loaders.tables import plain_lines
from hf_mllm_aug.loaders.text_blocks import iter_blocks
from hf_mllm_aug.loaders.yfcc_metadata import Layout, metadata_record, metadata_row

# Raise it when the rows made of a file change: datasets' cache does not see the code.
CODE_VERSION = 1
_ROWS_A_TABLE = 100  # with their pictures

Stamped = tuple[str, int, int]
logger = logging.getLogger(__name__)


@dataclass
class ArchiveConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets is untyped
    """What the rows depend on.

    Args:
        metadata: The files of metadata, as `prepared.stamped` gives them; each is a shard.
        zips: The files of pictures.
        split: The name of the one split.
        on_error: ``"raise"`` or ``"skip"``.
        code_version: The version of the code that makes the rows.
    """

    metadata: list[Stamped] = field(default_factory=list)
    zips: list[Stamped] = field(default_factory=list)
    split: str = "train"
    on_error: str = "raise"
    code_version: int = CODE_VERSION


class Archive(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # datasets is untyped
    """Rows of key, image (undecoded), url, caption; one split."""

    BUILDER_CONFIG_CLASS = ArchiveConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=schema.base_features())

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        files = [file for file, _, _ in self.config.metadata]
        return [datasets.SplitGenerator(self.config.split, gen_kwargs={"files": files})]

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        arrow_schema = self.info.features.arrow_schema
        zips = {_number(file): file for file, _, _ in self.config.zips}
        reports = []
        for shard, file in enumerate(files):
            faults = Faults(file, self.config.on_error)
            pictures = _Pictures(zips.get(_number(file)))
            rows: list[dict[str, Any]] = []
            part = 0
            for row in _rows(file, pictures, faults):
                rows.append(row)
                if len(rows) == _ROWS_A_TABLE:
                    yield Key(shard, part), pa.Table.from_pylist(rows, schema=arrow_schema)
                    rows, part = [], part + 1
            yield Key(shard, part), pa.Table.from_pylist(rows, schema=arrow_schema)
            for report in (faults.report(), pictures.report()):
                if report is not None:
                    logger.warning("%s", report)
                    reports.append(report)
        self.info.description = "\n".join(reports)


def _rows(file: str, pictures: _Pictures, faults: Faults) -> Iterator[dict[str, Any]]:
    for block in iter_blocks((file, 0, None)):
        for index, line in enumerate(plain_lines(block, faults)):
            if not line:
                continue
            record = metadata_record(line, Layout())
            if isinstance(record, str):
                faults.refuse(block.line(index), record)
                continue
            row = metadata_row(record)
            row[schema.IMAGE] = pictures.read(str(record.get("key")), row[schema.KEY])
            yield row


def _number(file: str) -> str:
    """What a file of metadata and the zip of its pictures have in common.

    >>> _number("metadata/metadata_0a1.jsonl.gz"), _number("data/data_0a1.zip"), _number("data/0a1.zip")
    ('0a1', '0a1', '0a1')
    """
    return re.split(r"[_-]", os.path.basename(file).partition(".")[0])[-1]


class _Pictures:
    """The pictures of one zip, or of none."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._missing = 0
        self._names: dict[str, zipfile.ZipInfo] = {}
        if path is not None:
            try:
                self._zip = zipfile.ZipFile(path)
            except zipfile.BadZipFile as failure:
                raise FormatError(f"{path}: the zip is damaged or cut off ({failure}). Download it again.") from None
            self._names = {PurePosixPath(info.filename).stem: info for info in self._zip.infolist()}

    def read(self, *names: str) -> dict[str, Any] | None:
        """The picture under the first of these names that there is."""
        info = next((self._names[name] for name in names if name in self._names), None)
        if info is None or info.file_size > MAX_BYTES:
            self._missing += 1
            return None
        try:
            data = self._zip.read(info)
        except (zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError):  # damaged, encrypted, unknown
            self._missing += 1
            return None
        return {"bytes": data, "path": PurePosixPath(info.filename).name}

    def report(self) -> str | None:
        """How many pictures could not be had, where there is a zip."""
        if self._path is None or not self._missing:
            return None
        what = f"{self._missing:,} pictures are missing or unreadable; their rows have none"
        return f"{os.path.basename(self._path)}: {what}"
