"""What commands that caption say at their end: how it went, how fast, and where the result lies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.errors import CaptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset

    from hf_mllm_aug import Captioner
    from hf_mllm_aug.long_runs import LongRun, Summary

_REASONS_SHOWN = 5
_LEAST_SHARE = 0.005


def show_resumption(run: LongRun) -> None:
    """Say how much of a run was finished before, if anything was."""
    done, total = run.finished()
    if done:
        say(f"{run.store}: {done:,} of {count(total or 0, 'shard')} finished before; going on")


def show_speed(summary: Summary) -> None:
    """Say how fast a run was, and where its time went."""
    if not summary.rows:
        return
    speed = f"{summary.images_per_second:,.1f} images/s"
    if summary.tokens.total():
        speed += f" and {summary.tokens_per_second:,.0f} tokens/s"
    say(f"{speed} in {summary.elapsed:,.1f} s, loading the models included")
    shares = [f"{phase} {share:.0%}" for phase, share in summary.shares.items() if share >= _LEAST_SHARE]
    say(f"time: {', '.join(shares)}")


def show_outcomes(rows: Dataset, captioners: Sequence[Captioner]) -> None:
    """Say of each captioner how many captions there are, and why the others are missing.

    Raises:
        CaptionError: There is no caption at all, by any of them.
    """
    from hf_mllm_aug.long_runs.report import reason_of

    reasons = {
        captioner.label: Counter(reason_of(text) for text in rows[captioner.error_column] if text is not None)
        for captioner in captioners
    }
    if len(rows) and all(found.total() == len(rows) for found in reasons.values()):
        label, found = next(iter(reasons.items()))
        reason, times = found.most_common(1)[0]
        others = f" (nor did {', '.join(list(reasons)[1:])})" if len(reasons) > 1 else ""
        raise CaptionError(
            f"{label} captioned none of {count(len(rows), 'picture')}{others}; {times:,} times: {reason}. "
            "Nothing was staged. To try them again: the same command with --retry-errors."
        )
    for captioner in captioners:
        found = reasons[captioner.label]
        say(f"{captioner.label}: {len(rows) - found.total():,} captioned, {found.total():,} failed")
        for reason, times in found.most_common(_REASONS_SHOWN):
            say(f"  {times:,} x {reason}")
        if len(found) > _REASONS_SHOWN:
            say(f"  and {len(found) - _REASONS_SHOWN:,} other reasons, in the column {captioner.error_column}")


def show_staged(folder: Path, sizes: Mapping[str, int]) -> None:
    """Say where a staged data set lies, what is in it, and how to publish it.

    Args:
        folder: The staged folder.
        sizes: Rows by config.
    """
    say(f"staged in {folder}: " + ", ".join(f"{name} ({count(size, 'row')})" for name, size in sizes.items()))
    say(f"card: {folder / 'README.md'}")
    say(f"next: hf-mllm-aug publish {folder} OWNER/NAME")
