"""What a person names as SOURCE on the command line, opened as a `datasets.Dataset` of schema rows.

A SOURCE is a folder of pictures, a staged or saved data set, a list of pictures and captions (JSON, TSV), tar shards or
what else img2dataset writes, or a Hub id.
Pictures stay undecoded here, so that one that cannot be decoded is a row with a reason later, not the end of the run.
"""

from __future__ import annotations

import glob
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import AugError, ColumnError, FormatError, UsageError
from hf_mllm_aug.loaders.data_files import expand_braces, find_files, shown
from hf_mllm_aug.loaders.forms import ANY, REMOTE, REPOSITORIES, open_form
from hf_mllm_aug.loaders.keys import repeated_keys, url_key
from hf_mllm_aug.loaders.picture_folder import load_picture_folder
from hf_mllm_aug.loaders.prepared import gathered, named
from hf_mllm_aug.loaders.recognise import files_in, files_of_split, is_hub_id, is_picture_folder, recognise
from hf_mllm_aug.loaders.repositories import Layout, layout_of, texts_of
from hf_mllm_aug.loaders.tar_members import SUFFIXES as TARS
from hf_mllm_aug.schema import CAPTION, IMAGE, KEY, URL
from hf_mllm_aug.staged import is_staged, open_staged, picture_columns

if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

KINDS = (
    "a folder of pictures, a staged or saved data set, a .json or .tsv list of pictures and captions, .tar or .parquet "
    "shards, or a Hub id (OWNER/NAME)"
)

# Forms that are opened by what they are, wherever they lie.
_SHARDS = frozenset({"webdataset", "img2dataset-parquet", "img2dataset-folder", "yfcc-archive", "table"})
_SUFFIXES = (".tsv", ".tsv.gz", ".tsv.bz2", ".parquet", *TARS)
_EMPTY = "{} has no rows: there is nothing to caption or to score."
_KEY_NAMES = (KEY, "__key__")
_URL_NAMES = (URL, "image_url", "__url__")
_CAPTION_NAMES = (CAPTION, "text", "txt")


def open_source(
    source: str, *, split: str | None = None, image_column: str | None = None, max_samples: int | None = None
) -> Dataset:
    """Open a SOURCE as rows of key (if it has one), image (undecoded), url, caption, then its other columns.

    Args:
        source: A path or a Hub id; see the module's docstring.
        split: The split to read where there are several; by default ``train``, or the only one.
        image_column: The column with the pictures; by default ``image``, or the only column of pictures.
        max_samples: Read no more rows than this. A large source is then streamed, so that no more of it is read.

    Returns:
        The rows, with the keys that `load_cc3m` and its like give them. Where keys were made of addresses and two rows
        have the same one, or one has none, there is no key: `to_configs` makes one of the whole row.

    Raises:
        UsageError: The source is none of the kinds, or has no such split, or no rows.
        ColumnError: There is no column of pictures, or not that one.
        FormatError: The source breaks its format, or holds no pictures.
    """
    try:
        dataset = _open(source, split, max_samples)
    except ValueError as error:
        # What `datasets` says of files without rows.
        if isinstance(error, AugError) or "corresponds to no data" not in str(error):
            raise
        raise UsageError(_EMPTY.format(shown(source))) from error
    if not len(dataset):
        raise UsageError(_EMPTY.format(shown(source)))
    if max_samples is not None:
        dataset = dataset.select(range(min(max_samples, len(dataset))))
    return _without_repeated_keys(_conform(dataset, image_column), shown(source))


