"""Weight files: read without being held in memory, written tensor by tensor.

What is read is mapped: a page of it is in memory once it is used, until the file is let go. What is written is a
safetensors file whose header is known beforehand; the tensors follow one at a time.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hf_mllm_aug.checkpoints import refuse_pickle_with_code
from hf_mllm_aug.errors import CheckpointError

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class Kind:
    """What a tensor is, without its values.

    Args:
        shape: Its sizes.
        dtype: Its number type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """How many bytes its values take."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def writable(self) -> bool:
        """Whether `write_safetensors` knows its number type: floating point, of 16 bits at least."""
        return self.dtype in _DTYPES


def kind_of(tensor: torch.Tensor) -> Kind:
    """A tensor without its values."""
    return Kind(tuple(tensor.shape), tensor.dtype)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Map a weight file.

    Args:
        path: ``.safetensors``, or a pickle of torch (``.pth``, ``.pt``, ``.bin``). A training run's file, which has the
            weights under ``"model"`` beside other things, gives those.

    Returns:
        The tensors by name; their values are read when they are used. Only files in the format of torch before 1.6
        are read whole, for there is no other way.

    Raises:
        CheckpointError: There is no such file, it cannot be read, or it is a pickle of more than tensors and plain
            containers; nothing that such a pickle would call is called.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path.name}")
    found: Any
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise refuse_pickle_with_code(path.name) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path.name} cannot be read; is it damaged, or cut off?") from error
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CheckpointError(f"{path.name} is not a mapping of names to tensors")
    return {str(name): value.detach() for name, value in found.items()}


def shards_of(folder: Path) -> list[Path]:
    """The weight files of a model's folder: those of its index, or its only one; safetensors before pickles.

    Raises:
        CheckpointError: There are none, or the index is none.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder.name}")
    for single in _SINGLE:
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [folder / single]
        if index.is_file():
            return [folder / name for name in _indexed(index)]
    raise CheckpointError(f"{folder.name} has no weights: neither {' nor '.join(_SINGLE)}, nor an index of shards")


def _indexed(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} is no index of shards") from error
    if strange := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
        raise CheckpointError(f"{index.name} names {strange[0]!r}, which is no file of the same folder")
    return names


def write_safetensors(path: Path, kinds: Mapping[str, Kind], values: Iterable[torch.Tensor]) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        path: The file to make.
        kinds: What there will be, by name. The wider number types should come first, so that all are aligned.
        values: The tensors, in the order of ``kinds``; taken one by one.

    Raises:
        ValueError: A value is not of its kind; the file is then of no use.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "model.safetensors")
    ...     write_safetensors(file, {"weight": Kind((2,), torch.float32)}, [torch.tensor([1.0, 2.0])])
    ...     load_file(file)
    {'weight': tensor([1., 2.])}
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, kind in kinds.items():
        offsets = [place, place + kind.bytes]
        header[name] = {"dtype": _DTYPES[kind.dtype], "shape": list(kind.shape), "data_offsets": offsets}
        place += kind.bytes
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, kind), value in zip(kinds.items(), values, strict=True):
            if kind_of(value) != kind:
                raise ValueError(f"{name} is {kind_of(value)}, not {kind}")
            file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
