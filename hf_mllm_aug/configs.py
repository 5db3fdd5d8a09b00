"""An augmented data set -> the configs of a multi-config Hub data set, and the folder that is its repository to be.

A folder rather than direct uploads: it can be looked at, loaded, compared and published again before anything is
public, and it leaves in one commit.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from hf_mllm_aug import schema
from hf_mllm_aug.captioners.presets import PRESETS
from hf_mllm_aug.card_marks import README as README
from hf_mllm_aug.errors import ColumnError, UsageError
from hf_mllm_aug.keys import check_keys, make_keys
from hf_mllm_aug.parquet_shards import WrittenSplit, holds_pictures
from hf_mllm_aug.picture_files import PictureRoot
from hf_mllm_aug.safe_text import scrub, scrub_values
from hf_mllm_aug.staging import FIGURES, check_replaceable, put_in_place, shard_bytes, write_configs, write_figures

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import DatasetCard

_CONFIG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")


def captioner_name(captioner: object) -> str:
    """The name of a captioner, and so of its config: what a person calls it, without a local folder's path.

    Args:
        captioner: A name, a description (`dict`) or an object with ``label``, ``name`` or ``model``.

    >>> captioner_name("llava-1.5"), captioner_name({"model": "Salesforce/blip2"}), captioner_name("/home/ann/my-llava")
    ('llava-1.5', 'Salesforce/blip2', 'my-llava')
    """
    if isinstance(captioner, str):
        name = captioner
    elif isinstance(captioner, Mapping):
        name = str(captioner.get("name") or captioner.get("model") or "")
    else:
        names = (getattr(captioner, attribute, None) for attribute in ("label", "name", "model"))
        name = str(next(filter(None, names), ""))
    if not name:
        raise UsageError(
            f"a captioner without a name: {type(captioner).__name__}. Pass its name, or an object with one."
        )
    is_path = name.count("/") > 1 or name.startswith(("/", ".", "~")) or "\\" in name
    return PurePath(name.replace("\\", "/")).name if is_path else name


def config_name(name: str) -> str:
    """The config's name for a captioner's name: the same, but for the slash of a Hub id, which no folder can bear.

    >>> config_name("llava-1.5"), config_name("Salesforce/blip2-opt-2.7b")
    ('llava-1.5', 'Salesforce--blip2-opt-2.7b')
    """
    return name.replace("/", "--")


def split_name(split: object) -> str:
    """A split's name for files: its own, or ``train`` where rows were picked from one or more (``train[:10]``).

    >>> split_name("validation"), split_name("train[:10]"), split_name("train+test"), split_name(None)
    ('validation', 'train', 'train', 'train')
    """
    name = str(split or "")
    return name if _SPLIT_NAME.fullmatch(name) else "train"


def to_configs(
    dataset: Dataset | DatasetDict,
    *,
    captioners: object | Sequence[object] | None = None,
    images: Literal["none", "embed"] = "none",
    key_column: str = schema.KEY,
    image_column: str = schema.IMAGE,
    url_column: str = schema.URL,
    caption_column: str = schema.CAPTION,
) -> dict[str, Any]:
    """Split an augmented data set into the configs under which it is published.

    `all` has every column, `raw` has key, url and the raw caption, and each captioner has a config under its own name
    with key, url and its (sheared) caption. Rows keep their order and number in each, so that configs join by position
    as well as by key; where captioning failed the caption is null. Columns of the schema that are missing are made:

    - `key` is a digest of the row's url, or else of its picture, together with the raw caption; see `make_keys`.
    - `url` and `caption` are null.

    Absolute local paths and secrets in the reasons of failures are taken out.

    Args:
        dataset: What `Augment` or `run` returned; a `DatasetDict` gives a `DatasetDict` for each config.
        captioners: Names, or `Captioner` objects, that name the configs of the ``caption_*`` columns; one or several.
            A column that none of them names gives a config under the name of the registered captioner whose column it
            is (``caption_llava_1_5``: ``llava-1.5``), else under its ending (``caption_my_vlm``: ``my_vlm``).
        images: ``"embed"`` lets the pictures travel in `all`; ``"none"`` leaves out every column of pictures.
        key_column: The column that becomes `key`.
        image_column: The column that becomes `image`.
        url_column: The column that becomes `url`.
        caption_column: The column with the raw captions, which becomes `caption`.

    Returns:
        A `Dataset` for each config: `all`, `raw`, then the captioners in the order of their columns.

    Raises:
        ColumnError: A captioner that was named has no column, or there is no picture to embed.
        FormatError: Keys are missing or occur twice.
        UsageError: Two captioners share a config, or a name cannot be a config's.

    >>> from datasets import Dataset
    >>> rows = {"key": ["a", "b"], "caption": ["cat", "dog"], "caption_llava_1_5": ["a cat", None]}
    >>> configs = to_configs(Dataset.from_dict(rows))
    >>> list(configs), configs["llava-1.5"][0]
    (['all', 'raw', 'llava-1.5'], {'key': 'a', 'url': None, 'caption': 'a cat'})
    """
    from datasets import Dataset, DatasetDict, Image

    options: dict[str, Any] = {"captioners": captioners, "images": images}
    options |= {"key_column": key_column, "image_column": image_column}
    options |= {"url_column": url_column, "caption_column": caption_column}
    if isinstance(dataset, DatasetDict):
        splits = {split: to_configs(rows, **options) for split, rows in dataset.items()}
        names = dict.fromkeys(name for configs in splits.values() for name in configs)
        return {name: DatasetDict({s: configs[name] for s, configs in splits.items()}) for name in names}
    if not isinstance(dataset, Dataset):
        raise UsageError(f"to_configs needs a Dataset or a DatasetDict, not {type(dataset).__name__}.")
    if images not in ("none", "embed"):
        raise UsageError(f"images={images!r}: choose 'none' or 'embed'.")

    renamed = {
        key_column: schema.KEY,
        image_column: schema.IMAGE,
        url_column: schema.URL,
        caption_column: schema.CAPTION,
    }
    dataset = _rename(dataset, {old: new for old, new in renamed.items() if old != new})
    dataset = _as_text(_with_base_columns(_as_pictures(dataset)))
    columns = _captioner_columns(dataset, captioners)
    if images == "embed" and schema.IMAGE not in dataset.column_names:
        raise ColumnError(schema.IMAGE, dataset.column_names, "pass image_column=, or images='none'")
    keep = Image if images == "embed" else ()  # pictures deep inside a column are not embedded, and so never kept
    pictures = [n for n, f in dataset.features.items() if holds_pictures(f) and not isinstance(f, keep)]
    dataset = dataset.remove_columns(pictures)
    check_keys(dataset)

    dataset = _scrub_errors(dataset)
    base = [schema.KEY, schema.IMAGE, schema.URL, schema.CAPTION]
    first = [name for name in base if name in dataset.column_names]
    configs = {
        schema.ALL_CONFIG: dataset.select_columns([*first, *(n for n in dataset.column_names if n not in first)])
    }
    configs[schema.RAW_CONFIG] = dataset.select_columns([schema.KEY, schema.URL, schema.CAPTION])
    for name, column in columns.items():
        part = dataset.select_columns([schema.KEY, schema.URL, column])
        configs[name] = part.rename_column(column, schema.CAPTION)
    return configs


def save_configs(
    configs: Mapping[str, Dataset | DatasetDict],
    folder: str | Path,
    *,
    card: DatasetCard | str | None = None,
    split: str = "train",
    max_shard_size: int | str = "500MB",
    overwrite: bool = False,
    picture_root: PictureRoot | None = None,
    num_proc: int | None = None,
) -> Path:
    """Write the folder that is the Hub repository to be: Parquet shards of every config, and the card.

    The folder loads as it is: ``load_dataset(folder, "raw")``. It appears under its name when it is complete; a failure
    leaves nothing of it. Pictures in the rows are embedded, see `write_split`.

    Args:
        configs: A `Dataset` for each config, or a `DatasetDict` with its splits; see `to_configs`.
        folder: The folder to make. It may exist if it is empty.
        card: The card, or its text; its ``configs`` and ``dataset_info`` are set here, and its ``files`` (figures, see
            `build_card`) are written beside it. None builds one: `build_card`.
        split: The name of a `Dataset`'s only split.
        max_shard_size: Where a Parquet file ends, in bytes or as ``"500MB"``.
        overwrite: Whether a staged folder that is there is replaced; another that is not empty never is.
        picture_root: Folders, or addresses such as ``hf://datasets/OWNER/NAME``, whose files may be embedded. Without
            it, pictures that are no bytes but paths are embedded only if the rows were built in this process or found
            in a folder (`load_picture_folder`, imagefolder); rows from elsewhere could name any file of this machine.
            What may not be opened is published as null, counted and logged. See `picture_files`.
        num_proc: How many configs are encoded at once, in threads: the work is done by Arrow, outside of Python's
            lock. None takes one for each processor, four at most; each needs some 300 MB with pictures.

    Returns:
        The folder.

    Raises:
        OutputExistsError: The folder is not empty.
        UsageError: A config or split has no rows or a name that cannot be loaded, there are no configs, or the folder
            has no name of its own.

    >>> import tempfile
    >>> from datasets import Dataset, load_dataset
    >>> configs = to_configs(Dataset.from_dict({"key": ["a"], "caption": ["cat"], "caption_otter": ["a cat"]}))
    >>> with tempfile.TemporaryDirectory() as home:
    ...     folder = save_configs(configs, home + "/release")
    ...     sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*"))[:2]
    ['README.md', 'all/train-00000-of-00001.parquet']
    """
    from datasets import DatasetDict
    from huggingface_hub import DatasetCard

    folder = Path(folder)
    max_bytes = shard_bytes(max_shard_size)
    named = {c: dict(rows) if isinstance(rows, DatasetDict) else {split: rows} for c, rows in configs.items()}
    check_config_names(named)
    if bad := [s for splits in named.values() for s in splits if not _SPLIT_NAME.fullmatch(s)]:
        raise UsageError(f"{bad[0]!r} cannot name a split: use letters, digits, '_' and '.'.")
    if bare := [f"{name}/{s}" for name, splits in named.items() for s, rows in splits.items() if len(rows) == 0]:
        raise UsageError(f"{bare[0]} has no rows: datasets cannot load an empty split.")
    check_replaceable(folder, overwrite)

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        written = write_configs(named, staging, max_bytes, picture_root, num_proc)
        if card is None:
            # The one step to the right in the order of modules: a folder without its card is no repository.
            from hf_mllm_aug.card import build_card

            card = build_card(named, picture_root=picture_root)
        files = dict(getattr(card, "files", {}))
        card = DatasetCard(str(card), ignore_metadata_errors=True)
        for field, value in config_metadata(written).items():
            card.data[field] = value
        _scrub_card(card)
        write_figures(files, staging)
        (staging / README).write_text(str(card), encoding="utf-8", newline="")
        put_in_place(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def check_config_names(names: Iterable[str]) -> None:
    """Refuse configs that would make a repository that cannot be loaded.

    Raises:
        UsageError: There is none, one is called ``data`` or ``figures``, or a name is no folder's.
    """
    names = list(names)
    if not names:
        raise UsageError("there are no configs to write.")
    for name in names:
        if name == "data":
            raise UsageError("a config cannot be called 'data': datasets refuses it. Give the captioner another name.")
        if name.lower() == FIGURES:
            raise UsageError(f"a config cannot be called {name!r}: the card's files are there. Give it another name.")
        if not _CONFIG_NAME.fullmatch(name) or ".." in name:
            raise UsageError(f"{name!r} cannot name a config: use letters, digits, '.', '_', '+' and '-'.")
    folded = Counter(name.lower() for name in names)
    if twice := [name for name in names if folded[name.lower()] > 1]:
        raise UsageError(f"configs need names that differ by more than case: {', '.join(twice)}.")
    if schema.ALL_CONFIG in names and "default" in names:
        raise UsageError("a config cannot be called 'default' beside 'all': the data set would have two defaults.")


def default_config(names: Iterable[str]) -> str:
    """The config that loads when none is named: `all`, else ``default``, else the first.

    >>> default_config(["raw", "all"]), default_config(["otter", "raw"])
    ('all', 'otter')
    """
    names = list(names)
    return next((name for name in (schema.ALL_CONFIG, "default") if name in names), names[0])


def config_metadata(written: Mapping[str, Mapping[str, WrittenSplit]]) -> dict[str, list[dict[str, Any]]]:
    """The ``configs`` and ``dataset_info`` of a card, in the order of the configs, one of them the default."""
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    default = default_config(written)
    configs, infos = [], []
    for name, splits in written.items():
        files = [{"split": split, "path": f"{name}/{split}-*"} for split in splits]
        # The name `default` is one by itself, and a flag beside it makes two.
        flag = {"default": True} if name == default != "default" else {}
        configs.append({"config_name": name, "data_files": files, **flag})
        sizes = SplitDict(dataset_name=None)
        for split, done in splits.items():
            sizes.add(SplitInfo(name=split, num_bytes=done.num_bytes, num_examples=done.num_examples))
        info = DatasetInfo(
            config_name=name,
            features=next(iter(splits.values())).features,
            splits=sizes,
            download_size=sum(done.file_bytes for done in splits.values()),
            dataset_size=sum(done.num_bytes for done in splits.values()),
        )
        data = DatasetCardData()
        DatasetInfosDict({name: info}).to_dataset_card_data(data)
        infos.append({"config_name": name, **data["dataset_info"]})
    return {"configs": configs, "dataset_info": infos}


def _scrub_card(card: DatasetCard) -> None:
    """Take secrets and local paths out of a card, whoever wrote it. By values, for a replaced text is other YAML."""
    for field, value in vars(card.data).items():
        card.data[field] = scrub_values(value)
    card.text = scrub(card.text)


def _rename(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    for old, new in names.items():
        if old not in dataset.column_names:
            raise ColumnError(old, dataset.column_names, f"pass the column that becomes {new!r}")
        if new in dataset.column_names:
            dataset = dataset.remove_columns(new)
        dataset = dataset.rename_column(old, new)
    return dataset


def _as_pictures(dataset: Dataset) -> Dataset:
    """Cast pictures that came as paths or as bare bytes to undecoded pictures."""
    from datasets import Image, Value

    feature = dataset.features.get(schema.IMAGE)
    if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string", "binary", "large_binary"):
        return dataset
    if feature.dtype.startswith("large_"):
        dataset = dataset.cast_column(schema.IMAGE, Value(feature.dtype.removeprefix("large_")))
    return dataset.cast_column(schema.IMAGE, Image(decode=False))


def _with_base_columns(dataset: Dataset) -> Dataset:
    from datasets import Value

    for column in (schema.URL, schema.CAPTION):
        if column not in dataset.column_names:
            dataset = dataset.add_column(column, [None] * len(dataset), feature=Value("string"))
    if schema.KEY not in dataset.column_names:
        dataset = dataset.add_column(schema.KEY, make_keys(dataset), feature=Value("string"))
    return dataset


def _as_text(dataset: Dataset) -> Dataset:
    """Cast the schema's text columns to strings: integer keys, and columns that are null throughout."""
    from datasets import Value

    base = (schema.KEY, schema.URL, schema.CAPTION)
    prefixes = (schema.CAPTION_PREFIX, schema.ERROR_PREFIX, schema.GENERATED_PREFIX)
    for name, feature in dataset.features.items():
        dtype = getattr(feature, "dtype", None)
        if (name in base and dtype != "string") or (name.startswith(prefixes) and dtype in ("null", "large_string")):
            dataset = dataset.cast_column(name, Value("string"))
    return dataset


