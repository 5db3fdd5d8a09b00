"""Rows of a split by their number, read from the row groups that hold them: never more than a batch in memory.

Footers are read when they are needed and kept: how many rows a file has stands there, whether it has one row group or
thousands. Within a row group Parquet is read from its start, so a row costs what lies before it in its group.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hf_mllm_aug.preview.repository import Repository, SplitFiles

WINDOW = 50
"""How many pictures are read at a time, those of a page."""

_TEXT_BATCH = 4096
_FOOTERS = 8  # read at once where each is a journey
_BUFFER = 1 << 20
_SHELF_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Group:
    """One row group: the number of its file, its own number there, its first row's number in the split, its rows."""

    file: int
    index: int
    first: int
    rows: int


class Rows:
    """The rows of a split.

    Args:
        repository: Where its files are.
        files: Its files.
    """

    def __init__(self, repository: Repository, files: SplitFiles) -> None:
        self.files = files
        self._repository = repository
        self._footers: list[Any] = []
        self._lock = threading.Lock()
        self._shelf = _Shelf()
        self.schema: pa.Schema = self._footer(0).schema.to_arrow_schema()

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return list(self.schema.names)

    @property
    def text_columns(self) -> list[str]:
        """The names of its columns of text."""
        import pyarrow.types as types

        tests = (types.is_string, types.is_large_string, types.is_null)
        return [field.name for field in self.schema if any(test(field.type) for test in tests)]

    @property
    def picture_column(self) -> str | None:
        """Its column of embedded pictures: `image`, or else the first of that form."""
        import pyarrow.types as types

        found = []
        for column in self.schema:
            if types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
                kind = column.type.field("bytes").type
                if types.is_binary(kind) or types.is_large_binary(kind):
                    found.append(column.name)
        return schema.IMAGE if schema.IMAGE in found else next(iter(found), None)

    @property
    def total(self) -> int | None:
        """How many rows there are: counted once all footers were read, before that as the card says."""
        if len(self._footers) == len(self.files.files):
            return sum(int(footer.num_rows) for footer in self._footers)
        return self.files.claimed_rows

    def count(self) -> int:
        """How many rows there are, by the footers of all files."""
        for number in range(len(self.files.files)):
            self._footer(number)
        return self.total or 0

    def groups(self, start: int = 0) -> Iterator[Group]:
        """The row groups from the one that holds a row on; later footers are read as the caller goes on."""
        first = 0
        for file in range(len(self.files.files)):
            footer = self._footer(file)
            if first + footer.num_rows <= start:
                first += footer.num_rows
                continue
            for index in range(footer.num_row_groups):
                rows = footer.row_group(index).num_rows
                if first + rows > start:
                    yield Group(file, index, first, rows)
                first += rows

    def has_nulls(self, group: Group, column: str) -> bool:
        """Whether a column of a row group may have nulls, by its statistics."""
        footer = self._footer(group.file).row_group(group.index)
        for number in range(footer.num_columns):
            chunk = footer.column(number)
            if chunk.path_in_schema == column:
                statistics = chunk.statistics
                return statistics is None or not statistics.has_null_count or statistics.null_count > 0
        return True

    def batches(
        self, group: Group, columns: Sequence[str], batch_rows: int = _TEXT_BATCH
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a group in order: the number of each batch's first row, and the batch.

        Raises:
            FormatError: The file cannot be read.
        """
        import pyarrow as pa

        path = self.files.files[group.file]
        first = group.first
        try:
            with self._open(group.file) as file:
                names = set(file.schema_arrow.names)
                present = [name for name in columns if name in names or name.partition(".")[0] in names]
                for batch in file.iter_batches(
                    batch_rows, row_groups=[group.index], columns=present, use_threads=False
                ):
                    yield first, batch
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{path}: its rows cannot be read: {_first_line(error)}.") from error

    def read(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, str | None]]:
        """Rows by their numbers, as texts.

        Args:
            numbers: Ascending; those past the end are left out.
            columns: Columns of text; those that a file lacks are null there.

        Returns:
            A dictionary for each row. Bytes that are not UTF-8 are replaced.
        """
        wanted = list(numbers)
        found: list[dict[str, str | None]] = []
        for group in self.groups(wanted[0]) if wanted else ():
            after = group.first + group.rows
            if wanted[len(found)] >= after:
                continue
            for first, batch in self.batches(group, columns):
                last = first + len(batch)
                inside = [number - first for number in wanted[len(found) :] if number < last]
                if inside:
                    found += _texts(batch, inside, columns)
                if len(found) == len(wanted) or wanted[len(found)] >= after:
                    break
            if len(found) == len(wanted):
                break
        return found

    def picture(self, number: int) -> bytes | None:
        """The bytes of a row's picture; None where it has none."""
        column = self.picture_column
        if column is None:
            return None
        window = number // WINDOW
        # One reader at a time: the pictures of a page are asked for at once, and the first reads them for all.
        with self._shelf.lock:
            pictures = self._shelf.get(window)
            if pictures is None:
                pictures = self._read_pictures(column, window * WINDOW)
                self._shelf.put(window, pictures)
        return pictures.get(number)

    def _read_pictures(self, column: str, start: int) -> dict[int, bytes | None]:
        found: dict[int, bytes | None] = {}
        for group in self.groups(start):
            for first, batch in self.batches(group, [f"{column}.bytes"], WINDOW):
                for number in range(max(start, first), min(start + WINDOW, first + len(batch))):
                    value = batch.column(0)[number - first].as_py()
                    found[number] = (value or {}).get("bytes")
                if first + len(batch) >= start + WINDOW:
                    break
            if group.first + group.rows >= start + WINDOW:
                break
        return found

    def _footer(self, number: int) -> Any:
        import pyarrow as pa

        with self._lock:
            if number >= len(self._footers):
                read = len(self._footers)
                ahead = 1 if self._repository.is_local else _FOOTERS
                numbers = range(read, min(max(number + 1, read + ahead), len(self.files.files)))
                if read == 0:
                    numbers = range(number + 1)  # the first is for the columns alone
                try:
                    with ThreadPoolExecutor(_FOOTERS) as pool:
                        self._footers += pool.map(self._read_footer, numbers)
                except (pa.ArrowException, OSError) as error:
                    named = self.files.files[read]
                    raise FormatError(f"{named}: not a Parquet file that can be read: {_first_line(error)}.") from error
            return self._footers[number]

    def _read_footer(self, number: int) -> Any:
        with self._open(number) as file:
            return file.metadata

    def _open(self, number: int) -> pq.ParquetFile:
        """A reader of one file. Each thread has its own: they share nothing but footers."""
        import pyarrow.parquet as pq

        path = self.files.files[number]
        metadata = self._footers[number] if number < len(self._footers) else None
        location = self._repository.location(path)
        if location is not None:
            return pq.ParquetFile(location, metadata=metadata, memory_map=True, pre_buffer=False)
        return pq.ParquetFile(self._repository.open(path), metadata=metadata, pre_buffer=False, buffer_size=_BUFFER)


class _Shelf:
    """The pictures that were read last, by their window; of bounded size, but for a single window that is larger."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._windows: OrderedDict[int, dict[int, bytes | None]] = OrderedDict()

    def get(self, window: int) -> dict[int, bytes | None] | None:
        if window in self._windows:
            self._windows.move_to_end(window)
        return self._windows.get(window)

    def put(self, window: int, pictures: dict[int, bytes | None]) -> None:
        self._windows[window] = pictures
        while len(self._windows) > 1 and sum(map(_size, self._windows.values())) > _SHELF_BYTES:
            self._windows.popitem(last=False)


def _size(pictures: dict[int, bytes | None]) -> int:
    return sum(len(data or b"") for data in pictures.values())


def _texts(batch: pa.RecordBatch, inside: list[int], columns: Sequence[str]) -> list[dict[str, str | None]]:
    import pyarrow as pa

    picked = batch.take(pa.array(inside))
    texts: dict[str, list[str | None]] = {}
    for name in columns:
        if name in picked.schema.names:
            # A file's texts need not be UTF-8, whatever its schema says.
            values = picked.column(name).cast(pa.large_binary()).to_pylist()
            texts[name] = [None if value is None else value.decode("utf-8", "replace") for value in values]
        else:
            texts[name] = [None] * len(inside)
    return [{name: values[i] for name, values in texts.items()} for i in range(len(inside))]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
