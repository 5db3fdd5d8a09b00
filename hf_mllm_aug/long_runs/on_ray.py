"""The executor of a Ray cluster: on each GPU a worker, which works one shard after the other as `local.work` does.

The rows travel to a worker once, and its results go to the run's folder; what comes back of a shard is its report. A
worker or machine that is lost takes nothing with it but the shards that it was working, which others do again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import hf_mllm_aug
from hf_mllm_aug.errors import AugError, UsageError
from hf_mllm_aug.long_runs import local
from hf_mllm_aug.long_runs.job import Job
from hf_mllm_aug.long_runs.plan import FETCH, read_plan
from hf_mllm_aug.long_runs.source import MapSource
from hf_mllm_aug.long_runs.store import HOST

if TYPE_CHECKING:
    from hf_mllm_aug.long_runs.report import ShardReport

_FOLDER = "ray"  # in the run's folder: the tasks that have begun and not ended
_LOST_WORKERS = 5  # that a shard may cost before it is taken for the cause
_STARTS = 3  # of all workers, before Ray's word that they die is taken
_CPU_WORKERS = 4  # a machine without GPUs: each holds the models
_FETCHED_TOGETHER = 4  # shards a task; the next one's pictures are fetched while one is captioned
_REACHED_WITHIN = 10.0  # seconds
_MOST_IN_MEMORY = 1 << 30  # bytes of rows that are not in files
_QUIET = logging.CRITICAL + 1
_LOG = logging.getLogger(__name__)

# Ray reads these when it is imported or started. On the first two it depends what is said to the world: with the second
# Ray listens on the loopback interface alone, as it does by itself on Windows and macOS.
_PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# And what is said to the terminal: that a task is tried again is no news. What is tidied up behind a run's end must not
# start a cluster of its own, as any use of ray else does.
_SILENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"MapBatches\(_Worker\)",
    "RAY_ENABLE_AUTO_CONNECT": "0",
}


def work(
    job: Job, shards: Iterable[int], finished: Callable[[ShardReport], None], *, address: str | None = None
) -> None:
    """Work shards on a cluster until none of them is missing.

    Args:
        job: The run. Its folder, its rows' files and its captioners' checkpoints must be reachable by all machines.
        shards: Their numbers, in the order to begin with.
        finished: Called with each shard's report, once its files are written.
        address: Of a cluster: ``"auto"``, ``"host:port"``, ``"ray://host:port"``. None: the cluster that this process
            is connected to or that ``RAY_ADDRESS`` names; without any, one is started on this machine, reachable from
            it alone, and shut down at the end.

    Raises:
        UsageError: The rows cannot be handed to other processes, the cluster cannot be reached, or one of its machines
            does not see the run's folder or the rows.
        AugError: As `local.work`; or a shard has cost too many workers.
    """
    if job.source.shards is None:
        raise UsageError(
            "a stream of one shard (or with take, skip, shuffle or the like, which go across its shards) is read from "
            "its beginning to its end, which a cluster cannot share. To do: take "
            "the executor 'local', or a Dataset."
        )
    known = set() if job.retry_errors else set(job.shards.complete(job.stages))
    missing = [shard for shard in shards if shard < job.source.shards and shard not in known]
    if not missing:
        return
    _check_size(job)
    with _cluster(address), _told():
        import ray

        for left in reversed(range(_STARTS)):
            try:
                _work(job, missing, finished)
            except ray.exceptions.ActorDiedError as error:
                # Lost workers are replaced as long as Ray Data goes on. It may end itself when some die before they
                # begin, as where machines are short of something for a moment.
                if not left:
                    raise
                _LOG.warning("Ray lost workers and gave up (%s); they are started again", _first_line(error))
            else:
                return


def _work(job: Job, missing: list[int], finished: Callable[[ShardReport], None]) -> None:
    """Work shards; those that are finished are taken off the list, whatever comes."""
    # Closed at once where something fails here, too: that ends the workers.
    with contextlib.closing(_outcomes(job, list(missing))) as outcomes:
        for reports, failure in outcomes:
            for report in reports:
                finished(report)
                with contextlib.suppress(ValueError):
                    missing.remove(report.shard)
            if failure is not None:
                raise failure


def _check_size(job: Job) -> None:
    if not isinstance(job.source, MapSource) or job.source.dataset.cache_files:
        return
    size = job.source.dataset.data.nbytes
    if size > _MOST_IN_MEMORY:
        raise UsageError(
            f"the rows, {size / 1e9:,.1f} GB, are in this process's memory, and each worker would hold a copy. To do: "
            "save them with Dataset.save_to_disk in a folder that all machines see, and pass what "
            "datasets.load_from_disk gives."
        )


@dataclass
class _Worker:
    """Works shards in a process of the cluster; the run is unpacked when the first comes.

    Args:
        packed: A reference to the packed run. In a list, for Ray would put a bare one's object in its place.
        folder: The driver's working directory, which relative paths start from.
        version: Of the driver's package.
        run: A name of this run alone.
        lives: How many workers a shard may cost.
    """

    packed: list[Any]
    folder: str
    version: str
    run: str
    lives: int
    _job: Job | None = field(default=None, init=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from ray import cloudpickle

        reports: list[ShardReport] = []
        failure: AugError | None = None
        try:
            if self._job is None:
                self._job = self._unpacked()
            shards = [int(shard) for shard in batch["shard"]]
            with self._counted(self._job, shards):
                local.work(self._job, shards, reports.append)
        except AugError as error:  # so that it comes as it is, and not as a traceback of Ray's
            failure = error
        return {"outcome": [cloudpickle.dumps((reports, failure))]}

    @contextlib.contextmanager
    def _counted(self, job: Job, shards: list[int]) -> Iterator[None]:
        """Note in the run's folder that a task is begun, and that it has ended: else its worker was lost with it.

        Raises:
            AugError: That was so too often, and Ray would go on without end.
        """
        name = f"{_FOLDER}/{shards[0]:05d}.begun"
        run, _, times = (job.store.read(name) or b"").decode().partition(" ")
        begun = int(times) if run == self.run else 0
        try:
            if begun > self.lives:
                which = f"shard {shards[0]}" if len(shards) == 1 else f"one of the shards {shards[0]} to {shards[-1]}"
                raise AugError(
                    f"{which} has cost {begun} workers: they ended while they worked it, for lack of memory or by a "
                    "crash. Finished shards are kept. To do: look at Ray's logs of the workers."
                )
            job.store.write(name, f"{self.run} {begun + 1}".encode())
            yield
        finally:
            job.store.delete(name)

    def _unpacked(self) -> Job:
        import ray
        from ray import cloudpickle

        if hf_mllm_aug.__version__ != self.version:
            raise UsageError(
                f"the machine {HOST} has hf-mllm-aug {hf_mllm_aug.__version__}, and the run is of {self.version}. To "
                "do: install the same version on all machines of the cluster."
            )
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        packed = ray.get(self.packed[0])
        try:
            job: Job = cloudpickle.loads(packed)
        except Exception as error:  # unpickling runs the code of `datasets`, of file systems and of generators
            raise UsageError(
                f"the machine {HOST} cannot open the rows ({type(error).__name__}: {error}). To do: keep their files "
                "in a folder that all machines of the cluster see."
            ) from error
        if not _sees(job):
            raise UsageError(
                f"the machine {HOST} does not see the run in {job.store}. To do: take a folder that all machines of "
                "the cluster see, or an fsspec URL."
            )
        return job


def _sees(job: Job) -> bool:
    """Whether the run's folder is the same here as where the run was begun."""
    found = read_plan(job.store)
    stages = {FETCH, *found.captioners} if found is not None else set()
    return found is not None and all(
        stage.name in stages and found.digest(stage.name) == stage.digest for stage in job.stages
    )


