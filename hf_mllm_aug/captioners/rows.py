"""What `Dataset.map` and `IterableDataset.map` hand to a captioner, and what they are handed back.

Going in: `map` passes lazy rows, which decode a picture when its column is touched, and then a single truncated JPEG
ends the whole `map`. So the image column is read undecoded, from the Arrow table behind the rows; the decoding is
ours (`images.to_rgb`). An `IterableDataset` decodes before its functions run, out of their reach: there, call
``.decode(False)`` before ``.map``.

Coming out: a column that is null throughout the first thousand rows, as the error column usually is, gets Arrow's
null type, and `map` fails at the first row that has a value. So columns without a value are handed back typed as
strings.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_mllm_aug.errors import ColumnError, UsageError

Column = list[str | None]


@dataclass(frozen=True)
class Rows:
    """The rows of one call.

    Args:
        images: One function a row that gives its picture in any form that `images.to_rgb` takes. Functions, because a
            call may hold a thousand rows, whose bytes need not be in memory at once.
        keys: One key a row; None where the data set has none.
        source: What `map` passed.
        single: Whether that was one example, not a batch.
    """

    images: list[Callable[[], Any]]
    keys: list[str | None]
    source: Mapping[str, Any]
    single: bool

    def __len__(self) -> int:
        return len(self.images)

    def column(self, name: str, todo: str) -> list[Any]:
        """The values of another column.

        Args:
            name: The column.
            todo: What the user should do if it is not there.

        Raises:
            ColumnError: It is not there.
        """
        if name not in self.source:
            raise ColumnError(name, self.source, todo)
        values = self.source[name]
        return [values] if self.single else list(values)


def read_rows(source: Any, image_column: str, key_column: str) -> Rows:
    """Take apart what `map` passed.

    Args:
        source: A batch (dictionary of lists or tuples) or an example, lazy or not.
        image_column: The column of the pictures.
        key_column: The column of the rows' keys; it need not be there.

    Raises:
        ColumnError: There is no such image column.
        UsageError: What was passed is no rows, or rows formatted as arrays or tensors.
    """
    if not isinstance(source, Mapping):
        raise UsageError(
            f"a captioner takes whole rows, but map passed a value of type {type(source).__name__}. "
            "To do: drop input_columns=, and with_format() for a data set formatted as Arrow or pandas"
        )
    if image_column not in source:
        raise ColumnError(image_column, source, "pass image_column= with the column of the pictures")
    kind = _lazy_kind(source)
    single = kind == "LazyRow"
    column = _undecoded(source, image_column)
    if column is None:
        value = source[image_column]
        if hasattr(value, "shape"):
            raise UsageError(
                f"the column {image_column!r} is formatted as arrays. To do: .with_format(None) before .map"
            )
        single = single or (kind is None and not isinstance(value, (list, tuple)))
        column = [value] if single else value
    images = [_getter(column, index) for index in range(len(column))]
    keys: list[str | None] = [None] * len(images)
    if key_column in source:
        found = source[key_column]
        keys = [None if key is None else str(key) for key in ([found] if single else found)]
    return Rows(images, keys, source, single)


def _lazy_kind(source: Mapping[str, Any]) -> str | None:
    """``"LazyRow"`` or ``"LazyBatch"`` if `datasets` passed its lazy rows; without importing it where nobody has."""
    formatting = sys.modules.get("datasets.formatting.formatting")
    for kind in ("LazyRow", "LazyBatch"):
        if isinstance(source, getattr(formatting, kind, ())):
            return kind
    return None


def _undecoded(source: Mapping[str, Any], name: str) -> Any:
    """The Arrow column behind lazy rows, unless a function before ours replaced its values."""
    if _lazy_kind(source) is None:
        return None
    table, untouched = getattr(source, "pa_table", None), getattr(source, "keys_to_format", ())
    return table.column(name) if table is not None and name in untouched else None


def _getter(column: Any, index: int) -> Callable[[], Any]:
    def get() -> Any:
        value = column[index]
        return value.as_py() if hasattr(value, "as_py") else value

    return get


def hand_back(rows: Rows, columns: Mapping[str, Column]) -> dict[str, Any]:
    """Give `map` the new columns.

    Args:
        rows: The rows that were read.
        columns: (len(rows),) values a column.

    Returns:
        Lists for a batch, scalars for an example. To `map` itself, a column without any value comes typed: as a NumPy
        array of strings, which it takes from a batched function (it takes no Arrow arrays from one), or as in `_Typed`.
    """
    lazy = _lazy_kind(rows.source) is not None
    if rows.single:
        values = {name: column[0] for name, column in columns.items()}
        return _typed({name: [value] for name, value in values.items()}, values) if lazy else values
    if not lazy:
        return dict(columns)
    if _numpy_types_nulls():
        return {name: _numpy_strings(values) if _is_null(values) else values for name, values in columns.items()}
    return _typed(columns, columns)


def _is_null(values: Column) -> bool:
    return all(value is None for value in values)


def _numpy_strings(values: Column) -> Any:
    import numpy as np

    return np.array(values, dtype=np.dtypes.StringDType(na_object=None))


@functools.cache
def _numpy_types_nulls() -> bool:
    """Whether NumPy has a string type (from 2.0) that Arrow understands (from 26)."""
    import pyarrow as pa

    try:
        return bool(pa.types.is_string(pa.array(_numpy_strings([None])).type))
    except (AttributeError, pa.ArrowNotImplementedError):
        return False


class _Typed(dict[str, Any]):
    """New columns that are plain values to whoever reads them, and typed Arrow arrays to whoever merges them.

    `map` joins what a function gives to the row with ``{**row, **new}``, which copies a dictionary's items as they
    are stored, and keeps the type of Arrow arrays. A function of the user's that calls a captioner reads items, and
    finds None.
    """

    plain: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.plain[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.plain.get(name, default)

    def values(self) -> Any:
        return self.plain.values()

    def items(self) -> Any:
        return self.plain.items()

    def __eq__(self, other: object) -> bool:
        return self.plain == other

    def __ne__(self, other: object) -> bool:
        return self.plain != other

    def __repr__(self) -> str:
        return repr(self.plain)


def _typed(columns: Mapping[str, Column], plain: Mapping[str, Any]) -> dict[str, Any]:
    import pyarrow as pa

    found = _Typed(
        {name: pa.array(values, pa.string()) if _is_null(values) else plain[name] for name, values in columns.items()}
    )
    found.plain = plain
    return found
