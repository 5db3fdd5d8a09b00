"""Lists of lines as a `datasets` builder that makes Arrow tables, one shard a piece of a file.

The module is apart from those that read the lines, because a builder's class cannot be had without importing
`datasets`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from hf_mllm_aug import schema
from hf_mllm_aug.loaders.declip import declip_table
from hf_mllm_aug.loaders.faults import Faults
from hf_mllm_aug.loaders.tables import check_order, pair_table
from hf_mllm_aug.loaders.text_blocks import Block, Piece, cut, iter_blocks
from hf_mllm_aug.loaders.yfcc_metadata import metadata_layout, metadata_table, photo_ids

# Raise it when the rows made of a file change: datasets' cache does not see the code.
CODE_VERSION = 1

Stamped = tuple[str, int, int]
_Reader = Callable[[Block, Faults, pa.Schema], pa.Table]

logger = logging.getLogger(__name__)


@dataclass
class TablesConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets is untyped
    """What the rows depend on: all of it is part of the name that datasets' cache has for them.

    Args:
        files: The files, each with its size in bytes and its time of change in ns, so that an edited one is read again.
        lines: What a line is: ``"caption-url"``, ``"url-caption"``, ``"declip"`` or ``"yfcc"``.
        split: The name of the one split.
        image_root: The folder that the file names of ``"declip"`` start from.
        photos: OpenAI's list, the photos of which are wanted of ``"yfcc"``.
        on_error: ``"raise"`` or ``"skip"``.
        code_version: The version of the code that makes the rows.
    """

    files: list[Stamped] = field(default_factory=list)
    lines: str = "caption-url"
    split: str = "train"
    image_root: str | None = None
    photos: Stamped | None = None
    on_error: str = "raise"
    code_version: int = CODE_VERSION


class Tables(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # datasets is untyped
    """Rows of key, image, url, caption from lists of lines; one split, cut into as many shards as there are pieces."""

    BUILDER_CONFIG_CLASS = TablesConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=schema.base_features())

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        pieces = [piece for file, _, _ in self.config.files for piece in cut(file)]
        return [datasets.SplitGenerator(self.config.split, gen_kwargs={"pieces": pieces})]

    def _generate_tables(self, pieces: list[Piece]) -> Iterator[tuple[Key, pa.Table]]:
        arrow_schema = self.info.features.arrow_schema
        reports = []
        shard = 0
        for file, its_pieces in itertools.groupby(pieces, key=lambda piece: piece[0]):
            faults = Faults(file, self.config.on_error)
            read = _reader(self.config, file)
            for piece in its_pieces:
                for part, block in enumerate(iter_blocks(piece)):
                    yield Key(shard, part), read(block, faults, arrow_schema)
                shard += 1
            if (report := faults.report()) is not None:
                logger.warning("%s", report)
                reports.append(report)
        # Kept beside the rows, so that what was put right or skipped is known when they come from the cache too.
        self.info.description = "\n".join(reports)


def _reader(config: TablesConfig, file: str) -> _Reader:
    """What makes a table of a block of this file."""
    if config.lines == "declip":
        return lambda block, faults, schema: declip_table(block, config.image_root, faults, schema)
    if config.lines == "yfcc":
        layout = metadata_layout(file)
        wanted = None if config.photos is None else photo_ids(config.photos[0])
        return lambda block, faults, schema: metadata_table(block, layout, wanted, faults, schema)
    order = check_order(file, "caption-url" if config.lines == "caption-url" else "url-caption")
    return lambda block, faults, schema: pair_table(block, order, faults, schema)
