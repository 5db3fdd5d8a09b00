"""The steps of captioning and publishing a whole data set: what the scripts in ``dataset_scripts/`` have in common.

read the rows -> fetch pictures that are addresses only -> caption -> stage configs and card; `commands.dataset_script`
puts them in order, and publishes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_mllm_aug import schema
from hf_mllm_aug.errors import OutputExistsError, PublishError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from hf_mllm_aug import Augment

logger = logging.getLogger(__name__)

_LOOKED_AT = 100  # rows, for whether there are pictures; a source has them or has not
_RUN, _RELEASE = "run", "release"


Load = Callable[..., Any]
"""`load_cc3m` and its like: a source, ``split=``, ``streaming=`` and options of its own -> rows."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows of a source are wanted.

    Args:
        split: The split, or a slice of it such as ``"train[:1%]"``.
        max_samples: The most rows; None for all.
        shuffle: Whether rows are put in a random order before they are taken.
        seed: Of the order.
        streaming: Whether rows are read as they are captioned, and nothing is copied into datasets' cache.

    Raises:
        UsageError: A stream is to be shuffled, which would need all of it.
    """

    split: str = "train"
    max_samples: int | None = None
    shuffle: bool = False
    seed: int = 42
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.shuffle and self.streaming:
            raise UsageError("a stream cannot be shuffled, for that takes all rows: leave out shuffling or streaming")


def read_rows(load: Load, source: str, selection: Selection, options: Mapping[str, Any]) -> Dataset | IterableDataset:
    """Open the rows that are wanted, with keys that name one row each.

    Where two rows have the same key, or one has none, keys are made of address (or picture) and raw caption. Of a
    stream that is done at its end, see `with_unique_keys`.

    Args:
        load: What opens the source.
        source: What is opened.
        selection: Which rows.
        options: For ``load``, by name.

    Raises:
        UsageError: There are no rows.
    """
    from datasets import Dataset

    from hf_mllm_aug.loaders.prepared import gathered, split_name

    wanted = selection.max_samples
    streaming = selection.streaming or (wanted is not None and not selection.shuffle and "[" not in selection.split)
    rows: Dataset | IterableDataset = load(source, split=selection.split, streaming=streaming, **options)
    if isinstance(rows, Dataset):
        if selection.shuffle:
            rows = rows.shuffle(seed=selection.seed)
        if wanted is not None:
            rows = rows.select(range(min(wanted, len(rows))))
    elif wanted is not None:
        # A stream and not the whole list: the cache would first get a copy of all of it. It gets these rows, since the
        # first rows of a stream, taken shard by shard, would be other ones.
        rows = gathered(rows, wanted, split_name(selection.split))
    if not isinstance(rows, Dataset):
        return rows
    if not len(rows):
        raise UsageError(f"{source} has no rows: there is nothing to caption.")
    return with_unique_keys(rows)


def with_unique_keys(rows: Dataset) -> Dataset:
    """The rows with keys that name one row each: their own, or, where those do not, keys that `make_keys` makes.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"key": ["a", "a"], "url": ["http://a.b/c"] * 2, "caption": ["a cat", "a pet"]})
    >>> len(set(with_unique_keys(rows)["key"]))
    2
    """
    from datasets import Value

    from hf_mllm_aug.keys import make_keys
    from hf_mllm_aug.loaders.keys import repeated_keys

    missing = sum(batch.column(schema.KEY).null_count for batch in _tables(rows, schema.KEY))
    repeated = len(repeated_keys(rows)) - max(0, missing - 1)  # rows without a key seem to share one
    if not missing and not repeated:
        return rows
    logger.warning(
        "%s of %s rows have no key or that of another row; keys are made of address and caption",
        f"{missing + repeated:,}", f"{len(rows):,}",
    )  # fmt: skip
    made: Dataset = rows.remove_columns(schema.KEY).add_column(schema.KEY, make_keys(rows), feature=Value("string"))
    return made.select_columns(rows.column_names)


def _tables(rows: Dataset, column: str) -> Any:
    return rows.select_columns([column]).with_format("arrow").iter(100_000)


def lacks_pictures(rows: Dataset | IterableDataset) -> bool:
    """Whether rows have addresses in place of pictures, by the first of them.

    Raises:
        UsageError: They have neither.
    """
    first = list(rows.take(_LOOKED_AT))
    if any(row.get(schema.IMAGE) is not None for row in first):
        return False
    if any(row.get(schema.URL) for row in first):
        return True
    raise UsageError("the rows have neither pictures nor addresses of pictures: there is nothing to caption.")


@dataclass(frozen=True)
class WorkFolder:
    """Where the work is kept: the run, which can be gone on with, and the staged release.

    Args:
        location: A folder, or an fsspec URL. The release is staged on this machine in any case.
    """

    location: str

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL."""
        return "://" in self.location

    @property
    def run(self) -> str:
        """The folder of the run."""
        return f"{self.location.rstrip('/')}/{_RUN}"

    def release(self, repo_id: str) -> Path:
        """The folder to stage a release in."""
        return (Path(default_work_folder(repo_id)) if self.is_remote else Path(self.location)) / _RELEASE

    def check(self, repo_id: str, *, resume: bool) -> None:
        """Refuse work that is there already, unless it is to be gone on with; and another's folder in its place.

        Args:
            repo_id: The repository that is to be published to.
            resume: Whether work that is there is gone on with.

        Raises:
            OutputExistsError: There is some, or a release would replace a folder that is none.
        """
        from hf_mllm_aug.staged import is_staged

        if not resume and self._has_something():
            raise OutputExistsError(
                f"{self.location} has work in it already: pass --resume to go on with it, or another --work-dir."
            )
        release = self.release(repo_id)
        if release.exists() and not is_staged(release) and not (release.is_dir() and not any(release.iterdir())):
            raise OutputExistsError(
                f"{release} exists and is no staged release, which would replace it: choose another --work-dir."
            )

    def _has_something(self) -> bool:
        if not self.is_remote:
            path = Path(self.location)
            return path.is_file() or (path.is_dir() and any(path.iterdir()))
        from fsspec.core import url_to_fs

        files, path = url_to_fs(self.location)
        return bool(files.exists(path) and files.ls(path, detail=False))


