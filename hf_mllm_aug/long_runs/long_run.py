"""`run`, and `LongRun` for those who want to look on: the command line."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hf_mllm_aug.augmentation import Augment
from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.errors import AugError, UnknownNameError, UsageError
from hf_mllm_aug.long_runs import local, on_ray
from hf_mllm_aug.long_runs.claims import Claims
from hf_mllm_aug.long_runs.job import Job
from hf_mllm_aug.long_runs.plan import Plan, make_plan, settle
from hf_mllm_aug.long_runs.report import Reporter, ShardReport, Summary
from hf_mllm_aug.long_runs.result import MissingShardError, gather
from hf_mllm_aug.long_runs.source import MapSource, Source, StreamSource
from hf_mllm_aug.long_runs.store import StoreError, open_store
from hf_mllm_aug.shearing import Shear

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from hf_mllm_aug import FetchImages

SHARD_SIZE = 1024
_TRIES = 3


class Executor(Protocol):
    """Works shards until none of them is missing, in this process or in others."""

    def __call__(self, job: Job, shards: Iterable[int], finished: Callable[[ShardReport], None]) -> None:
        """See `local.work`."""


_EXECUTORS: dict[str, Executor] = {"local": local.work, "ray": on_ray.work}
_EXTRAS = {"ray": "ray"}  # by executor: the extra that it needs, which bears the name of its module


def run(
    dataset: Dataset | IterableDataset,
    captioners: str | Captioner | Sequence[str | Captioner],
    output_dir: str | os.PathLike[str],
    *,
    shear: Shear | None = Shear(),  # noqa: B008 - frozen
    keep_unsheared: bool = False,
    fetch: FetchImages | None = None,
    shard_size: int = SHARD_SIZE,
    shard: str | tuple[int, int] | None = None,
    executor: str = "local",
    address: str | None = None,
    retry_errors: bool = False,
    log_json: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Dataset:
    """Caption a data set in shards that are kept: the resumable form of ``dataset.map(Augment(captioners))``.

    Every finished shard is a Parquet file in ``output_dir``, whole or absent, whatever ends the process; called again,
    `run` goes on where it was, and with another captioner it adds that one's captions alone. Several processes may work
    on one folder at a time, started by hand, by a job array (``shard``) or by ``accelerate launch``, whose processes
    take the GPU of their number. Pictures are read, fetched and decoded ahead of the model.

    Args:
        dataset: The rows: a `Dataset`, worked in ranges of ``shard_size`` rows, or a stream, worked by its own shards.
        captioners: A name, a `Captioner`, or several; none (``[]``) to do no more than fetch.
        output_dir: The run's folder: a path or an fsspec URL.
        shear: As in `Augment`.
        keep_unsheared: As in `Augment`.
        fetch: Fetches the pictures first, which are kept in the folder too.
        shard_size: Rows a shard, of a `Dataset` and of a stream that has one shard only or is read as one.
        shard: Work only the shards i, i+n, i+2n, ...: ``(i, n)`` or ``"i/n"``, 0 <= i < n.
        executor: ``"local"``: this process. ``"ray"``: the workers of a Ray cluster, one on each GPU; extra ``ray``.
        address: Of the cluster: ``"auto"``, ``"host:port"``, ``"ray://host:port"``. None: the one that ``RAY_ADDRESS``
            names, or else one is started on this machine, for this run.
        retry_errors: Try the rows again that failed in finished shards.
        log_json: A file that gets one line of JSON for each shard as it is finished.
        progress: Whether to show a live line on a terminal.

    Returns:
        The rows in the source's order, with the columns that `FetchImages` and `Augment` add; with ``shard``, those of
        its shards that are finished. They lie on disk, in the cache of `datasets`.

    Raises:
        UsageError: The folder holds a run with other settings, which are named; or an argument cannot work.
        FormatError: A file in the folder is not of this run, or the source has changed.
        AugError: The folder cannot be read or written; what is finished stays finished.

    >>> import tempfile
    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"key": ["a", "b"], "image": ["no/such/picture.png", None]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = run(rows, "tiny-llava", folder, progress=False)
    >>> done["error_tiny_llava"][:]
    ['picture.png: no such file', 'no picture']
    """
    long_run = LongRun(
        dataset,
        captioners,
        output_dir,
        shear=shear,
        keep_unsheared=keep_unsheared,
        fetch=fetch,
        shard_size=shard_size,
        shard=shard,
        executor=executor,
        address=address,
        retry_errors=retry_errors,
    )
    long_run.work(log_json=log_json, progress=progress)
    return long_run.rows()


class LongRun:
    """A run and its folder. Its arguments are those of `run`; nothing is written before `work`.

    Raises:
        UsageError: An argument cannot work.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        captioners: str | Captioner | Sequence[str | Captioner],
        output_dir: str | os.PathLike[str],
        *,
        shear: Shear | None = Shear(),  # noqa: B008 - frozen
        keep_unsheared: bool = False,
        fetch: FetchImages | None = None,
        shard_size: int = SHARD_SIZE,
        shard: str | tuple[int, int] | None = None,
        executor: str = "local",
        address: str | None = None,
        retry_errors: bool = False,
    ) -> None:
        if isinstance(shard_size, bool) or not isinstance(shard_size, int) or shard_size < 1:
            raise UsageError(f"shard_size={shard_size!r} must be an integer of 1 or more")
        self.piece = parse_piece(shard)
        self._executor = _find_executor(executor, address)
        given = [captioners] if isinstance(captioners, (str, Captioner)) else list(captioners)
        if not given and fetch is None:
            raise UsageError("nothing to do: name a captioner, or pass fetch=")
        self.augment = Augment(given, shear=shear, keep_unsheared=keep_unsheared) if given else None
        self._fetch, self._retry_errors = fetch, retry_errors
        column = self.members[0].image_column if self.members else None
        if fetch is not None and column not in (None, fetch.image_column):
            raise UsageError(
                f"pictures are fetched into the column {fetch.image_column!r} and captioned from {column!r}. "
                "To do: pass FetchImages(image_column=)"
            )
        self.source = _source(dataset, shard_size)
        self._split = dataset.split
        self.store = open_store(output_dir)
        self._job: Job | None = None
        self._looked: Job | None = None  # at the folder, before anything is written

    @functools.cached_property
    def _plan(self) -> Plan:
        return make_plan(self.source, self.augment, self._fetch)

    @property
    def members(self) -> tuple[Captioner, ...]:
        """The captioners, with the settings that they run with."""
        return self.augment.members if self.augment is not None else ()

    @property
    def job(self) -> Job:
        """The run as executors get it, settled with what is in the folder.

        Raises:
            UsageError: The folder holds a run with other settings.
        """
        if self._job is None:
            self._job = self._settled(write=True)
        return self._job

    def _settled(self, *, write: bool) -> Job:
        plan = settle(self.store, self._plan, write=write)
        if isinstance(self.source, StreamSource) and plan.source["rows"] is not None:
            self.source.learn(plan.source["rows"])
        job = self._looked
        if job is None or job.plan != plan:
            rank = os.environ.get("LOCAL_RANK", "")
            number = int(rank) if rank.isdigit() else None
            job = Job(self.source, self.store, plan, self.augment, self._fetch, self._retry_errors, number)
        job.shards.scan(job.stages)  # what an earlier look has found is not opened again
        self._looked = job
        return job

    def finished(self) -> tuple[int, int | None]:
        """How many shards are finished, and how many there are in all, where that is known; no plan is written.

        Raises:
            UsageError: The folder holds a run with other settings.
        """
        job = self._job or self._settled(write=False)
        return len(job.shards.complete(job.stages)), self.source.shards

    def work(self, *, log_json: str | os.PathLike[str] | None = None, progress: bool = True) -> Summary:
        """Do what is missing.

        Raises:
            AugError: As `run`.
        """
        with self._told():
            job = self.job
            with Reporter(self._left(), None if log_json is None else Path(log_json), progress) as report:
                self._executor(job, self._order(), report)
            job.shards.scan(job.stages)  # others may have finished some
            with contextlib.closing(Claims(job.store)) as claims:
                claims.sweep()
            self._note_rows()
        return report.summary

    @property
    def fetches(self) -> bool:
        """Whether pictures are fetched."""
        return self._fetch is not None

    def rows(self, *, pictures: bool = True) -> Dataset:
        """The augmented rows of the finished shards; a shard that turns out to be damaged is worked again.

        Args:
            pictures: Whether pictures that were fetched are among the columns; they are copied, all of them.
        """
        for _ in range(_TRIES):
            try:
                with self._told():
                    numbers = [number for number in sorted(self._numbers()) if self.job.is_finished(number)]
                    return gather(self.job, numbers, self._split, pictures=pictures)
            except MissingShardError:
                self.work(progress=False)
        raise AugError(f"files in {self.store} are damaged as soon as they are written. To do: look at its disk.")

    def _numbers(self) -> Iterable[int]:
        first, step = self.piece or (0, 1)
        if self.source.shards is not None:
            return range(first, self.source.shards, step)
        return [number for number in self.job.shards.complete(self.job.stages) if number % step == first]

    def _order(self) -> Iterable[int]:
        """The shards, from a place of this process's own if it is one of several."""
        first, step = self.piece or (0, 1)
        if self.source.shards is None:
            return itertools.count(first, step)
        numbers = list(range(first, self.source.shards, step))
        rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        if rank.isdigit() and world.isdigit() and 0 <= int(rank) < int(world):
            start = int(rank) * len(numbers) // int(world)
            numbers = numbers[start:] + numbers[:start]
        return numbers

    def _left(self) -> int | None:
        """How many rows are left to work, where that is known."""
        size = self.source.shard_size
        if self.source.rows is None or size is None or self._retry_errors:
            return None
        missing = [number for number in self._numbers() if not self.job.is_finished(number)]
        return sum(min(size, self.source.rows - number * size) for number in missing)

    def _note_rows(self) -> None:
        """Write down how many rows a stream turned out to have."""
        plan = self.job.plan
        if plan.source["rows"] is None and self.source.rows is not None:
            known = {**plan.source, "rows": self.source.rows}
            settle(self.store, replace(plan, source=known, shards=self.source.shards))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say of a folder that fails what is finished in it, and what to do."""
        try:
            yield
        except StoreError as error:
            raise AugError(self._stopped(str(error))) from error

    def _stopped(self, problem: str) -> str:
        done = total = None
        if self._job is not None:
            done, total = len(self._job.shards.complete(self._job.stages)), self.source.shards
        kept = "" if done is None else f" {done:,} of {'its' if total is None else f'{total:,}'} shards are finished."
        return f"{problem.rstrip('.')}.{kept} Once that is mended, the same command goes on from there."


def parse_piece(shard: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """The piece of a job array: its number and how many there are.

    Raises:
        UsageError: It is none.

    >>> parse_piece("2/8"), parse_piece((0, 1)), parse_piece(None)
    ((2, 8), (0, 1), None)
    """
    if shard is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", shard) if isinstance(shard, str) else None
    pair = tuple(map(int, found.groups())) if found else shard
    if isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(number, int) for number in pair):
        number, count = pair
        if 0 <= number < count:
            return number, count
    raise UsageError(f"shard={shard!r} must be i/n with 0 <= i < n, such as 0/4 to 3/4 for four jobs")


def _find_executor(name: str, address: str | None) -> Executor:
    if name not in _EXECUTORS:
        raise UnknownNameError("executor", name, _EXECUTORS)
    if name in _EXTRAS and find_spec(_EXTRAS[name]) is None:
        raise UsageError(
            f"executor={name!r} needs an extra that is not there: pip install 'hf-mllm-aug[{_EXTRAS[name]}]'"
        )
    if name == "ray":
        return functools.partial(on_ray.work, address=address)
    if address is not None:
        raise UsageError(f"address={address!r} is for executor='ray', not {name!r}")
    return _EXECUTORS[name]


def _source(dataset: Any, shard_size: int) -> Source:
    from datasets import Dataset, IterableDataset

    if isinstance(dataset, Dataset):
        return MapSource(dataset, shard_size)
    if isinstance(dataset, IterableDataset):
        return StreamSource(dataset, shard_size)
    splits = f" Choose one of its splits: {', '.join(map(repr, dataset))}." if isinstance(dataset, dict) else ""
    raise UsageError(f"run takes a Dataset or an IterableDataset, not a {type(dataset).__name__}.{splits}")
