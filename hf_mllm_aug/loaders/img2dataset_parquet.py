"""img2dataset's Parquet form: tables of all samples, the pictures' bytes in a column named after their format.

Read column by column, never row by row: the bytes are not touched by Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.img2dataset import NO_PICTURE, PICTURE_TYPES, STATUS, SUCCESS
from hf_mllm_aug.loaders.keys import url_key
from hf_mllm_aug.loaders.tally import Tally

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_A_TABLE = 100


def iter_tables(file: Any, tally: Tally, arrow_schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of one Parquet file as tables; those that failed or have no picture are counted.

    Args:
        file: A path, or a file open for reading bytes at any place.
        tally: Where they are counted.
        arrow_schema: The schema of the rows.

    Raises:
        FormatError: It has no key, or no column of pictures, as the file of records beside a tar has none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without `pre_buffer`: a row group is a whole shard, hundreds of megabytes.
        reader = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except pa.ArrowInvalid as failure:
        tally.damage(f"no Parquet file, or one that is cut off ({_first_line(failure)})")
        return
    picture = _picture_column(reader.schema_arrow, tally.source)
    columns = [name for name in (schema.KEY, schema.URL, schema.CAPTION, STATUS) if name in reader.schema_arrow.names]
    options = {"batch_size": _ROWS_A_TABLE, "columns": [*columns, picture], "use_threads": False}
    # By row groups: a batch across two of them would be lost whole where one is broken.
    batches = (b for group in range(reader.num_row_groups) for b in reader.iter_batches(row_groups=[group], **options))
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as failure:
            if isinstance(failure, OSError) and failure.errno is not None:
                raise  # of the disk or the network, not of the file
            tally.damage(_first_line(failure))
            return
        if batch is None:
            return
        table, last = _rows(batch, picture, tally, arrow_schema)
        if last is not None:
            tally.delivered(last, table.num_rows)
        yield table


def _first_line(failure: Exception) -> str:
    return (str(failure).splitlines() or [type(failure).__name__])[0].rstrip(".")[:200]


def _picture_column(found: pa.Schema, source: str) -> str:
    import pyarrow.types as types

    def holds_pictures(kind: pa.DataType) -> bool:
        if types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    columns = [column.name for column in found if holds_pictures(column.type)]
    named = [name for name in (*PICTURE_TYPES, schema.IMAGE) if name in columns]
    if not named and len(columns) != 1:
        raise FormatError(
            f"{source}: no column of pictures; it has: {', '.join(found.names)}. img2dataset writes such a file beside "
            "each shard of its other forms: read those, with load_webdataset or load_img2dataset_folder"
        )
    if schema.KEY not in found.names:
        raise FormatError(f"{source}: no column 'key'; it has: {', '.join(found.names)}")
    return (named or columns)[0]


def _rows(batch: pa.RecordBatch, picture: str, tally: Tally, arrow_schema: pa.Schema) -> tuple[pa.Table, str | None]:
    """The batch's successes that have a picture, as rows of the schema; and what the file calls the last of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def column(name: str) -> pa.Array:
        return batch.column(name) if name in batch.schema.names else pa.nulls(len(batch), pa.string())

    images = batch.column(picture)
    if pa.types.is_struct(images.type):
        images = pc.struct_field(images, "bytes")
    keys, images = _text(column(schema.KEY), schema.KEY, tally), images.cast(pa.binary())
    statuses = pc.fill_null(column(STATUS).cast(pa.string()), SUCCESS)
    success = pc.equal(statuses, SUCCESS)
    for failed in statuses.filter(pc.invert(success)).value_counts().to_pylist():
        tally.leave_out(failed["values"], failed["counts"])
    if without := pc.sum(pc.and_not(success, images.is_valid())).as_py():
        tally.leave_out(NO_PICTURE, without)
    good = pc.and_(success, images.is_valid())
    for _ in range(pc.sum(pc.and_not(good, keys.is_valid())).as_py() or 0):
        tally.reject("without a key", f"a row after {tally.rows:,}")
    good = pc.and_(good, keys.is_valid())
    suffix = pa.scalar(picture if picture in PICTURE_TYPES else "image")
    pictures = pa.StructArray.from_arrays([images, pc.binary_join_element_wise(keys, suffix, ".")], ["bytes", "path"])
    urls = _text(column(schema.URL), schema.URL, tally)
    columns = {
        schema.KEY: pa.array(map(_key, keys.to_pylist(), urls.to_pylist()), pa.string(), size=len(keys)),
        schema.IMAGE: pictures,
        schema.URL: urls,
        schema.CAPTION: _text(column(schema.CAPTION), schema.CAPTION, tally),
    }
    names = keys.filter(good)
    table = pa.table(columns).filter(good).select(arrow_schema.names).cast(arrow_schema)
    return table, names[-1].as_py() if len(names) else None


def _key(name: str | None, url: str | None) -> str | None:
    """The row's key: of its address, where there is one. The file's is a running number, another in every download."""
    return url_key(url) if url else name


def _text(values: pa.Array, name: str, tally: Tally) -> pa.Array:
    """A column as text; what is not UTF-8, which files may hold in columns of text all the same, becomes null."""
    import pyarrow as pa

    texts = values.cast(pa.string(), safe=False)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        texts = pa.array([_decode(value, name, tally) for value in texts.cast(pa.binary()).to_pylist()], pa.string())
    return texts


def _decode(value: bytes | None, name: str, tally: Tally) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        tally.fault(f"with a {name} that is not UTF-8", repr(value[:40]) if value else "")
        return None
