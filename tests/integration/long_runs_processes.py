"""Processes that work on a run's folder and may be killed: forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import transformers.models.llama.modeling_llama
import transformers.models.llava.modeling_llava  # noqa: F401
from datasets import Dataset, load_from_disk

import hf_mllm_aug.captioners.transformers_engine
import hf_mllm_aug.mllms.minigpt4
import hf_mllm_aug.mllms.otter
import hf_mllm_aug.mllms.qwen_vl  # noqa: F401
from hf_mllm_aug import Captioner
from hf_mllm_aug.captioners import engine
from hf_mllm_aug.captioners.engine import Request
from hf_mllm_aug.long_runs import LongRun
from hf_mllm_aug.long_runs.claims import Claims
from hf_mllm_aug.schema import base_features
from tests.conftest import picture_bytes

BROKEN = (3, 17)  # rows whose pictures are none


@dataclass(frozen=True)
class Work:
    """What a process is to do.

    Args:
        home: The folder with ``source``, ``model`` and ``run``.
        shard_size: Rows a shard.
        environment: Variables of the process.
        pause: Seconds that a model call takes longer, so that there is something to be killed in.
        die: ``"writing"``: kills itself when half of a shard is written; ``"renaming"``: when all of it is.
        blind: Whether it takes every claim for void.
        limit: The largest file that it may write, in bytes, once the plan is written.
    """

    home: Path
    shard_size: int = 4
    environment: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    die: str = ""
    blind: bool = False
    limit: int | None = None

    def long_run(self) -> LongRun:
        """The run, as every process and the test itself have it."""
        captioner = Captioner(self.home / "model", name="one", batch_size=2, max_new_tokens=6)
        rows = load_from_disk(str(self.home / "source"))
        return LongRun(rows, captioner, self.home / "run", shard_size=self.shard_size)


def make_source(n_rows: int) -> Dataset:
    """Rows with small pictures, of which some are none."""
    images = [{"bytes": b"?" if n in BROKEN else picture_bytes(n, (24, 20)), "path": None} for n in range(n_rows)]
    keys = [f"k{n:03}" for n in range(n_rows)]
    columns = {"key": keys, "image": images, "url": [None] * n_rows, "caption": [f"raw {n}" for n in range(n_rows)]}
    return Dataset.from_dict(columns, features=base_features())


def start(work: Work) -> Any:
    """Start a process; `finish` waits for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_work, args=(work,))
    process.start()
    return process


def finish(process: Any, seconds: float = 120.0) -> int:
    """Wait for a process, and give its exit code."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError("a process did not end by itself")
    return int(process.exitcode)


def _work(work: Work) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    os.environ.update(work.environment)
    if work.pause:
        _slow_down(work.pause)
    if work.blind:
        Claims._is_live = lambda self, content: False  # type: ignore[method-assign]
    if work.die:
        _arrange_death(work.die)
    name = f"{work.environment.get('RANK', '')}{os.getpid()}"
    try:
        long_run = work.long_run()
        if work.limit is not None:
            assert long_run.job.plan.shards
            resource.setrlimit(resource.RLIMIT_FSIZE, (work.limit, work.limit))
        long_run.work(log_json=work.home / f"log-{name}.jsonl", progress=False)
    except BaseException as error:  # noqa: BLE001 - the test reads it
        said = f"{type(error).__name__}: {error}\n"
        if work.limit is None:  # else it may be too long to be written
            said += traceback.format_exc()
        (work.home / f"error-{name}").write_text(said)
        os._exit(3)
    os._exit(0)


def _slow_down(seconds: float) -> None:
    real = engine.loaded

    class Slow:
        max_batch: int | None = None

        def __init__(self, model: engine.Engine) -> None:
            self.model = model

        def generate(self, images: Any, keys: Sequence[str], request: Request) -> Any:
            time.sleep(seconds)
            return self.model.generate(images, keys, request)

    engine.loaded = lambda key: Slow(real(key))


def _arrange_death(when: str) -> None:
    if when == "renaming":
        replace = os.replace

        def die_instead(source: Any, target: Any) -> None:
            if str(target).endswith("2.parquet"):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = die_instead  # type: ignore[assignment]
        return
    write_table = pq.write_table

    def die_halfway(table: Any, path: str, **settings: Any) -> None:
        write_table(table, path, **settings)
        if "00002.parquet" in path:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    pq.write_table = die_halfway