def _open(source: str, split: str | None, max_samples: int | None) -> Dataset:
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, split, max_samples)
    if source.startswith(REMOTE) or (source.lower().endswith(_SUFFIXES) and (path.is_file() or _is_pattern(source))):
        return _open_files(str(path) if path.is_file() else source, split, max_samples)
    if source in REPOSITORIES and not path.exists():
        return _open_form(source, split, max_samples)
    if path.is_file() and path.suffix in (".json", ".jsonl") and recognise([str(path)]) == "declip":
        return _open_form(str(path), split, max_samples, image_root=path.parent)
    if path.suffix in (".json", ".jsonl") and (path.is_file() or glob.has_magic(source)):
        from hf_mllm_aug.loaders.pairs import load_pairs

        # As beside any other list of files: relative paths start from where the list lies.
        return load_pairs(path, image_root=None if glob.has_magic(str(path.parent)) else path.parent)
    if path.exists():
        raise UsageError(f"cannot read {source} as a source: it should be {KINDS}.")
    if is_hub_id(source):
        return _open_hub(source, split, max_samples)
    raise UsageError(f"no such file or folder: {source}. A source is {KINDS}.")


def _open_form(source: str, split: str | None, max_samples: int | None, **options: Any) -> Dataset:
    split = split or "train"
    if max_samples is None:
        return open_form(ANY, source, split=split, streaming=False, **options)
    # Streamed from this machine too: the cache would first get a copy of all tars, or of all lines.
    return gathered(open_form(ANY, source, split=split, streaming=True, **options), max_samples, split)


def _open_files(source: str, split: str | None, max_samples: int | None) -> Dataset:
    """Open tars, lists or tables; of a table all columns are kept."""
    if source.lower().endswith(".parquet"):
        files = list(find_files(source, (".parquet",))["train"])
        if not source.startswith(REMOTE) and recognise(files) == "table":
            return _open_table(files, split, max_samples)
    return _open_form(source, split, max_samples)


def _open_table(files: list[str], split: str | None, max_samples: int | None) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    split = split or "train"
    if max_samples is None:
        try:
            return load_dataset("parquet", data_files={split: files}, split=split)
        except DatasetGenerationError as failure:
            first = str(failure.__cause__ or failure).partition("\n")[0][:200]
            raise FormatError(f"{named(files)}: a file is damaged, or has other columns ({first})") from failure
    stream = load_dataset("parquet", data_files={split: files}, split=split, streaming=True)
    return gathered(_undecoded(stream), max_samples, split)


def _is_pattern(source: str) -> bool:
    return glob.has_magic(source) or len(list(expand_braces(source))) > 1


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _open_folder(path: Path, split: str | None, max_samples: int | None) -> Dataset:
    from datasets import load_from_disk

    if _is_saved(path):
        try:
            saved = load_from_disk(str(path))
        except IndexError as error:  # it joins the tables of no files
            raise UsageError(_EMPTY.format(path)) from error
        return saved[_pick_split(split, list(saved), str(path))] if isinstance(saved, dict) else saved
    if is_staged(path):
        splits = open_staged(path).open()
        return splits[_pick_split(split, list(splits), str(path))]
    if is_picture_folder(str(path)):
        return load_picture_folder(path)
    form = recognise([str(path)])
    if form == "table":
        files = files_of_split(files_in(str(path), ".parquet"), split or "train", str(path))
        return _open_table(files, split, max_samples)
    return _open_form(str(path), split, max_samples) if form in _SHARDS else load_picture_folder(path)


def _open_hub(repo_id: str, split: str | None, max_samples: int | None) -> Dataset:
    from datasets import get_dataset_split_names, load_dataset

    split = _pick_split(split, get_dataset_split_names(repo_id), repo_id)
    if max_samples is None:
        return load_dataset(repo_id, split=split)
    return gathered(_undecoded(load_dataset(repo_id, split=split, streaming=True)), max_samples, split)


def _pick_split(wanted: str | None, present: list[str], where: str) -> str:
    if wanted is None and len(present) == 1:
        return present[0]
    if (wanted or "train") in present:
        return wanted or "train"
    problem = f"has no split {wanted!r}; it has" if wanted else "has several splits; choose one with --split"
    raise UsageError(f"{where} {problem}: {', '.join(present)}.")


