"""Lists of pairs as a `datasets` builder that makes Arrow tables, for `load_pairs`.

``Dataset.from_generator`` encodes row by row, which takes several times as long as reading the file does; at 15 million
rows that is most of an hour. The module is apart from `pairs`, because a builder's class cannot be had without
importing `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from hf_mllm_aug import schema
from hf_mllm_aug.loaders.pairs import iter_rows

_ROWS_A_TABLE = 5_000


@dataclass
class PairsConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets is untyped
    """What the rows depend on: all of it is part of the name that datasets' cache has for them.

    Args:
        files: The files, each with its size in bytes and its time of change in ns, so that an edited one is read again.
        image_root: As for `load_pairs`.
        code_version: The version of the code that makes the rows.
    """

    files: list[tuple[str, int, int]] = field(default_factory=list)
    image_root: str | None = None
    code_version: int = 0


class Pairs(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # datasets is untyped
    """Rows of key, image (undecoded), url, caption from lists of pairs; one split, ``train``."""

    BUILDER_CONFIG_CLASS = PairsConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=schema.base_features())

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs={"files": self.config.files})]

    def _generate_tables(self, files: list[tuple[str, int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        arrow_schema = self.info.features.arrow_schema
        for shard, (file, _, _) in enumerate(files):
            rows: list[dict[str, Any]] = []
            part = 0
            for row in iter_rows(file, self.config.image_root):
                rows.append(row)
                if len(rows) == _ROWS_A_TABLE:
                    yield Key(shard, part), pa.Table.from_pylist(rows, schema=arrow_schema)
                    rows, part = [], part + 1
            # A list without a pair gives an empty table: a split without any table is an error to `datasets`.
            if rows or not part:
                yield Key(shard, part), pa.Table.from_pylist(rows, schema=arrow_schema)
