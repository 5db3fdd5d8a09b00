"""What a reader left out and why, so that nothing is missing without a word."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.data_files import label
from hf_mllm_aug.safe_text import plain

logger = logging.getLogger(__name__)

OnError = Literal["warn", "raise"]

# Reasons may come from the data. More kinds than these are no help to anyone.
_MOST_REASONS = 50
_OTHER = "of other kinds"


@dataclass
class Tally:
    """The rows of one file, or of several, and the samples that gave none.

    Args:
        source: The file, for messages.
        on_error: ``"raise"`` makes an error of the first fault and of the first damage.
        rows: The number of rows delivered.
        last_key: The key of the last of them.
        left_out: Samples that gave no row, by reason.
        faults: Rows that lack a caption or an address because it cannot be read, by reason.
        damaged: Files of which an unknown number of rows is lost.
        first_damage: What was said of the first of them.

    >>> tally = Tally("00000.tar", rows=7)
    >>> tally.leave_out("failed_to_download")
    >>> tally.summary()
    '00000.tar: 7 rows; left out: 1 failed_to_download'
    """

    source: str
    on_error: OnError = "warn"
    rows: int = 0
    last_key: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    first_damage: str = ""

    def delivered(self, key: str | None, rows: int = 1) -> None:
        """Count rows; ``key`` is that of the last."""
        self.rows += rows
        self.last_key = key

    def leave_out(self, reason: str, samples: int = 1) -> None:
        """Count samples that give no row, as some do in every such data set: a download has failed, say."""
        _count(self.left_out, reason, samples)

    def reject(self, reason: str, name: str) -> None:
        """Count a sample that breaks the format and gives no row.

        Raises:
            FormatError: With ``on_error="raise"``.
        """
        self._refuse(reason, name)
        _count(self.left_out, reason)

    def fault(self, reason: str, name: str) -> None:
        """Count a row that lacks something because it cannot be read.

        Raises:
            FormatError: With ``on_error="raise"``.
        """
        self._refuse(reason, name)
        _count(self.faults, reason)

    def damage(self, what: str) -> None:
        """Report a file whose rows after the last one delivered are lost: a warning, at once.

        Raises:
            FormatError: With ``on_error="raise"``.
        """
        last = "no row" if self.last_key is None else f"row {self.rows:,}, with the key {plain(self.last_key, 80)!r}"
        message = f"{self.source}: damaged after {last}: {what}. What follows is lost; fetch the file again"
        if self.on_error == "raise":
            raise FormatError(message)
        self.damaged.append(label(self.source))
        self.first_damage = self.first_damage or message
        logger.warning(message)

    def add(self, other: Tally) -> None:
        """Add another file's counts to these."""
        self.rows += other.rows
        for reason, samples in other.left_out.items():
            _count(self.left_out, reason, samples)
        for reason, rows in other.faults.items():
            _count(self.faults, reason, rows)
        self.damaged += other.damaged
        self.first_damage = self.first_damage or other.first_damage

    def summary(self) -> str:
        """All counts in one line; an empty text if all samples gave whole rows."""
        parts = [
            f"{label}: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
            for label, counts in (("left out", self.left_out), ("lacking something", self.faults))
            if counts
        ]
        if self.damaged:
            more = f" and {len(self.damaged) - 3} more" if len(self.damaged) > 3 else ""
            parts.append(f"damaged, with rows lost: {', '.join(self.damaged[:3])}{more}")
        return f"{self.source}: {self.rows:,} rows; {'; '.join(parts)}" if parts else ""

    def _refuse(self, reason: str, name: str) -> None:
        if self.on_error == "raise":
            raise FormatError(f"{self.source}, {plain(name, 80)!r}: {reason}")


def _count(counts: Counter[str], reason: str, number: int = 1) -> None:
    reason = plain(reason, 60)
    counts[reason if reason in counts or len(counts) < _MOST_REASONS else _OTHER] += number
