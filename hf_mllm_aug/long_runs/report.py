"""What a run says of its shards: a live line, a JSON line each, and a summary at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

from hf_mllm_aug.errors import AugError
from hf_mllm_aug.loaders.picture_folder import SUFFIXES

OTHER = "other reasons"
_MOST_REASONS = 1000  # a captioner's, that are counted apart: some name a host, of which there are as many as rows


def reason_of(failure: str) -> str:
    """A failure's reason without the picture's name, so that equal reasons are counted together.

    >>> reason_of("a.jpg: not a picture"), reason_of("the model wrote nothing")
    ('not a picture', 'the model wrote nothing')
    """
    name, _, reason = failure.partition(": ")
    return reason if reason and PurePath(name).suffix.lower() in SUFFIXES else failure


@dataclass
class ShardReport:
    """What came of a shard.

    Args:
        shard: Its number.
        rows: How many rows it has.
        seconds: By phase: ``fetching``, ``reading`` (waiting for rows), ``decoding`` (waiting for pictures),
            ``loading`` (models), ``model``, ``shearing``, ``writing``. Fetching and writing go on beside the rest.
        worked: Rows by stage.
        failures: By stage and reason.
        tokens: Generated, by captioner.
    """

    shard: int
    rows: int
    seconds: dict[str, float] = field(default_factory=dict)
    worked: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Counter[str]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, rows: int, failures: Iterable[str]) -> None:
        """Add a stage."""
        self.worked[stage] = rows
        self.failures[stage] = Counter(map(reason_of, failures))

    def line(self) -> str:
        """As one line of JSON."""
        values: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "process": os.getpid(),
            "shard": self.shard,
            "rows": self.rows,
            "worked": self.worked,
            "failures": {stage: found.total() for stage, found in self.failures.items()},
            "seconds": {phase: round(seconds, 4) for phase, seconds in self.seconds.items()},
            "tokens": self.tokens,
        }
        return json.dumps(values)


@dataclass
class Summary:
    """What a run did, from its start to now; what others did, or an earlier run, is not in it.

    Args:
        shards: Finished.
        rows: In them.
        elapsed: Seconds by the clock.
        worked: Rows by stage.
        failures: By stage and reason; beyond a thousand of them those that are new count as `OTHER`.
        tokens: Generated, by captioner.
        seconds: By phase, as in `ShardReport`.
    """

    shards: int = 0
    rows: int = 0
    elapsed: float = 0.0
    worked: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Counter[str]] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, report: ShardReport) -> None:
        """Count a shard."""
        self.shards += 1
        self.rows += max(report.worked.values(), default=0)
        self.worked.update(report.worked)
        self.tokens.update(report.tokens)
        for phase, seconds in report.seconds.items():
            self.seconds[phase] += seconds  # type: ignore[assignment]
        for stage, found in report.failures.items():
            known = self.failures.setdefault(stage, Counter())
            for reason, times in found.items():
                known[reason if reason in known or len(known) < _MOST_REASONS else OTHER] += times

    @property
    def images_per_second(self) -> float:
        """Rows by the clock."""
        return self.rows / self.elapsed if self.elapsed else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of all captioners, by the clock."""
        return self.tokens.total() / self.elapsed if self.elapsed else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Each phase's part of the time by the clock, largest first; they overlap."""
        return {phase: seconds / self.elapsed for phase, seconds in self.seconds.most_common() if self.elapsed}


class Reporter:
    """Counts finished shards, and shows them while it is open.

    Args:
        rows: How many there are to do; None where nobody knows.
        log_json: Where each finished shard gets a line.
        progress: Whether to show a line on a terminal.
    """

    def __init__(self, rows: int | None, log_json: str | Path | None, progress: bool) -> None:
        self.summary = Summary()
        self._rows, self._log = rows, log_json
        self._shows = progress and sys.stderr.isatty()
        self._start = time.perf_counter()
        self._bar: Any = None

    def __call__(self, report: ShardReport) -> None:
        """Take a finished shard."""
        self.summary.add(report)
        self.summary.elapsed = time.perf_counter() - self._start
        if self._log is not None:
            try:
                with open(self._log, "a", encoding="utf-8") as file:
                    file.write(report.line() + "\n")
            except OSError as error:
                raise AugError(f"cannot write the log {self._log}: {error.strerror}.") from error
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self.summary.rows,
                speed=f"{self.summary.images_per_second:,.1f}",
                failures=sum(found.total() for found in self.summary.failures.values()),
            )

    def __enter__(self) -> Reporter:
        if self._shows:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            texts = (TextColumn("{task.fields[speed]} images/s"), TextColumn("{task.fields[failures]} failures"))
            remaining = TimeRemainingColumn(elapsed_when_finished=True)
            self._bar = Progress(
                TextColumn("captioning"),
                BarColumn(),
                MofNCompleteColumn(),
                *texts,
                remaining,
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=self._rows, speed="0.0", failures=0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.summary.elapsed = time.perf_counter() - self._start
        if self._bar is not None:
            self._bar.stop()