def default_work_folder(repo_id: str) -> str:
    """Where the work for a repository is kept unless another folder is named.

    >>> default_work_folder("me/cc3m-captioned")
    'cc3m-captioned.work'
    """
    return f"{repo_id.rpartition('/')[2]}.work"


def check_repository(repo_id: str, *, publishes: bool) -> None:
    """Refuse a repository that could not be published to, before any work is done for it.

    Raises:
        PublishError: Its name is none, or there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} cannot name a repository: use OWNER/NAME. Nothing was done.") from error
    if publishes and get_token() is None:
        raise PublishError(
            "there is no token to publish with: log in with `hf auth login`, or give a job `-s HF_TOKEN`. "
            "--dry-run needs none. Nothing was done."
        )


def stage(
    rows: Dataset,
    augment: Augment,
    folder: Path,
    *,
    template: str,
    images: Literal["embed", "none"] = "none",
    source: str | None = None,
    command: Sequence[str] = (),
    plan: str | None = None,
) -> dict[str, Dataset]:
    """Stage captioned rows as the repository to be, in place of what was staged there before.

    Args:
        rows: What `run` returned.
        augment: What made the captions.
        folder: Where to.
        template: Of the card.
        images: Whether the pictures travel in `all`.
        source: The Hub id that the rows were read from, if they were.
        command: The words of the command that does it again.
        plan: What the run was, in a line, see `Plan.summary`.

    Returns:
        The configs.
    """
    from hf_mllm_aug import build_card, save_configs, to_configs
    from hf_mllm_aug.configs import split_name
    from hf_mllm_aug.staged import keep_record

    captioners = list(augment.members)
    configs: dict[str, Dataset] = to_configs(with_unique_keys(rows), captioners=captioners, images=images)
    card = build_card(
        configs,
        captioners=captioners,
        shear=augment.shear,
        template=template,
        source=source,
        command=command,
        plan=plan,
    )
    keep_record(card, augment.describe())
    save_configs(configs, folder, card=card, split=split_name(rows.split), overwrite=True)
    return configs


def this_command(words: Sequence[str] | None = None) -> list[str]:
    """The words of the ``hf-mllm-aug`` command that runs, without what is of this machine alone: paths become names.

    Args:
        words: Those behind the program's name; None for this process's own.

    >>> this_command(["caption", "/", "--captioner=tiny-llava", "--out", "captions"])
    ['hf-mllm-aug', 'caption', '/', '--captioner=tiny-llava', '--out', 'captions']
    """
    clean = []
    for word in sys.argv[1:] if words is None else words:
        head, equals, path = word.rpartition("=")  # --out=DIR, NAME=CHECKPOINT
        clean.append(f"{head}{equals}{Path(path).name or path}" if os.path.exists(path) else word)
    return ["hf-mllm-aug", *clean]


def public_name(source: str) -> str:
    """A source as others may read of it: of a path its last name, of an address or Hub id all.

    >>> public_name("./lists/cc12m.tsv"), public_name("pixparse/cc3m-wds"), public_name("hf://datasets/a/b/*.tar")
    ('cc12m.tsv', 'pixparse/cc3m-wds', 'hf://datasets/a/b/*.tar')
    """
    from hf_mllm_aug.loaders.recognise import is_hub_id

    return source if "://" in source or is_hub_id(source) else Path(source).name or source