def _undecoded(dataset: Any) -> Any:
    """Turn off decoding in every column of pictures."""
    from datasets import Image

    for column in picture_columns(dataset.features):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _conform(dataset: Dataset, image_column: str | None) -> Dataset:
    """Bring any data set with pictures to the schema's columns; its other columns follow them.

    The columns of a repository that is known (`repositories.LAYOUTS`) are read as `load_cc3m` and its like read them. A
    key that is missing stays missing: `to_configs` makes one from the row's content, which a row's number is not.
    """
    from datasets import Image, Value

    layout = layout_of(dataset.column_names)
    if layout is not None and layout.key != KEY:
        dataset = _read_as(dataset, layout)
        if image_column is None and not picture_columns(dataset.features) and IMAGE not in dataset.column_names:
            image_column = layout.image if layout.image in dataset.column_names else None
            if image_column is None:
                dataset = dataset.add_column(IMAGE, [None] * len(dataset), feature=Image(decode=False))
    chosen = _choose_image_column(dataset.features, image_column)
    if chosen != IMAGE and IMAGE in dataset.column_names:
        dataset = dataset.remove_columns(IMAGE)
    dataset = dataset.cast_column(chosen, Image(decode=False))
    if chosen != IMAGE:
        dataset = dataset.rename_column(chosen, IMAGE)
    for column, names in ((KEY, _KEY_NAMES), (URL, _URL_NAMES), (CAPTION, _CAPTION_NAMES)):
        dataset = _adopt(dataset, column, names)
    for column in (URL, CAPTION):
        if column not in dataset.column_names:
            dataset = dataset.add_column(column, [None] * len(dataset), feature=Value("string"))
    first = [name for name in (KEY, IMAGE, URL, CAPTION) if name in dataset.column_names]
    return dataset.select_columns([*first, *(name for name in dataset.column_names if name not in first)])


def _read_as(dataset: Dataset, layout: Layout) -> Dataset:
    """Put key, url and caption in the places of the columns that a layout makes them of; the others stay."""
    from datasets import concatenate_datasets

    texts = texts_of(dataset, layout)
    if texts is None:
        return dataset
    used = {layout.key, layout.url, *layout.caption, *texts.column_names}
    others = dataset.remove_columns([name for name in dataset.column_names if name in used])
    return concatenate_datasets([texts, others], axis=1) if others.column_names else texts


def _without_repeated_keys(dataset: Dataset, source: str) -> Dataset:
    """Leave out keys that were made of addresses, where two rows have the same address: they name no row then."""
    if not {KEY, URL} <= set(dataset.column_names) or not dataset[0][URL]:
        return dataset
    if dataset[0][KEY] != url_key(dataset[0][URL]) or not (count := len(repeated_keys(dataset))):
        return dataset
    logger.warning("%s: %d rows have the address of another; keys are made of address and caption", source, count)
    return dataset.remove_columns(KEY)


def _choose_image_column(features: Features, wanted: str | None) -> str:
    from datasets import Image, Value

    name = wanted or IMAGE
    if name not in features:
        pictures = picture_columns(features)
        if wanted is None and len(pictures) == 1:
            return pictures[0]
        raise ColumnError(name, features, "name the column that holds the pictures with --image-column")
    feature = features[name]
    if isinstance(feature, Image) or feature in (Value("string"), Value("binary")):
        return name
    raise UsageError(f"column {name!r} holds {feature}, not pictures. Name another with --image-column.")


def _adopt(dataset: Dataset, column: str, names: tuple[str, ...]) -> Dataset:
    """Rename the first of ``names`` that the data set has to ``column``, as strings; a ``column`` of another form, such
    as lists of captions, keeps its name.
    """
    from datasets import Value

    found = next((name for name in names if isinstance(dataset.features.get(name), Value)), None)
    if found is None or (found != column and column in dataset.column_names):
        return dataset
    if found != column:
        dataset = dataset.rename_column(found, column)
    return dataset if dataset.features[column] == Value("string") else dataset.cast_column(column, Value("string"))
