"""YFCC15M: the 15 million photos of YFCC100M with English titles or descriptions, of OpenAI and of DeCLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from hf_mllm_aug.loaders.faults import OnError
from hf_mllm_aug.loaders.forms import YFCC15M, PathLike, Source, open_form

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@overload
def load_yfcc15m(
    source: Source | None = ...,
    *,
    split: str = ...,
    streaming: Literal[False] = ...,
    form: str | None = ...,
    metadata: Source | None = ...,
    image_root: PathLike | None = ...,
    on_error: OnError | None = ...,
) -> Dataset: ...
@overload
def load_yfcc15m(
    source: Source | None = ...,
    *,
    split: str = ...,
    streaming: Literal[True],
    form: str | None = ...,
    metadata: Source | None = ...,
    image_root: PathLike | None = ...,
    on_error: OnError | None = ...,
) -> IterableDataset: ...
@overload
def load_yfcc15m(
    source: Source | None = ...,
    *,
    split: str = ...,
    streaming: bool,
    form: str | None = ...,
    metadata: Source | None = ...,
    image_root: PathLike | None = ...,
    on_error: OnError | None = ...,
) -> Dataset | IterableDataset: ...
def load_yfcc15m(
    source: Source | None = None,
    *,
    split: str = "train",
    streaming: bool = False,
    form: str | None = None,
    metadata: Source | None = None,
    image_root: PathLike | None = None,
    on_error: OnError | None = None,
) -> Dataset | IterableDataset:
    """Load YFCC15M, in any of its forms.

    Recognised are the Hub repository ``dalle-mini/YFCC100M_OpenAI_subset`` or a copy of it, OpenAI's list of photos
    (``yfcc100m_subset_data.tsv``), which needs ``metadata``, DeCLIP's list (``yfcc15m_clean_open_data.json``, JSON
    lines of filename, caption, url; another subset than OpenAI's), what img2dataset writes (tars, Parquet, folders),
    and the paper's JSON of image and caption.

    Args:
        source: A file, several, a glob pattern, a folder, a Hub repository; None for
            ``dalle-mini/YFCC100M_OpenAI_subset``.
        split: The split, or (not for a stream) a slice such as ``"train[:1%]"``. Of a folder or a repository the files
            of that split are read; files that are named are read whole.
        streaming: Return an `IterableDataset`, nothing read yet, instead of a `Dataset` in datasets' cache. A large
            list of lines is cut into up to 256 shards; a compressed one, like a JSON list, is one. Repeated keys are
            then not looked for. ``.iter(batch_size=1000)`` is several times as fast as going row by row.
        form: What the source is, where that is not recognised or is to be overridden: ``"hub"``, ``"table"``,
            ``"saved"``, ``"webdataset"``, ``"img2dataset-parquet"``, ``"img2dataset-folder"``, ``"pairs"``,
            ``"declip"``, ``"openai-list"``, ``"yfcc-archive"``.
        metadata: The captions for OpenAI's list: YFCC100M's own table (``yfcc100m_dataset``, of 25 or 23 columns
            without a header), or a TSV with a header or JSON lines that name ``photoid``, ``title`` and
            ``description`` (or ``title_clean`` and ``description_clean``, or ``caption``), and ``downloadurl``;
            compressed or not. Rows come in its order; photos that are not in it are logged.
        image_root: The folder that the picture paths of a JSON list start from.
        on_error: ``"raise"``: a row that cannot be read is an error. ``"skip"``: it is left out and counted. None: the
            first for lists, the second for tars and what img2dataset writes.

    Returns:
        Rows of key, image (undecoded; null in a list of addresses, see `FetchImages`), url, caption. The key is the
        photo's identifier (``photoid``); in DeCLIP's list the file's name, in a JSON list the path, of what
        img2dataset writes it is derived from the address (`url_key`), and in other tars is the samples' name. Captions
        are byte for byte those of the source. Where title and description are apart, the caption is both with a space
        between them, whichever there are, in the published cleaned form (``title_clean``, ``description_clean``: URL
        encoding undone, HTML tags removed, white space made one space). Rows that repeat a key are kept; their number
        and the first of them are logged, and so is whatever was put right or left out.

    Raises:
        FormatError: The source breaks its format; file and line or record are named.
        UsageError: The source is not there, is of no form that YFCC15M has, or an option means nothing for its form.

    Source: Thomee et al., "YFCC100M", arXiv 1503.01817; Radford et al., arXiv 2103.00020; Li et al., arXiv 2110.05208.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     json.dump({"filename": "0/1.jpg", "caption": "Rex", "url": "http://a.b/c.jpg"}, file)
    ...     file.flush()
    ...     load_yfcc15m(file.name, streaming=True).remove_columns("image").take(1).to_list()
    [{'key': '0/1.jpg', 'url': 'http://a.b/c.jpg', 'caption': 'Rex'}]
    """
    return open_form(
        YFCC15M,
        source,
        split=split,
        streaming=streaming,
        form=form,
        metadata=metadata,
        image_root=image_root,
        on_error=on_error,
    )
