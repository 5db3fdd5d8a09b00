"""CC3M (Conceptual Captions): 3.3 million captions and addresses of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from hf_mllm_aug.loaders.faults import OnError
from hf_mllm_aug.loaders.forms import CC3M, PathLike, Source, open_form

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@overload
def load_cc3m(
    source: Source | None = ...,
    *,
    split: str = ...,
    streaming: Literal[False] = ...,
    form: str | None = ...,
    config: str | None = ...,
    image_root: PathLike | None = ...,
    on_error: OnError | None = ...,
) -> Dataset: ...
@overload
def load_cc3m(
    source: Source | None = ...,
    *,
    split: str = ...,
    streaming: Literal[True],
    form: str | None = ...,
    config: str | None = ...,
    image_root: PathLike | None = ...,
    on_error: OnError | None = ...,
) -> IterableDataset: ...
@overload
def load_cc3m(
    source: Source | None = ...,
    *,
    split: str = ...,
    streaming: bool,
    form: str | None = ...,
    config: str | None = ...,
    image_root: PathLike | None = ...,
    on_error: OnError | None = ...,
) -> Dataset | IterableDataset: ...
def load_cc3m(
    source: Source | None = None,
    *,
    split: str = "train",
    streaming: bool = False,
    form: str | None = None,
    config: str | None = None,
    image_root: PathLike | None = None,
    on_error: OnError | None = None,
) -> Dataset | IterableDataset:
    r"""Load CC3M (Conceptual Captions), in any of its forms.

    Recognised are the Hub repositories ``google-research-datasets/conceptual_captions`` and ``pixparse/cc3m-wds``, a
    local copy of either, the published list (``Train_GCC-training.tsv``: caption, tab, url; also compressed by gzip or
    bzip2), what img2dataset makes of it (tars, Parquet, folders), and the paper's JSON of image and caption.

    Args:
        source: A file, several, a glob pattern, a folder, a Hub repository; None for
            ``google-research-datasets/conceptual_captions``.
        split: The split, or (not for a stream) a slice such as ``"train[:1%]"``. Of a folder or a repository the files
            of that split are read; files that are named are read whole.
        streaming: Return an `IterableDataset`, nothing read yet, instead of a `Dataset` in datasets' cache. A large
            list of lines is cut into up to 256 shards; a compressed one, like a JSON list, is one. Repeated keys are
            then not looked for. ``.iter(batch_size=1000)`` is several times as fast as going row by row.
        form: What the source is, where that is not recognised or is to be overridden: ``"hub"``, ``"hub-shards"``,
            ``"table"``, ``"saved"``, ``"webdataset"``, ``"img2dataset-parquet"``, ``"img2dataset-folder"``, ``"tsv"``,
            ``"tsv-caption-url"``, ``"tsv-url-caption"``, ``"pairs"``.
        config: The repository's config: ``"unlabeled"`` (the default, 3,318,333 rows) or ``"labeled"`` (2,007,090).
        image_root: The folder that the picture paths of a JSON list start from.
        on_error: ``"raise"``: a row that cannot be read is an error. ``"skip"``: it is left out and counted. None: the
            first for lists, the second for tars and what img2dataset writes.

    Returns:
        Rows of key, image (undecoded; null in a list of addresses, see `FetchImages`), url, caption. The key is derived
        from the address (`url_key`); where there is none it is the samples' name in tars and the path in a JSON list.
        Captions are byte for byte those of the source. Rows that repeat a key are kept; their number and the first of
        them are logged, and so is whatever was put right or left out.

    Raises:
        FormatError: The source breaks its format; file and line or record are named.
        UsageError: The source is not there, is of no form that CC3M has, or an option means nothing for its form.

    Source: Sharma et al., "Conceptual Captions", ACL 2018.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
    ...     _ = file.write("a red bus\thttp://a.b/c.jpg\n")
    ...     file.flush()
    ...     load_cc3m(file.name, streaming=True).remove_columns("image").take(1).to_list()
    [{'key': '29e75dad6853252578fa907a', 'url': 'http://a.b/c.jpg', 'caption': 'a red bus'}]
    """
    return open_form(
        CC3M,
        source,
        split=split,
        streaming=streaming,
        form=form,
        config=config,
        image_root=image_root,
        on_error=on_error,
    )
