"""The repositories in which the data sets are published on the Hub, and any copy of one: a table of named columns.

A repository's rows are read by `datasets` and given the columns of `schema`; which columns they come from is data
(`LAYOUTS`). Pictures are never decoded: one with broken EXIF would end a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import ColumnError, FormatError, UsageError
from hf_mllm_aug.loaders.keys import report_repeated_keys, url_key
from hf_mllm_aug.loaders.prepared import split_name
from hf_mllm_aug.loaders.yfcc_metadata import yfcc_caption
from hf_mllm_aug.schema import CAPTION, IMAGE, KEY, URL, base_features

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# Raise it when the rows made of a table change: datasets' cache does not see the code.
CODE_VERSION = 1
# What to do where a repository has no table that `datasets` reads.
_INSTEAD = {
    "google-research-datasets/conceptual_12m": "Download the list, cc12m.tsv, and pass its path",
    "dalle-mini/YFCC100M_OpenAI_subset": (
        "Download its files (hf download dalle-mini/YFCC100M_OpenAI_subset --repo-type dataset --local-dir FOLDER; "
        "with --include 'metadata/*' captions and addresses alone) and pass FOLDER"
    ),
}
_BATCH = 100  # rows, with their pictures
_MANY = 1_000  # without


@dataclass(frozen=True)
class Layout:
    """The columns of a published table.

    Args:
        needed: The columns by which it is known; all of them are there.
        key: The column of the publisher's key, or None: the key is then derived from the address.
        image: The column of pictures, or None.
        url: The column of addresses, or None.
        caption: The columns that the caption is made of by `yfcc_caption`, or the one that it is.
    """

    needed: tuple[str, ...]
    caption: tuple[str, ...]
    url: str | None = None
    key: str | None = None
    image: str | None = None


LAYOUTS = (
    # google-research-datasets/conceptual_captions (both configs) and conceptual_12m
    Layout(("image_url", "caption"), url="image_url", caption=("caption",)),
    # dalle-mini/YFCC100M_OpenAI_subset
    Layout(
        ("photoid", "title_clean", "description_clean"),
        key="photoid",
        image="img",
        url="downloadurl",
        caption=("title_clean", "description_clean"),
    ),
    # A data set of this package's, and copies that were made of one
    Layout((KEY, CAPTION), key=KEY, image=IMAGE, url=URL, caption=(CAPTION,)),
    Layout((URL, CAPTION), image=IMAGE, url=URL, caption=(CAPTION,)),
)


def load_hub(repo_id: str, *, split: str, streaming: bool, config: str | None) -> Dataset | IterableDataset:
    """Read a repository of the Hub that holds a table.

    Args:
        repo_id: OWNER/NAME.
        split: The split, or a slice of it.
        streaming: As for `datasets.load_dataset`.
        config: The config, or None for the repository's default one.

    Raises:
        ColumnError: It has none of the known sets of columns.
        UsageError: It is a loading script, which `datasets` does not run.
    """
    from datasets import load_dataset

    split_name(split, streaming=streaming)
    try:
        rows = load_dataset(repo_id, config, split=split, streaming=streaming)
    except RuntimeError as failure:
        if "scripts are no longer supported" not in str(failure):
            raise
        raise UsageError(
            f"{repo_id} on the Hub is a loading script, which datasets does not run any more. "
            f"{_INSTEAD.get(repo_id, 'Download its files and pass the folder of them')}"
        ) from failure
    return to_schema(rows, repo_id)


def load_parquet(files: Sequence[str], *, split: str, streaming: bool, source: str) -> Dataset | IterableDataset:
    """Read the Parquet files of a copy of a repository, by their columns."""
    from datasets import load_dataset

    name = split_name(split, streaming=streaming)
    rows = load_dataset("parquet", data_files={name: list(files)}, split=split, streaming=streaming)
    return to_schema(rows, source)


def to_schema(rows: Any, source: str) -> Any:
    """Give a table of a known layout the columns of the schema.

    Args:
        rows: A `Dataset` or an `IterableDataset`.
        source: Where they come from, for messages.

    Returns:
        The same kind of data set with key, image (undecoded), url, caption and no other column.

    Raises:
        ColumnError: It has none of the known sets of columns.
    """
    from datasets import Dataset, Image

    features = rows.features if rows.features is not None else rows._resolve_features().features
    layout = find_layout(list(features))
    for column, feature in features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(column, Image(decode=False))
    used = [layout.key, layout.image, layout.url, *layout.caption]
    rows = rows.select_columns([name for name in features if name in used])
    made = rows.map(
        _rows,
        batched=True,
        with_indices=True,
        batch_size=_MANY if layout.image not in features else _BATCH,
        fn_kwargs={"layout": layout, "source": source, "version": CODE_VERSION},
        remove_columns=[name for name in features if name in used],
        features=base_features(),
        **({"desc": f"reading {source}"} if isinstance(rows, Dataset) else {}),
    )
    if isinstance(made, Dataset):
        report_repeated_keys(made, source)
    return made


def find_layout(columns: Sequence[str]) -> Layout:
    """The first of the known layouts whose columns are all there.

    Raises:
        ColumnError: There is none.

    >>> find_layout(["image_url", "caption", "labels"]).url
    'image_url'
    """
    layout = layout_of(columns)
    if layout is not None:
        return layout
    known = "; ".join(", ".join(layout.needed) for layout in LAYOUTS)
    raise ColumnError(LAYOUTS[0].needed[0], columns, f"rename columns, so that one of these sets is there: {known}")


def layout_of(columns: Sequence[str]) -> Layout | None:
    """The first of the known layouts whose columns are all there, or None."""
    return next((layout for layout in LAYOUTS if set(layout.needed) <= set(columns)), None)


def texts_of(rows: Dataset, layout: Layout) -> Dataset | None:
    """Key, url and caption as `to_schema` makes them; pictures and other columns are not touched.

    Args:
        rows: A table with the columns of the layout.
        layout: The layout.

    Returns:
        As many rows; None if one has neither a key nor an address to make one of.
    """
    used = [name for name in (layout.key, layout.url, *layout.caption) if name in rows.column_names]
    texts = rows.select_columns(used)
    named_by = layout.key if layout.key is not None else layout.url
    if any(not name for batch in texts.select_columns([named_by]).iter(_MANY) for name in batch[named_by]):
        return None
    features = base_features()
    features.pop(IMAGE)
    return texts.map(
        _texts,
        batched=True,
        batch_size=_MANY,
        fn_kwargs={"layout": layout, "version": CODE_VERSION},
        remove_columns=used,
        features=features,
    )


def _texts(batch: Mapping[str, list[Any]], layout: Layout, version: int) -> dict[str, list[Any]]:
    made = _rows(batch, list(range(len(next(iter(batch.values()))))), layout, "", version)
    return {name: made[name] for name in (KEY, URL, CAPTION)}


def _rows(
    batch: Mapping[str, list[Any]], numbers: Sequence[int], layout: Layout, source: str, version: int
) -> dict[str, list[Any]]:
    """Schema rows of a batch; the version is an argument so that it is part of what `map` caches under."""
    nothing: list[Any] = [None] * len(numbers)
    urls = [url or None for url in batch.get(layout.url or "", nothing)]
    if len(layout.caption) == 1:
        captions = batch[layout.caption[0]]
    else:
        columns = [batch[name] for name in layout.caption]
        captions = [yfcc_caption(dict(zip(layout.caption, texts, strict=True))) for texts in zip(*columns, strict=True)]
    given = batch[layout.key] if layout.key else nothing
    keys = [_key(key, url, source, number) for key, url, number in zip(given, urls, numbers, strict=True)]
    images = [_image(value) for value in batch.get(layout.image or "", nothing)]
    return {KEY: keys, IMAGE: images, URL: urls, CAPTION: captions}


def _key(given: Any, url: str | None, source: str, number: int) -> str:
    if given is not None and given != "":
        return str(given)
    if url is None:
        raise FormatError(f"{source}, row {number + 1:,}: neither a key nor a url, so nothing names its picture")
    return url_key(url)


def _image(value: Any) -> dict[str, Any] | None:
    """A picture as `datasets` stores undecoded ones: of bytes, of a list of bytes, or as it is."""
    if isinstance(value, Mapping):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    return {"bytes": bytes(value), "path": None} if value else None
