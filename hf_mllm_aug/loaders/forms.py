"""The forms in which CC3M, CC12M and YFCC15M are published and kept, as data; and the one way in which all are opened.

A source is recognised by what it is (`recognise`), or is of the form that the caller names. Each form is a row of
`FORMS`: what it is, which options mean something for it, and what reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import FormatError, UnknownNameError, UsageError
from hf_mllm_aug.loaders.data_files import chosen_files, find_files
from hf_mllm_aug.loaders.faults import OnError, check_on_error
from hf_mllm_aug.loaders.prepared import named, of_split, open_builder, split_name, stamped
from hf_mllm_aug.loaders.recognise import (
    expand,
    files_in,
    files_of_split,
    is_hub_id,
    recognise,
    recognise_address,
    recognise_repository,
)
from hf_mllm_aug.loaders.tables import Order, look_at
from hf_mllm_aug.loaders.tar_members import SUFFIXES as TARS

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

PathLike = str | os.PathLike[str]
Source = PathLike | Sequence[PathLike]
REMOTE = "hf://"
_MOST_SHARDS = 256  # of a saved data set as a stream


@dataclass(frozen=True)
class Request:
    """What is to be opened.

    Args:
        paths: Files, or one folder, or one OWNER/NAME.
        split: The split's name.
        sliced: The split as it was asked for, perhaps with a slice.
        streaming: Whether a stream is wanted.
        config: The config that was asked for.
        usual_config: The config to read where none was asked for.
        image_root: The folder that relative picture paths start from.
        metadata: The files of captions to join OpenAI's list with.
        on_error: What to do about a row that cannot be read; None for the form's own default.
        order: The order of the columns in which the data set's own list is published.
    """

    paths: tuple[str, ...]
    split: str = "train"
    sliced: str = "train"
    streaming: bool = False
    config: str | None = None
    usual_config: str | None = None
    image_root: str | None = None
    metadata: tuple[str, ...] = ()
    on_error: OnError | None = None
    order: Order | None = None

    @property
    def name(self) -> str:
        """The source as a message names it."""
        return named(self.paths)

    def files(self, *suffixes: str) -> list[str]:
        """The files of the split: of a folder those with one of the suffixes, else those that were named."""
        if not os.path.isdir(self.paths[0]):
            return list(self.paths)
        found = files_in(self.paths[0], *suffixes)
        config = self.config or self.usual_config
        if config is not None:
            inside = [name for name in found if f"{os.sep}{config}{os.sep}" in name[len(self.paths[0]) :]]
            if self.config is not None and not inside:
                raise UsageError(f"{self.name} has no config {config!r}: no folder of that name with such files")
            found = inside or found
        if not found:
            raise UsageError(f"{self.name} has no file that ends in {' or '.join(suffixes)}")
        return files_of_split(found, self.split, self.name)


@dataclass(frozen=True)
class Form:
    """One form.

    Args:
        what: What it is, in a few words.
        load: What opens it.
        options: The options that mean something for it, beside split and streaming.
    """

    what: str
    load: Callable[[Request], Any]
    options: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DataSet:
    """A data set that has several forms.

    Args:
        name: Its name.
        repository: Where the Hub has it: what is opened where no source is given.
        forms: The names of the forms that it may have.
        order: The order of the columns of its list, if it has one.
        config: The repository's config to read, where it has several.
    """

    name: str
    repository: str
    forms: tuple[str, ...]
    order: Order | None = None
    config: str | None = None


def open_form(
    data_set: DataSet,
    source: Source | None,
    *,
    split: str,
    streaming: bool,
    form: str | None = None,
    config: str | None = None,
    image_root: PathLike | None = None,
    metadata: Source | None = None,
    on_error: OnError | None = None,
) -> Dataset | IterableDataset:
    """Open a source of a data set; the arguments are those of `load_cc3m` and its like.

    Raises:
        UsageError: The source is of no form that the data set has, or an option means nothing for its form.
        FormatError: The source breaks its format.
    """
    if on_error is not None:
        check_on_error(on_error)
    name = split_name(split, streaming=streaming)
    paths = _paths(source, data_set)
    chosen = form if form is not None else _recognised(paths, data_set)
    if chosen not in data_set.forms:
        raise UnknownNameError(f"form of {data_set.name}", chosen, data_set.forms)
    _check_options(chosen, config=config, image_root=image_root, metadata=metadata, on_error=on_error)
    request = Request(
        paths=paths,
        split=name,
        sliced=split,
        streaming=streaming,
        config=config,
        usual_config=data_set.config,
        image_root=None if image_root is None else os.fspath(image_root),
        metadata=() if metadata is None else tuple(expand(metadata)),
        on_error=on_error,
        order=data_set.order,
    )
    rows = FORMS[chosen].load(request)
    opened: Dataset | IterableDataset = rows if chosen in _SLICED_BY_DATASETS else of_split(rows, split)
    return opened


def _paths(source: Source | None, data_set: DataSet) -> tuple[str, ...]:
    if source is None:
        return (data_set.repository,)
    if isinstance(source, str) and (is_hub_id(source) or source.startswith(REMOTE)):
        return (source,)
    paths = expand(source)
    if len(paths) > 1 and any(os.path.isdir(path) for path in paths):
        raise UsageError(f"a folder is opened alone, not among others: {named(paths)}. Name the files in it")
    return tuple(paths)


def _recognised(paths: tuple[str, ...], data_set: DataSet) -> str:
    """The form of a source that is one of the data set's forms.

    Raises:
        UsageError: It is none of them.
    """
    found: str | None
    if paths[0].startswith(REMOTE):
        found = recognise_address(paths[0])
    elif not os.path.exists(paths[0]):
        known = _REPOSITORIES.get(paths[0], "hub") if paths[0] in REPOSITORIES else None
        return known or recognise_repository(paths[0])
    else:
        found = recognise(paths)
    if found is not None and found.startswith("tsv") and data_set.order is not None:
        return "tsv"  # its columns are checked against the published order when it is read
    if found in data_set.forms:
        return found
    listed = "; ".join(f"{name}: {FORMS[name].what}" for name in data_set.forms)
    what = f"looks like {FORMS[found].what}, no form of {data_set.name}" if found else "is of no form that is known"
    raise UsageError(f"{named(paths)} {what}. Name the form with form= if it is one of these. {listed}")


def _check_options(form: str, **options: Any) -> None:
    for option, value in options.items():
        if value is not None and option not in FORMS[form].options:
            raise UsageError(f"{option}= means nothing for the form {form!r} ({FORMS[form].what})")


# --- the readers


def _load_hub(request: Request) -> Any:
    from hf_mllm_aug.loaders.repositories import load_hub

    # A repository of another name may have the same columns, and its own configs.
    config = request.config or (request.usual_config if request.paths[0] == CC3M.repository else None)
    return load_hub(request.paths[0], split=request.sliced, streaming=request.streaming, config=config)


def _load_hub_shards(request: Request) -> Any:
    from hf_mllm_aug.loaders.shards import load_tars

    # Asked for by one pattern: a listing finds thousands of files at once.
    root = f"hf://datasets/{request.paths[0]}"
    found = find_files(f"{root}/**/*.t*", TARS)
    tars = [name for name in found["train"] if name.lower().endswith(TARS)]
    if not tars:
        raise UsageError(f"{request.name} has no file that ends in {' or '.join(TARS)}")
    files = chosen_files(found, files_of_split(tars, request.split, request.name))
    return load_tars(files, streaming=request.streaming, **_shard_policy(request))


def _load_table(request: Request) -> Any:
    from hf_mllm_aug.loaders.repositories import load_parquet

    # Found again, those of a pattern on the Hub at its commit.
    files = list(find_files(request.files(".parquet"), (".parquet",))["train"])
    return load_parquet(files, split=request.sliced, streaming=request.streaming, source=request.name)


def _load_saved(request: Request) -> Any:
    from datasets import load_from_disk

    from hf_mllm_aug.loaders.repositories import to_schema

    saved = load_from_disk(request.paths[0])
    if isinstance(saved, dict):
        if request.split not in saved:
            raise UsageError(f"{request.name} has no split {request.split!r}; it has: {', '.join(saved)}")
        saved = saved[request.split]
    if request.streaming:
        saved = saved.to_iterable_dataset(num_shards=max(1, min(_MOST_SHARDS, len(saved))))
    return to_schema(saved, request.name)


def _load_shards(request: Request) -> Any:
    from hf_mllm_aug.loaders.shards import load_webdataset

    return load_webdataset(request.files(*TARS), streaming=request.streaming, **_shard_policy(request))


def _load_img2dataset_parquet(request: Request) -> Any:
    from hf_mllm_aug.loaders.shards import load_img2dataset_parquet

    return load_img2dataset_parquet(request.files(".parquet"), streaming=request.streaming, **_shard_policy(request))


def _load_img2dataset_folder(request: Request) -> Any:
    from hf_mllm_aug.loaders.shards import load_img2dataset_folder

    return load_img2dataset_folder(request.paths[0], streaming=request.streaming, **_shard_policy(request))


def _shard_policy(request: Request) -> dict[str, Any]:
    """``on_error`` as the readers of shards have it: by default they leave out what is broken, and say so."""
    return {} if request.on_error is None else {"on_error": "warn" if request.on_error == "skip" else "raise"}


def _load_pairs(request: Request) -> Any:
    from hf_mllm_aug.loaders.pairs import load_pairs

    return load_pairs(
        request.files(".json", ".jsonl", ".jsonl.gz"), image_root=request.image_root, streaming=request.streaming
    )


def _load_lines(request: Request, lines: str, files: Sequence[str], photos: str | None = None) -> Any:
    from hf_mllm_aug.loaders.table_builder import Tables

    builder = Tables(
        files=stamped(files),
        lines=lines,
        split=request.split,
        image_root=request.image_root,
        photos=None if photos is None else stamped([photos])[0],
        on_error=request.on_error or "raise",
    )
    return open_builder(builder, request.split, request.streaming, named(files))


def _load_tsv(request: Request) -> Any:
    files = request.files(".tsv", ".tsv.gz", ".tsv.bz2")
    order = request.order or look_at(files[0]).order
    if order is None:
        raise FormatError(
            f"{files[0]}, line 1: no address in the first lines, so the order of the columns cannot be told. "
            "Pass form='tsv-caption-url' or form='tsv-url-caption'"
        )
    return _load_lines(request, order, files)


def _load_caption_url(request: Request) -> Any:
    return _load_lines(request, "caption-url", request.files(".tsv", ".tsv.gz", ".tsv.bz2"))


def _load_url_caption(request: Request) -> Any:
    return _load_lines(request, "url-caption", request.files(".tsv", ".tsv.gz", ".tsv.bz2"))


def _load_declip(request: Request) -> Any:
    return _load_lines(request, "declip", request.files(".json", ".jsonl", ".jsonl.gz"))


def _load_openai_list(request: Request) -> Any:
    from hf_mllm_aug.loaders.yfcc_join import load_joined

    photos = request.files(".tsv", ".tsv.gz", ".tsv.bz2")
    if not request.metadata:
        raise UsageError(
            f"{photos[0]} lists photos and has no captions. Pass metadata=, the table of YFCC100M (yfcc100m_dataset) "
            "with their titles and descriptions"
        )
    if len(photos) > 1:
        raise UsageError(f"one list of photos is wanted, not {len(photos)}: {', '.join(photos)}")
    return load_joined(
        photos[0],
        lambda: _load_lines(request, "yfcc", request.metadata, photos[0]),
        named(request.metadata),
    )


def _load_archive(request: Request) -> Any:
    from hf_mllm_aug.loaders.yfcc_archive import Archive

    metadata = files_of_split(files_in(request.paths[0], ".jsonl.gz"), request.split, request.name)
    builder = Archive(
        metadata=stamped(metadata),
        zips=stamped(files_in(request.paths[0], ".zip")),
        split=request.split,
        on_error=request.on_error or "raise",
    )
    return open_builder(builder, request.split, request.streaming, request.name)


_LINES = frozenset({"on_error"})
_ROOTED = frozenset({"image_root"})
FORMS = {
    "hub": Form("a Hub repository that holds a table", _load_hub, frozenset({"config"})),
    "hub-shards": Form("a Hub repository of WebDataset tars", _load_hub_shards, _LINES),
    "table": Form("Parquet files with the columns of the Hub repository", _load_table, frozenset({"config"})),
    "saved": Form("a table saved with save_to_disk", _load_saved),
    "webdataset": Form("WebDataset tars, of pixparse or img2dataset", _load_shards, _LINES),
    "img2dataset-parquet": Form("img2dataset's Parquet files", _load_img2dataset_parquet, _LINES),
    "img2dataset-folder": Form("img2dataset's folders of pictures", _load_img2dataset_folder, _LINES),
    "tsv": Form("the published list, a TSV without a header", _load_tsv, _LINES),
    "tsv-caption-url": Form("a TSV of caption, url", _load_caption_url, _LINES),
    "tsv-url-caption": Form("a TSV of url, caption", _load_url_caption, _LINES),
    "pairs": Form("JSON of image and caption, as the paper's scripts write it", _load_pairs, _ROOTED),
    "declip": Form("DeCLIP's JSON lines of filename, caption, url", _load_declip, _LINES | _ROOTED),
    "openai-list": Form("OpenAI's list of photos, without captions", _load_openai_list, _LINES | {"metadata"}),
    "yfcc-archive": Form("the files of the Hub's YFCC subset, metadata and zips", _load_archive, _LINES),
}

_SLICED_BY_DATASETS = frozenset({"hub", "table"})
_REPOSITORIES = {"pixparse/cc3m-wds": "hub-shards", "pixparse/cc12m-wds": "hub-shards"}

_SHARED = ("hub", "table", "saved", "webdataset", "img2dataset-parquet", "img2dataset-folder", "pairs")
_CONCEPTUAL = (*_SHARED, "hub-shards", "tsv", "tsv-caption-url", "tsv-url-caption")

CC3M = DataSet(
    "CC3M",
    "google-research-datasets/conceptual_captions",
    _CONCEPTUAL,
    order="caption-url",
    config="unlabeled",
)
CC12M = DataSet("CC12M", "google-research-datasets/conceptual_12m", _CONCEPTUAL, order="url-caption")
YFCC15M = DataSet("YFCC15M", "dalle-mini/YFCC100M_OpenAI_subset", (*_SHARED, "declip", "openai-list", "yfcc-archive"))
ANY = DataSet("a list of pictures and captions", "", tuple(FORMS))
"""No data set in particular: a list's columns are in the order that its first lines show."""
REPOSITORIES = frozenset({CC3M.repository, CC12M.repository, YFCC15M.repository, *_REPOSITORIES})
"""The repositories whose layout is known."""
