"""The executor of one process: the next shards are read while the model works, finished ones are written meanwhile.

Several processes on one folder are several of these: each works the shards that nobody has claimed, and looks after
those of the others at the end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from hf_mllm_aug.captioners.pipeline import Work, caption_works
from hf_mllm_aug.captioners.rows import Rows
from hf_mllm_aug.captioners.stopwatch import Stopwatch
from hf_mllm_aug.long_runs.claims import Claims
from hf_mllm_aug.long_runs.job import Job, tasks
from hf_mllm_aug.long_runs.lookahead import Ahead
from hf_mllm_aug.long_runs.plan import FETCH
from hf_mllm_aug.long_runs.reading import Block, ShardWork, blocks, fetched
from hf_mllm_aug.long_runs.report import ShardReport
from hf_mllm_aug.long_runs.shard_files import ERROR, KEY, ROW, STATUS, caption_schema

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.pipeline import Caption

_NO_ROWS = Rows([], [], {}, single=False)
_BLOCKS_AHEAD = 1  # and one more that the thread holds, each with its first pictures decoded
_SHARDS_BEING_WRITTEN = 2
_POLL = 0.5  # seconds between two looks at what others are doing
_PATIENCE = 120.0  # seconds after which, with nothing else to do, what another has claimed is done here too


def work(job: Job, shards: Iterable[int], finished: Callable[[ShardReport], None]) -> None:
    """Work shards until none of them is missing.

    Args:
        job: The run.
        shards: Their numbers, in the order to begin with; it may go on behind the last.
        finished: Called with each shard's report, once its files are written.

    Raises:
        AugError: As `Augment`; or the run's folder cannot be read or written.
    """
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        claims = Claims(job.store)
        stack.callback(claims.close)
        writer = stack.enter_context(_Writer())
        works: Iterable[ShardWork] = _claimed(job, shards, claims, stop)
        if job.fetch is not None:
            works = stack.enter_context(Ahead(fetched(job, works), 1, "fetch-ahead", stop))
        items = stack.enter_context(Ahead(blocks(job, works), _BLOCKS_AHEAD, "read-ahead", stop))
        stack.callback(stop.set)  # before any of them is waited for
        for done in caption_works(_works(items), job.rank):
            if isinstance(done.tag, Block):
                _shear(job, done)
            else:
                writer.submit(_finish, job, done.tag, claims, finished)


class _Writer:
    """One thread that writes, a bounded number of shards behind; a failure is raised at the next call or the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._waiting: list[Future[None]] = []

    def submit(self, function: Callable[..., None], *arguments: object) -> None:
        while len(self._waiting) >= _SHARDS_BEING_WRITTEN or (self._waiting and self._waiting[0].done()):
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for future in self._waiting:
                    future.result()
        finally:
            self._pool.shutdown(wait=True)  # what is captioned is written, whatever ends the run


def _claimed(job: Job, shards: Iterable[int], claims: Claims, stop: threading.Event) -> Iterator[ShardWork]:
    """Claim shards with something left to do; those that others have claimed come last."""
    began = time.monotonic()
    mine: set[tuple[str, int]] = set()
    put_off: list[int] = []

    def claim(shard: int, retry: bool, patient: bool = True) -> tuple[ShardWork | None, bool]:
        """What of a shard is ours to do, and whether something is another's."""
        left = [task.stage.name for task in tasks(job, shard, retry) if (task.stage.name, shard) not in mine]
        taken = [name for name in left if claims.take(name, shard) or not patient]
        if job.fetch is not None and FETCH in left and FETCH not in taken:
            for name in taken:  # there is nothing to caption yet
                claims.release(name, shard)
            return None, True
        # Asked again: another may have finished some before the claim was ours.
        found = [task for task in tasks(job, shard, retry) if task.stage.name in taken]
        for name in set(taken) - {task.stage.name for task in found}:
            claims.release(name, shard)
        mine.update((task.stage.name, shard) for task in found)
        return (ShardWork(shard, found) if found else None), len(taken) < len(left)

    for shard in shards:
        if job.source.shards is not None and shard >= job.source.shards:
            break
        found, others = claim(shard, job.retry_errors)
        if others:
            put_off.append(shard)
        if found is not None:
            yield found
    # A shard may take another as long as ours took us.
    now = time.monotonic()
    patience = now + max(_PATIENCE, 3 * (now - began) / max(len(mine), 1))
    while put_off:
        for shard in tuple(put_off):
            found, others = claim(shard, retry=False, patient=time.monotonic() < patience)
            if not others:
                put_off.remove(shard)
            if found is not None:
                yield found
        if put_off and stop.wait(_POLL):
            return


def _works(items: Ahead[Block | ShardWork]) -> Iterator[Work | None]:
    """What is read, as works: blocks to be captioned, and shards behind theirs. None while nothing is there.

    What is begun is done first then: the next shard may have to wait for another process, which may wait for ours.
    """
    following = iter(items)
    while True:
        if not items.is_ready():
            yield None
        start = time.perf_counter()
        item = next(following, None)
        if item is None:
            return
        watch = Stopwatch((item.work if isinstance(item, Block) else item).seconds)
        watch.add("reading", time.perf_counter() - start)
        if isinstance(item, Block):
            members = [task.stage.captioner for task in item.tasks if task.stage.captioner is not None]
            yield Work(members, item.rows, watch, tag=item)
        else:
            yield Work([], _NO_ROWS, watch, tag=item)


def _shear(job: Job, work: Work) -> None:
    """Keep a block's captions with its tasks, sheared."""
    block: Block = work.tag
    if job.augment is None:
        return
    with work.watch.phase("shearing"):
        for task, column in zip(block.tasks, work.captions, strict=True):
            rows = zip(block.numbers, block.rows.keys, column, block.references, strict=True)
            for number, key, caption, reference in rows:
                task.results.append(_row(number, key, caption, job.augment.sheared(caption, reference)))


def _row(number: int, key: str | None, generated: Caption, sheared: Caption) -> dict[str, object]:
    return {
        ROW: number,
        KEY: key,
        "generated": generated.text,
        "caption": sheared.text,
        "tokens": generated.tokens,
        "finish_reason": generated.finish_reason,
        ERROR: sheared.error,
    }


def _finish(job: Job, item: ShardWork, claims: Claims, finished: Callable[[ShardReport], None]) -> None:
    start = time.perf_counter()
    report = ShardReport(item.shard, item.rows, seconds=item.seconds)
    is_shard = item.is_shard(job)
    for task in item.tasks:
        if task.stage.captioner is not None:
            if is_shard:
                job.shards.write(task.stage, item.shard, task.table(caption_schema()))
            failures = [row[ERROR] for row in task.results if row[ERROR] is not None]
            report.tokens[task.stage.name] = sum(row["tokens"] or 0 for row in task.results)
        else:
            failures = [f"{row[STATUS]}: {row['reason']}" for row in task.results if row[STATUS] != "ok"]
        report.add(task.stage.name, len(task.results), failures)
        claims.release(task.stage.name, item.shard)
    report.seconds["writing"] = time.perf_counter() - start
    if is_shard:
        finished(report)
