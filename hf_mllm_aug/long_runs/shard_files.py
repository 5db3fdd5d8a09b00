"""One Parquet file a finished shard and stage: how it is written, known again, and read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.long_runs.plan import FETCH, Plan

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_mllm_aug import Captioner
    from hf_mllm_aug.long_runs.store import Store

logger = logging.getLogger(__name__)

ROW, KEY, ERROR = "row", "key", "error"
IMAGE, STATUS, REASON = "image", "status", "reason"

_SUFFIX = ".parquet"
_MARK = b"hf_mllm_aug"
_READERS = 8
_PICTURES = 64  # rows a row group of pictures


@dataclass(frozen=True)
class Stage:
    """A step of a run, whose results have a folder of their own.

    Args:
        name: The folder.
        digest: Of all that its results depend on.
        captioner: Who captions; None where pictures are fetched.
    """

    name: str
    digest: str
    captioner: Captioner | None = None

    def path(self, shard: int) -> str:
        """The file of a shard, in the run's folder."""
        return f"{self.name}/{shard:05d}{_SUFFIX}"


def caption_schema() -> pa.Schema:
    """The columns of a captioner's file."""
    import pyarrow as pa

    texts = {name: pa.string() for name in (KEY, "generated", "caption", "finish_reason", ERROR)}
    kinds = {ROW: pa.int64(), "tokens": pa.int32(), **texts}
    order = (ROW, KEY, "generated", "caption", "tokens", "finish_reason", ERROR)
    return pa.schema([(name, kinds[name]) for name in order])


def fetch_schema() -> pa.Schema:
    """The columns of a file of fetched pictures."""
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [(ROW, pa.int64()), (KEY, pa.string()), (IMAGE, picture), (STATUS, pa.string()), (REASON, pa.string())]
    return pa.schema(columns)


class Shards:
    """The finished shards in a run's folder.

    Args:
        store: The folder.
        plan: Its plan.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store = store
        self._plan = plan
        self._seen: dict[tuple[str, int], int] = {}

    def stage(self, name: str, captioner: Captioner | None = None) -> Stage:
        """A stage of the plan."""
        return Stage(name, self._plan.digest(name), captioner)

    def scan(self, stages: Sequence[Stage]) -> None:
        """Look at all files of some stages, several at a time, and clear away what dead writers left."""
        self.store.sweep(".")  # of plans
        for stage in stages:
            self.store.sweep(stage.name)
            present = [name for name in self.store.names(stage.name) if name.endswith(_SUFFIX)]
            numbers = [int(name[: -len(_SUFFIX)]) for name in present if name[: -len(_SUFFIX)].isdigit()]
            with ThreadPoolExecutor(_READERS) as pool:
                list(pool.map(lambda number, stage=stage: self.size(stage, number), numbers))

    def complete(self, stages: Sequence[Stage]) -> list[int]:
        """The shards that are known to be finished in all of some stages, sorted."""
        numbers = {shard for _, shard in self._seen}
        return sorted(shard for shard in numbers if all((stage.name, shard) in self._seen for stage in stages))

    def size(self, stage: Stage, shard: int) -> int | None:
        """The rows of a finished shard; None if it is not finished.

        A file that is damaged is reported, renamed, and not taken for finished.

        Raises:
            FormatError: The file was written with other settings or for other rows.
        """
        known = self._seen.get((stage.name, shard))
        if known is not None:
            return known
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = stage.path(shard)
        if not self.store.exists(name):
            return None
        try:
            with self.store.open(name) as file:
                metadata = pq.ParquetFile(file).metadata
            mark: dict[str, Any] = json.loads((metadata.metadata or {}).get(_MARK, b"null"))
            digest = mark["digest"]
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            self.set_aside(stage, shard, error)
            return None
        if digest != stage.digest or mark["shard"] != shard:
            raise FormatError(
                f"{self.store}/{name} was written with other settings, for other rows, or as another shard than "
                "this run's. To do: remove the file, or take another folder."
            )
        self._seen[stage.name, shard] = int(metadata.num_rows)
        return int(metadata.num_rows)

    def set_aside(self, stage: Stage, shard: int, error: BaseException) -> None:
        """Rename a damaged file, so that its shard is done again."""
        name = stage.path(shard)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        logger.warning("%s is damaged (%s); it is now %s.bad and the shard is done again", name, reason, name)
        self.store.rename(name, f"{name}.bad")
        self._seen.pop((stage.name, shard), None)

    def read(self, stage: Stage, shard: int, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The rows of a finished shard; None if its file turns out to be damaged or gone.

        Args:
            stage: The stage.
            shard: Its number.
            columns: Which; by default all.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.size(stage, shard) is None:
            return None
        try:
            with self.store.open(stage.path(shard)) as file:
                return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))
        except FileNotFoundError:
            self._seen.pop((stage.name, shard), None)
            return None
        except (pa.ArrowException, OSError, ValueError) as error:
            self.set_aside(stage, shard, error)
            return None

    def write(self, stage: Stage, shard: int, table: pa.Table) -> None:
        """Finish a shard."""
        import pyarrow.parquet as pq

        mark = {"format": self._plan.format, "stage": stage.name, "shard": shard, "digest": stage.digest}
        table = table.replace_schema_metadata({_MARK: json.dumps(mark).encode()})
        with self.store.writing(stage.path(shard)) as path:
            pq.write_table(table, path, row_group_size=_PICTURES if stage.name == FETCH else None, compression="zstd")
        self._seen[stage.name, shard] = len(table)
