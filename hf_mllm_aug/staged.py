"""A staged folder (the Hub repository to be, as `save_configs` writes it), read again by the commands that need one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.card_marks import parse_card
from hf_mllm_aug.card_merge import RECORD, as_list, listed, published_configs
from hf_mllm_aug.configs import README
from hf_mllm_aug.errors import FormatError, OutputExistsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import DatasetDict
    from huggingface_hub import DatasetCard

_AGAIN = "Stage the data set again, or mend the card."


@dataclass(frozen=True)
class Staged:
    """A staged folder.

    Args:
        folder: Where it lies.
        card: Its card.
        config_names: The configs that the card lists, in their order.
        record: What made the captions, as `Augment.describe` says it; empty where the card does not say.
    """

    folder: Path
    card: DatasetCard
    config_names: list[str]
    record: dict[str, Any] = field(default_factory=dict)

    def open(self, config: str = schema.ALL_CONFIG) -> DatasetDict:
        """Read a config: its splits, with pictures undecoded.

        Raises:
            FormatError: There is no such config.
        """
        from datasets import Image, load_dataset

        if config not in self.config_names:
            raise FormatError(f"{self.folder} has no config {config!r}; it has: {', '.join(self.config_names)}.")
        splits = load_dataset(str(self.folder), config)
        for column in picture_columns(next(iter(splits.values())).features):
            splits = splits.cast_column(column, Image(decode=False))
        return splits

    def split(self, config: str) -> str:
        """The name of a config's first split, as the card has it."""
        found = next(item for item in listed(self.card, "configs") if str(item.get("config_name", "default")) == config)
        files = found.get("data_files")
        return str(files[0]["split"]) if isinstance(files, list) and files and "split" in files[0] else "train"

    def captioners(self, columns: list[str]) -> list[Any]:
        """The captioners of caption columns: what the card says of each, else its config's name."""
        described = {schema.caption_column(item["name"]): item for item in self.record.get("captioners") or []}
        named = {schema.caption_column(name): name for name in self.config_names}
        return [described.get(column) or named[column] for column in columns if column in described or column in named]


def open_staged(folder: str | Path) -> Staged:
    """Open a staged folder.

    Raises:
        FormatError: It is none: there is no card that lists configs, or it lists files that lie elsewhere.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FormatError(f"no such folder: {path}. Stage a data set there with: hf-mllm-aug caption ... --out {path}")
    if not is_staged(path):
        raise FormatError(f"{path} is not a staged data set: no {README} that lists configs. Stage one with: caption.")
    card = read_card(path)
    names = published_configs(card)
    if not names or len(set(names)) < len(as_list(card.data.get("configs"))):
        raise FormatError(f"{path / README}: its `configs` should be a list, each with a config_name. {_AGAIN}")
    for item in listed(card, "configs"):
        for place in _places(item.get("data_files")):
            if "://" in place or ".." in Path(place).parts or Path(place).is_absolute():
                raise FormatError(f"{path / README}: {place!r} does not lie in the folder. {_AGAIN}")
    record = card.data.get(RECORD)
    return Staged(path, card, names, dict(record) if isinstance(record, dict) else {})


def read_card(folder: Path) -> DatasetCard:
    """Read the card of a staged folder.

    Raises:
        FormatError: It is no text with YAML before it.
    """
    try:
        return parse_card((folder / README).read_bytes(), str(folder / README))
    except FormatError as error:
        raise FormatError(f"{error} {_AGAIN}") from error


def _places(value: Any) -> list[str]:
    """The patterns of files in a config's ``data_files``, whichever of its forms they have."""
    if isinstance(value, dict):
        return _places(value["path"] if "path" in value else list(value.values()))
    items = as_list(value)
    texts = [str(item) for item in items if not isinstance(item, (dict, list))]
    return texts + [place for item in items if isinstance(item, (dict, list)) for place in _places(item)]


def is_staged(folder: str | Path) -> bool:
    """Whether a folder is a Hub data-set repository to be: its card lists configs."""
    readme = Path(folder) / README
    return readme.is_file() and any(
        line.startswith("configs:") for line in readme.read_text(encoding="utf-8", errors="replace").splitlines()
    )


def keep_record(card: DatasetCard, record: Mapping[str, Any]) -> None:
    """Put what made the captions into a card's YAML.

    Args:
        card: The card, changed in place.
        record: What `Augment.describe` says.
    """
    card.data[RECORD] = dict(record)


def check_free(folder: Path) -> None:
    """Refuse an output folder that could not be written in the end, before any work is done for it.

    Raises:
        UsageError: It has no name of its own, or no folder can be made there.
        OutputExistsError: It has something in it, or it is a file.
    """
    if folder.name in ("", ".."):
        raise UsageError(f"{str(folder)!r} is no name for a folder to make. Choose another --out.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UsageError(f"cannot make {folder}: {above} is a file. Choose another --out.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"cannot make {folder}: {above} is not writable. Choose another --out.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputExistsError(f"{folder} exists and is not empty. Choose another --out, or remove it first.")


def picture_columns(features: Mapping[str, Any]) -> list[str]:
    """The columns of pictures."""
    from datasets import Image

    return [name for name, feature in features.items() if isinstance(feature, Image)]
