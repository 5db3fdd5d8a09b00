"""What a run is to those who work on it, and what is left to do of one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.long_runs.plan import FETCH, Plan
from hf_mllm_aug.long_runs.shard_files import ERROR, ROW, STATUS, Shards, Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_mllm_aug import Augment, FetchImages
    from hf_mllm_aug.long_runs.source import Source
    from hf_mllm_aug.long_runs.store import Store

# Kinds of results of FetchImages after which another try may help.
_PASSING = ("name_not_found", "unreachable", "broken", "timeout", "http_error", "put_off")


@dataclass(frozen=True)
class Job:
    """A run, as it is handed to an executor: settings only, so that it may travel to other processes.

    Args:
        source: The rows.
        store: The run's folder.
        plan: The plan in it.
        augment: The captioners and the shearing; None where pictures are only fetched.
        fetch: What fetches pictures; None where the rows have them.
        retry_errors: Whether rows that failed before are tried again.
        rank: The number of this process among those of its machine, which picks its GPU.
    """

    source: Source
    store: Store
    plan: Plan
    augment: Augment | None
    fetch: FetchImages | None
    retry_errors: bool = False
    rank: int | None = None

    @cached_property
    def shards(self) -> Shards:
        """The finished shards, as far as this process knows."""
        return Shards(self.store, self.plan)

    @cached_property
    def stages(self) -> list[Stage]:
        """The steps, in order."""
        members = self.augment.members if self.augment is not None else ()
        fetching = [self.shards.stage(FETCH)] if self.fetch is not None else []
        return [*fetching, *(self.shards.stage(schema.slug(member.label), member) for member in members)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def is_finished(self, shard: int) -> bool:
        """Whether all stages of a shard are finished."""
        return all(self.shards.size(stage, shard) is not None for stage in self.stages)


@dataclass
class Task:
    """What is to be done of a shard's stage.

    Args:
        stage: The stage.
        before: What is finished and has rows to be tried again; None where nothing is.
        rows: The numbers of those rows; None for all.
    """

    stage: Stage
    before: pa.Table | None = None
    rows: frozenset[int] | None = None
    results: list[dict[str, Any]] = field(default_factory=list)

    def table(self, layout: pa.Schema) -> pa.Table:
        """All rows of the shard, in order."""
        import pyarrow as pa

        rows = self.results
        if self.before is not None:
            merged = {row[ROW]: row for row in [*self.before.to_pylist(), *rows]}
            rows = [merged[number] for number in sorted(merged)]
        return pa.Table.from_pylist(rows, layout)


def tasks(job: Job, shard: int, retry: bool) -> list[Task]:
    """What is left to do of a shard.

    Args:
        job: The run.
        shard: Its number.
        retry: Whether rows that failed count.
    """
    found: list[Task] = []
    for stage in job.stages:
        if job.shards.size(stage, shard) is None:
            found.append(Task(stage))
        elif retry:
            column = ERROR if stage.captioner is not None else STATUS
            table = job.shards.read(stage, shard, [ROW, column])
            failed = frozenset() if table is None else _failed(table, column)
            if table is None:
                found.append(Task(stage))
            elif failed:
                before = job.shards.read(stage, shard)  # of pictures much more than the columns above
                found.append(Task(stage) if before is None else Task(stage, before, failed))
    return found


def _failed(table: pa.Table, column: str) -> frozenset[int]:
    pairs = zip(table.column(ROW).to_pylist(), table.column(column).to_pylist(), strict=True)
    if column == ERROR:
        return frozenset(row for row, error in pairs if error is not None)
    return frozenset(row for row, status in pairs if status in _PASSING)


def parts(found: Sequence[Task]) -> list[list[Task]]:
    """The captioners' tasks, those of the same rows together: their pictures are decoded once."""
    groups: dict[frozenset[int] | None, list[Task]] = {}
    for task in found:
        if task.stage.captioner is not None:
            groups.setdefault(task.rows, []).append(task)
    return list(groups.values())
