"""One caption a picture a visit: how the several captions of a data set enter training.

The paper trains on image-text pairs in which a picture meets, at each visit, either its raw caption or one of the new
ones, all as likely (Liu et al. 2023, arXiv:2311.18765); Recap-DataComp draws a new one with probability 0.8.

A draw is a hash of the seed, the row and the visit, not the state of a generator: the workers of a `DataLoader` are
copies of one process, and copies of one generator would all draw alike, and alike again in every epoch.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_mllm_aug import schema
from hf_mllm_aug.errors import CaptionError, ColumnError, FormatError, UsageError


class _Visits:
    """What moves: the epoch, and the rows that this process has drawn for. Neither is part of the settings."""

    def __init__(self, epoch: Any = None) -> None:
        self.epoch = epoch  # None, or a shared tensor of one integer
        self.rows = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies start counting at 0, and the hash by which `datasets` caches depends on settings and epoch alone.
        return (_Visits, (self.epoch,))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Visits:
        # `cast_column` and other methods copy a data set with its transform, before or after the first `set_epoch`,
        # which must reach the copies.
        return self


@dataclass(frozen=True)
class SampleCaption:
    """A transform that keeps one caption of each picture, another one at each visit.

    For `Dataset.set_transform` and `with_transform`; also a function for `map` of a `Dataset` or an `IterableDataset`,
    batched or not. Nulls, empty strings and blanks are never drawn while a row has another caption.

    Which caption a visit gets follows from ``seed``, the row's key (its captions, where there is no key) and, without
    `set_epoch`, the number of rows drawn before in this process and, in a `DataLoader` worker, the worker's seed,
    which torch draws anew for each epoch from its global generator: the same program with the same
    ``torch.manual_seed`` draws the same captions. With `set_epoch` a draw depends on seed, epoch and key only,
    whatever the order, the number of workers or the batch at which training resumed; a row met twice in that epoch
    gets the same caption twice.

    Args:
        columns: The columns of new captions; None takes every ``caption_*`` column that a batch has.
        raw_weight: Probability of the raw caption. None gives the raw caption and each new one the same chance. 0 never
            draws it while there is a new one, 1 always does.
        seed: Any integer.
        raw_column: The column of raw captions.
        output_column: Where the drawn caption goes.
        key_column: The column that identifies a row.
        keep_sources: Whether the ``caption_*``, ``error_*`` and ``generated_*`` columns and ``columns`` stay in the
            batch. They are dropped by default, since nulls in them break torch's default collation; all other columns
            stay. `map` keeps a data set's columns in any case: give it ``remove_columns``.
        on_empty: What to do with a row that has no caption at all: ``"null"`` gives None, ``"raise"`` an error.
            Filter such rows out before training.

    Raises:
        UsageError: A weight outside 0 to 1, an unknown ``on_empty``.
        ColumnError: A batch without new captions, or without one of ``columns``.

    >>> sample = SampleCaption(raw_weight=0.0)
    >>> sample({"key": ["a"], "caption": ["IMG_0042"], "caption_otter": ["a cat"], "error_otter": [None]})
    {'key': ['a'], 'caption': ['a cat']}
    """

    columns: Sequence[str] | None = None
    raw_weight: float | None = None
    seed: int = 0
    raw_column: str = schema.CAPTION
    output_column: str = schema.CAPTION
    key_column: str = schema.KEY
    keep_sources: bool = False
    on_empty: Literal["null", "raise"] = "null"
    _visits: _Visits = field(default_factory=_Visits, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.columns is not None:
            if isinstance(self.columns, str) or not self.columns:
                raise UsageError(
                    f"columns is {self.columns!r}: give a list of column names, or None for every caption_*"
                )
            object.__setattr__(self, "columns", tuple(c for c in self.columns if c != self.raw_column))
        if self.raw_weight is not None and not 0 <= self.raw_weight <= 1:
            raise UsageError(f"raw_weight is {self.raw_weight}: it is a probability, from 0 to 1")
        if self.on_empty not in ("null", "raise"):
            raise UsageError(f"on_empty is {self.on_empty!r}: it must be 'null' or 'raise'")

    def set_epoch(self, epoch: int) -> None:
        """Make draws depend on seed, epoch and key only. Call it before iterating, at each epoch from the first on.

        Persistent `DataLoader` workers see later epochs too, since the number lies in shared memory.

        Args:
            epoch: The number of the epoch.
        """
        if self._visits.epoch is None:
            import torch

            number: Any = torch.zeros(1, dtype=torch.int64)
            self._visits.epoch = number.share_memory_()
        self._visits.epoch[0] = epoch

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the captions of each row by one of them.

        Args:
            batch: Columns as lists, or one row as scalars.

        Returns:
            The same form, with the caption in ``output_column``.
        """
        columns = self._new_columns(batch)
        sources = ([self.raw_column] if self.raw_column in batch else []) + columns
        is_batch = isinstance(batch[sources[0]], (list, tuple)) or hasattr(batch[sources[0]], "__array__")
        texts = {name: batch[name] if is_batch else [batch[name]] for name in sources}
        keys = batch.get(self.key_column)
        if not is_batch:
            keys = [keys]
        drawn = []
        for row in range(len(texts[sources[0]])):
            captions = {name: _text(texts[name][row], name, row) for name in sources}
            key = keys[row] if keys is not None and keys[row] is not None else "\n".join(map(str, captions.values()))
            drawn.append(self._draw(captions, str(key)))
        output = {name: values for name, values in batch.items() if self.keep_sources or not self._is_source(name)}
        output[self.output_column] = drawn if is_batch else drawn[0]
        return output

    def _new_columns(self, batch: Mapping[str, Any]) -> list[str]:
        if self.columns is not None:
            for column in self.columns:
                if column not in batch:
                    raise ColumnError(column, batch, "pass the new captions' columns as columns=, or None")
            columns = list(self.columns)
        else:
            columns = [c for c in schema.caption_columns(batch) if c not in (self.raw_column, self.output_column)]
        if not columns and self.raw_weight != 1:
            raise ColumnError(schema.CAPTION_PREFIX + "*", batch, "add captions with Augment first, or pass columns=")
        if self.raw_column not in batch and (self.raw_weight or not columns):
            raise ColumnError(self.raw_column, batch, "pass raw_column=, or raw_weight=0 to use new captions only")
        return columns

    def _is_source(self, name: str) -> bool:
        prefixes = (schema.CAPTION_PREFIX, schema.ERROR_PREFIX, schema.GENERATED_PREFIX)
        return name.startswith(prefixes) or name in (self.columns or ())

    def _draw(self, captions: Mapping[str, str | None], key: str) -> str | None:
        raw = captions.get(self.raw_column)
        new = [text for name, text in captions.items() if text is not None and name != self.raw_column]
        self._visits.rows += 1
        if not new or raw is None:
            candidates = new or ([raw] if raw is not None else [])
            if not candidates:
                if self.on_empty == "raise":
                    raise CaptionError(f"row {key!r} has no caption: filter such rows out, or pass on_empty='null'")
                return None
            return candidates[int(self._uniform(key) * len(candidates))]
        weight = 1 / (1 + len(new)) if self.raw_weight is None else self.raw_weight
        point = self._uniform(key)
        if point < weight:
            return raw
        # What is left of the interval is uniform again. Rounding may reach its end.
        return new[min(int((point - weight) / (1 - weight) * len(new)), len(new) - 1)]

    def _uniform(self, key: str) -> float:
        """A number in [0, 1) for this visit of the row."""
        if self._visits.epoch is not None:
            visit = f"epoch {int(self._visits.epoch[0])}"
        else:
            visit = f"row {self._visits.rows} of {_worker_seed()}"
        digest = hashlib.blake2b(
            f"{self.seed}\0{visit}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53


def _worker_seed() -> int | None:
    """The seed of the `DataLoader` worker that this process is, if any: another one in each worker and each epoch."""
    data = sys.modules.get("torch.utils.data")  # a worker has it loaded; nobody else need load it
    info = data.get_worker_info() if data else None
    return info.seed if info else None


def _text(value: Any, column: str, row: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise FormatError(
            f"column {column!r}, row {row} of the batch: a caption is a string or null, not {value!r:.80}"
        )
    return value if value.strip() else None
