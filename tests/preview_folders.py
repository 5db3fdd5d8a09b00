"""Small staged folders for the preview's tests, with captions that tell their row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

from hf_mllm_aug import save_configs, to_configs
from tests.conftest import picture_bytes

NAMES = ("tiny-llava", "otter")
PLOT = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 80 40"><style>rect{fill:#26c}@media (prefers-color-scheme: '
    'dark){rect{fill:#fc6}}</style><rect width="60" height="30"/></svg>'
)


def columns(n: int, *, failing: int = 7, names: Sequence[str] = NAMES) -> dict[str, list[Any]]:
    """Rows whose captions name them; each captioner but the first fails at every `failing`-th row."""
    data: dict[str, list[Any]] = {
        "key": [f"k{i}" for i in range(n)],
        "url": [f"https://example.org/{i}.jpg" for i in range(n)],
        "caption": [f"raw words of row {i}" for i in range(n)],
    }
    for number, name in enumerate(names):
        ending = name.replace("-", "_")
        lost = [bool(number) and i % failing == failing - 1 for i in range(n)]
        data[f"caption_{ending}"] = [None if gone else f"{name} sees row {i}" for i, gone in enumerate(lost)]
        data[f"error_{ending}"] = ["the file is empty" if gone else None for gone in lost]
        data[f"generated_{ending}"] = [
            None if gone else f"{name} sees row {i}. The tail of row {i}" for i, gone in enumerate(lost)
        ]
    return data


def dataset(data: dict[str, list[Any]], pictures: bool = False) -> Dataset:
    if not pictures:
        return Dataset.from_dict(data)
    n = len(data["key"])
    data = {**data, "image": [{"bytes": picture_bytes(i % 20), "path": None} for i in range(n)]}
    features = {name: Value("string") for name in data if name != "image"}
    return Dataset.from_dict(data, features=Features({**features, "image": Image(decode=False)}))


def stage(folder: Path, n: int = 20, *, pictures: bool = False, plots: bool = False, **options: Any) -> Path:
    """Stage `n` rows with captions by `NAMES`."""
    rows = dataset(columns(n), pictures)
    save_configs(to_configs(rows, captioners=list(NAMES), images="embed" if pictures else "none"), folder, **options)
    if plots:
        (folder / "figures").mkdir(exist_ok=True)
        for name in NAMES:
            (folder / "figures" / f"{name}-lengths.svg").write_text(PLOT)
    return folder
