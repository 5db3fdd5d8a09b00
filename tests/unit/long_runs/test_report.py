"""What a run says of itself."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from hf_mllm_aug.errors import AugError
from hf_mllm_aug.long_runs.report import OTHER, Reporter, ShardReport, Summary


def report(shard: int) -> ShardReport:
    found = ShardReport(shard, 4, seconds={"model": 3.0, "reading": 1.0}, tokens={"one": 20})
    found.add("one", 4, ["a.png: no such file", "b.jpg: no such file"])
    return found


def test_reasons_are_counted_without_the_names_of_pictures() -> None:
    summary = Summary(elapsed=16.0)
    for shard in range(2):
        summary.add(report(shard))
    assert summary.failures == {"one": Counter({"no such file": 4})}
    assert (summary.rows, summary.worked, summary.tokens) == (8, {"one": 8}, {"one": 40})
    assert (summary.images_per_second, summary.tokens_per_second) == (0.5, 2.5)
    assert summary.shares == {"model": 0.375, "reading": 0.125}
    assert Summary().images_per_second == 0


def test_reasons_that_all_differ_are_not_all_kept() -> None:
    summary = Summary()
    for shard in range(30):
        found = ShardReport(shard, 100)
        found.add(
            "fetch", 100, [f"name_not_found: {shard}-{number}.example" for number in range(99)] + ["timeout: 1 s"]
        )
        summary.add(found)
    (reasons,) = summary.failures.values()
    assert reasons.total() == 3_000
    assert reasons["timeout: 1 s"] == 30
    assert reasons[OTHER] == 3_000 - 30 - 999
    assert len(reasons) == 1_001


def test_a_line_of_json_has_all_of_a_shard() -> None:
    line = json.loads(report(3).line())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "process": os.getpid(),
        "shard": 3,
        "rows": 4,
        "worked": {"one": 4},
        "failures": {"one": 2},
        "seconds": {"model": 3.0, "reading": 1.0},
        "tokens": {"one": 20},
    }


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("wanted", [True, False])
def test_the_live_line_counts_rows_and_failures(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Reporter(8, None, wanted) as reporter:
        reporter(report(0))
    said = screen.getvalue()
    assert ("4/8" in said and "2 failures" in said and "images/s" in said) is wanted


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(8, None, progress=True) as reporter:
        reporter(report(0))
    assert capsys.readouterr() == ("", "")


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Reporter(8, tmp_path / "gone" / "log", progress=False) as reporter, pytest.raises(AugError, match="No such"):
        reporter(report(0))