def _captioner_columns(dataset: Dataset, captioners: object) -> dict[str, str]:
    """The config of each captioner's column, in the order of the columns."""
    if captioners is None:
        given: list[object] = []
    elif isinstance(captioners, (list, tuple)):
        given = list(captioners)
    else:
        given = [captioners]
    names: dict[str, str] = {}
    for captioner in given:
        name = captioner_name(captioner)
        own = None if isinstance(captioner, str) else getattr(captioner, "caption_column", None)
        column = str(own or schema.caption_column(name))
        if column not in dataset.column_names:
            raise ColumnError(column, dataset.column_names, f"caption with {name!r} first, or leave it out")
        if column in names:
            raise UsageError(f"captioners {names[column]!r} and {name!r} share the column {column!r}.")
        names[column] = name
    texts = [name for name, feature in dataset.features.items() if getattr(feature, "dtype", None) == "string"]
    columns = [name for name in texts if name in names or name in schema.caption_columns(texts)]
    registered = {schema.caption_column(name): name for name in PRESETS}
    found: dict[str, str] = {}
    for column in columns:
        named = names.get(column) or registered.get(column) or column.removeprefix(schema.CAPTION_PREFIX)
        config = config_name(named)
        if config in found:
            raise UsageError(
                f"the columns {found[config]!r} and {column!r} would both become the config {config!r}: rename one "
                "of them, or give its captioner another name."
            )
        found[config] = column
    if reserved := [name for name in found if name in (schema.ALL_CONFIG, schema.RAW_CONFIG)]:
        raise UsageError(f"a captioner cannot be called {reserved[0]!r}: that config is there already.")
    check_config_names([schema.ALL_CONFIG, schema.RAW_CONFIG, *found])
    return found


def _scrub_errors(dataset: Dataset) -> Dataset:
    """Take local paths and secrets out of the reasons of failures, which are published too."""
    from datasets import Value

    for column in [name for name in dataset.column_names if name.startswith(schema.ERROR_PREFIX)]:
        texts: list[str | None] = []
        for batch in dataset.select_columns([column]).with_format("arrow").iter(100_000):
            texts += batch.column(column).to_pylist()
        clean = [text and scrub(str(text)) for text in texts]
        if clean != texts:
            order = dataset.column_names
            dataset = dataset.remove_columns(column).add_column(column, clean, feature=Value("string"))
            dataset = dataset.select_columns(order)
    return dataset
