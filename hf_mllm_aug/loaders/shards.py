"""Forms of a data set that bear its pictures: WebDataset tars, and what img2dataset writes.

All give the schema's rows with the pictures undecoded, so that a broken one is a row with a reason later and not the
end of a stream.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.loaders.data_files import find_files
from hf_mllm_aug.loaders.img2dataset import folder_stamp, shard_folders
from hf_mllm_aug.loaders.prepared import named, open_builder
from hf_mllm_aug.loaders.tally import OnError
from hf_mllm_aug.loaders.tar_members import SUFFIXES as TARS

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from datasets.data_files import DataFilesDict

    PathLike = str | os.PathLike[str]

# Raise it when the rows made of a file change: datasets' cache does not see the code.
CODE_VERSION = 2
_PARQUET = (".parquet",)


@overload
def load_webdataset(
    paths: PathLike | Sequence[PathLike], *, streaming: Literal[False] = ..., on_error: OnError = ...
) -> Dataset: ...
@overload
def load_webdataset(
    paths: PathLike | Sequence[PathLike], *, streaming: Literal[True], on_error: OnError = ...
) -> IterableDataset: ...
@overload
def load_webdataset(
    paths: PathLike | Sequence[PathLike], *, streaming: bool, on_error: OnError = ...
) -> Dataset | IterableDataset: ...
def load_webdataset(
    paths: PathLike | Sequence[PathLike], *, streaming: bool = False, on_error: OnError = "warn"
) -> Dataset | IterableDataset:
    """Load WebDataset tars of pictures and captions, such as those of pixparse on the Hub and those of img2dataset.

    A sample is a run of members whose names are equal up to the first dot: a picture (``.jpg``, ``.png``, ``.webp``
    ...), a caption (``.txt``) and a record (``.json``) with the address, and the caption where there is no ``.txt``.
    Samples with a status other than ``success``, without a picture, or against the format (a link, two members of one
    name, a name that leads out of the archive) give no row and are counted by reason.

    Args:
        paths: A file, a folder of files, a pattern (``cc3m-train-*.tar``, ``{0000..0575}.tar``) or several of them,
            here or at an address of fsspec: ``hf://datasets/pixparse/cc3m-wds/cc3m-train-*.tar``, ``s3://...``. Files
            on the Hub are read at one commit.
        streaming: Return an `IterableDataset` with a shard for each file, nothing read yet, instead of a `Dataset` in
            datasets' cache. Repeated keys are then not looked for.
        on_error: ``"warn"``: where a file is cut off or broken the rows before are delivered and a warning names the
            file and the last good key; a sample against the format is counted. ``"raise"``: both are errors.

    Returns:
        Rows of key, image (bytes, undecoded), url, caption. The key is the samples' name in the tar (``__key__``);
        where the record is one of img2dataset's, whose names are running numbers, and has the address, it is derived
        from that (`url_key`). The caption is what the ``.txt`` holds, byte for byte. What was left out is logged, for a
        stream a file at a time (at level INFO where only downloads had failed); a `Dataset` keeps it as
        ``info.description``.

    Raises:
        FormatError: With ``on_error="raise"``.
        UsageError: No file is there.

    >>> import io, tarfile, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".tar") as file:
    ...     with tarfile.open(file.name, "w") as tar:
    ...         for name, data in {"000.jpg": b"...", "000.txt": b"A red bus."}.items():
    ...             member = tarfile.TarInfo(name)
    ...             member.size = len(data)
    ...             tar.addfile(member, io.BytesIO(data))
    ...     load_webdataset(file.name, streaming=True).take(1).to_list()
    [{'key': '000', 'image': {'bytes': b'...', 'path': '000.jpg'}, 'url': None, 'caption': 'A red bus.'}]
    """
    return load_tars(find_files(paths, TARS), streaming=streaming, on_error=on_error)


def load_tars(files: DataFilesDict, *, streaming: bool, on_error: OnError = "warn") -> Dataset | IterableDataset:
    """What `load_webdataset` does with the files that it has found."""
    return _load("tar", streaming, on_error, named(files["train"]), data_files=files)


@overload
def load_img2dataset_parquet(
    paths: PathLike | Sequence[PathLike], *, streaming: Literal[False] = ..., on_error: OnError = ...
) -> Dataset: ...
@overload
def load_img2dataset_parquet(
    paths: PathLike | Sequence[PathLike], *, streaming: Literal[True], on_error: OnError = ...
) -> IterableDataset: ...
@overload
def load_img2dataset_parquet(
    paths: PathLike | Sequence[PathLike], *, streaming: bool, on_error: OnError = ...
) -> Dataset | IterableDataset: ...
def load_img2dataset_parquet(
    paths: PathLike | Sequence[PathLike], *, streaming: bool = False, on_error: OnError = "warn"
) -> Dataset | IterableDataset:
    """Load the Parquet files that img2dataset writes with ``output_format="parquet"``.

    Args:
        paths: As for `load_webdataset`.
        streaming: As for `load_webdataset`.
        on_error: As for `load_webdataset`. Of a Parquet file that is cut off nothing can be read.

    Returns:
        Rows of key, image (bytes, undecoded), url, caption, for the samples with the status ``success``; the others are
        counted as by `load_webdataset`. The key is derived from the address (`url_key`); where there is none it is the
        file's, a running number.

    Raises:
        FormatError: A file has no column of pictures or no key; or, with ``on_error="raise"``, is broken.
        UsageError: No file is there.

    >>> import pyarrow, tempfile
    >>> from pyarrow.parquet import write_table
    >>> columns = {"key": ["000", "001"], "url": ["http://a.b/c.jpg"] * 2, "caption": ["A red bus.", "A cat."]}
    >>> columns |= {"status": ["success", "failed_to_download"], "jpg": [b"...", None]}
    >>> with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
    ...     write_table(pyarrow.table(columns), file.name)
    ...     load_img2dataset_parquet(file.name, streaming=True).remove_columns("url").take(2).to_list()
    [{'key': '29e75dad6853252578fa907a', 'image': {'bytes': b'...', 'path': '000.jpg'}, 'caption': 'A red bus.'}]
    """
    files = find_files(paths, _PARQUET)
    return _load("parquet", streaming, on_error, named(files["train"]), data_files=files)


@overload
def load_img2dataset_folder(path: PathLike, *, streaming: Literal[False] = ..., on_error: OnError = ...) -> Dataset: ...
@overload
def load_img2dataset_folder(
    path: PathLike, *, streaming: Literal[True], on_error: OnError = ...
) -> IterableDataset: ...
@overload
def load_img2dataset_folder(
    path: PathLike, *, streaming: bool, on_error: OnError = ...
) -> Dataset | IterableDataset: ...
def load_img2dataset_folder(
    path: PathLike, *, streaming: bool = False, on_error: OnError = "warn"
) -> Dataset | IterableDataset:
    """Load the folder that img2dataset writes with ``output_format="files"``: ``00000/000000000.jpg`` and so on.

    Args:
        path: The folder, on this machine; or one of the folders in it. Beside a picture lie its caption (``.txt``) and
            its record (``.json``).
        streaming: As for `load_webdataset`; each folder in it is a shard.
        on_error: As for `load_webdataset`.

    Returns:
        Rows of key (of the address, as for `load_webdataset`, or else the file's name without its suffix), image (the
        path: the bytes stay where they are), url, caption.

    Raises:
        FormatError: With ``on_error="raise"``, where a sample is against the format.
        UsageError: There is no such folder.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, data in {"000.jpg": b"...", "000.txt": b"A red bus."}.items():
    ...         with open(os.path.join(folder, name), "wb") as file:
    ...             _ = file.write(data)
    ...     load_img2dataset_folder(folder, streaming=True).remove_columns("image").take(1).to_list()
    [{'key': '000', 'url': None, 'caption': 'A red bus.'}]
    """
    root = Path(path)
    if not root.is_dir():
        raise UsageError(f"no such folder on this machine: {os.fspath(path)}")
    root = root.absolute()  # the rows outlive a change of the working directory
    folders = [(str(folder), 0 if streaming else folder_stamp(folder)) for folder in shard_folders(root)]
    return _load("folder", streaming, on_error, os.fspath(path), folders=folders)


def _load(form: str, streaming: bool, on_error: OnError, source: str, **data: Any) -> Dataset | IterableDataset:
    from hf_mllm_aug.loaders.shards_builder import Shards

    if on_error not in ("warn", "raise"):
        raise UsageError(f"on_error={on_error!r}: choose 'warn' or 'raise'")
    builder = Shards(form=form, on_error=on_error, code_version=CODE_VERSION, **data)
    return open_builder(builder, "train", streaming, source)
