"""Tars, Parquet files and folders as a `datasets` builder that makes Arrow tables, for the functions of `shards`.

The module is apart from them because a builder's class cannot be had without importing `datasets`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.utils.file_utils import xopen

from hf_mllm_aug import schema
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.data_files import label, shown
from hf_mllm_aug.loaders.img2dataset import iter_folder
from hf_mllm_aug.loaders.img2dataset_parquet import iter_tables
from hf_mllm_aug.loaders.prepared import named
from hf_mllm_aug.loaders.tally import OnError, Tally
from hf_mllm_aug.loaders.webdataset import iter_tar

logger = logging.getLogger(__name__)

_ROWS_A_TABLE = 100
_BYTES_A_TABLE = 32 * 1024 * 1024


@dataclass
class ShardsConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets is untyped
    """What the rows depend on: all of it is part of the name that datasets' cache has for them.

    Args:
        form: What the shards are. Tars and Parquet files come as ``data_files``, folders as ``folders``.
        folders: The folders, each with a number that changes when a file in it does.
        on_error: As for `load_webdataset`.
        code_version: The version of the code that makes the rows.
    """

    form: Literal["tar", "parquet", "folder"] = "tar"
    folders: list[tuple[str, int]] = field(default_factory=list)
    on_error: OnError = "warn"
    code_version: int = 0


class Shards(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # datasets is untyped
    """Rows of key, image (undecoded), url, caption; one split, ``train``."""

    BUILDER_CONFIG_CLASS = ShardsConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=schema.base_features())

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        names = [folder for folder, _ in self.config.folders]
        paths = names
        if self.config.data_files is not None:
            names = list(self.config.data_files[datasets.Split.TRAIN])
            paths = dl_manager.download(names)
        # One list, of pairs: it is what `datasets` divides among workers and nodes.
        gen_kwargs = {"shards": list(zip(names, paths, strict=True)), "streaming": dl_manager.is_streaming}
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs=gen_kwargs)]

    def _generate_tables(self, shards: list[tuple[str, str]], streaming: bool) -> Iterator[tuple[Key, pa.Table]]:
        total = Tally(named([label(name) for name, _ in shards]))
        for number, (name, path) in enumerate(shards):
            tally = Tally(shown(name), self.config.on_error)
            # A shard without a row gives an empty table: a split without any table is an error to `datasets`.
            part = 0
            for part, table in enumerate(self._tables(path, tally), start=1):
                yield Key(number, part), table
            if not part:
                yield Key(number, part), self.info.features.arrow_schema.empty_table()
            total.add(tally)
            # In a stream a shard at a time is seen, by whichever worker has it. Downloads that failed are no news.
            if streaming and tally.summary():
                logger.log(logging.WARNING if tally.faults else logging.INFO, tally.summary())
        if not streaming and not total.rows and len(total.damaged) == len(shards):
            # Of a stream nobody here knows all shards: each is read by itself.
            sources = named([name for name, _ in shards])
            raise FormatError(f"{sources}: no row could be read, every file is damaged. {total.first_damage}")
        if not streaming and total.summary():
            logger.warning(total.summary())
            self.info.description = total.summary()  # stays with the rows in the cache

    def _tables(self, path: str, tally: Tally) -> Iterator[pa.Table]:
        arrow_schema = self.info.features.arrow_schema
        if self.config.form == "folder":
            yield from _to_tables(iter_folder(Path(path), tally), arrow_schema)
        elif self.config.form == "tar":
            # Without a block size remote files are read as they come, not in pieces asked for one by one.
            with xopen(path, "rb", block_size=0) as file:
                yield from _to_tables(iter_tar(file, tally), arrow_schema)
        else:
            with xopen(path, "rb") as file:
                yield from iter_tables(file, tally, arrow_schema)


def _to_tables(rows: Iterable[dict[str, Any]], arrow_schema: pa.Schema) -> Iterator[pa.Table]:
    waiting: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += len(row[schema.IMAGE]["bytes"] or b"")
        if len(waiting) == _ROWS_A_TABLE or size > _BYTES_A_TABLE:
            yield pa.Table.from_pylist(waiting, schema=arrow_schema)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_pylist(waiting, schema=arrow_schema)