def _outcomes(job: Job, shards: list[int]) -> Generator[tuple[list[ShardReport], AugError | None], None, None]:
    """What comes of the shards, as it comes."""
    import ray
    from ray import cloudpickle

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard takes as long as it takes
    context.max_errored_blocks = 0
    context.max_consecutive_actor_init_deaths = _LOST_WORKERS
    with ray.data.DataContext.current(context), _silence("ray", "ray.data"):
        together = _FETCHED_TOGETHER if job.fetch is not None else 1
        tasks = -(-len(shards) // together)
        packed = ray.put(cloudpickle.dumps(replace(job, rank=None)))
        numbers = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=tasks)
        workers, resources = _workers(job, tasks)
        results = numbers.map_batches(
            _Worker,
            fn_constructor_args=([packed], os.getcwd(), hf_mllm_aug.__version__, secrets.token_hex(8), _LOST_WORKERS),
            batch_size=None,  # a block, which is a task: finished ones are reported one by one
            batch_format="numpy",
            # A task that waits at a worker is bound to it: with one at a time, all workers end together.
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            **resources,  # by default Ray starts lost workers again, and gives their tasks to them, without end
        )
        for row in results.iter_rows():
            yield cloudpickle.loads(row["outcome"])


def _workers(job: Job, tasks: int) -> tuple[int, dict[str, int]]:
    """How many workers, and what each takes of the cluster."""
    import ray

    members = job.augment.members if job.augment is not None else ()
    own = [member for member in members if not member.kind.server and not (member.device or "").startswith("cpu")]
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if own and gpus:
        return min(tasks, gpus), {"num_gpus": 1}
    sizes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    sizes = [size for size in sizes if size] or [1]
    each = -(-sum(sizes) // (_CPU_WORKERS * len(sizes)))  # CPUs, and threads, for Ray sets OMP_NUM_THREADS
    return max(1, min(tasks, sum(size // each for size in sizes))), {"num_cpus": each}


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to a cluster, which is started if there is none; what is made here ends here."""
    given, address = address, address or os.environ.get("RAY_ADDRESS") or None
    with _environment({**_SILENT, **({} if address else _PRIVATE)}):
        import ray
        import ray.data

        if ray.is_initialized():
            here = ray.get_runtime_context().gcs_address
            if given is not None and "://" not in given and given not in ("auto", here):
                raise UsageError(
                    f"this process is connected to the Ray cluster at {here}, not to {given}: call ray.shutdown() "
                    "first, or leave out the address"
                )
            yield
            return
        with _terminable() as keep_handler:
            try:
                _knock(address)
                with _without_stderr():
                    ray.init(
                        address or "local",
                        log_to_driver=False,
                        logging_level=_QUIET,
                        **({} if address else {"include_dashboard": False}),
                    )
            except (OSError, RuntimeError, ValueError, ImportError) as error:
                where = f"the Ray cluster at {address} cannot be reached" if address else "Ray cannot be started"
                raise UsageError(f"{where}: {_first_line(error)}") from error
            try:
                keep_handler()
                yield
            finally:
                ray.shutdown()


def _knock(address: str | None) -> None:
    """Ask whether anybody is at an address; Ray itself would go on asking for minutes.

    Raises:
        OSError: Nobody is.
    """
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address or "")
    if found is not None:
        socket.create_connection((found[1], int(found[2])), _REACHED_WITHIN).close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what Ray gives up on into one line."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError:
        raise  # an error in this package: its traceback is what is wanted
    except ray.exceptions.RayError as error:
        raise AugError(
            f"Ray gave up: {type(error).__name__}: {_first_line(error)}. Finished shards are kept. To do: look at the "
            "memory and the disk of its machines, and start the run again."
        ) from error


@contextlib.contextmanager
def _terminable() -> Iterator[Callable[[], None]]:
    """Keep the handler of SIGTERM, which Ray replaces; by default the signal then ends the block as an error does.

    Yields:
        What puts the handler back, for when Ray has started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM)

    def keep() -> None:
        signal.signal(signal.SIGTERM, _leave if before is signal.SIG_DFL else before)

    try:
        yield keep
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables that are not set by the user, for the duration of a block."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing on stderr for a while: Ray's core says there, beside its log, how much it is going to say."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _silence(*names: str) -> Iterator[None]:
    """No lines of some loggers: what matters comes back as an error."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(_QUIET)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
