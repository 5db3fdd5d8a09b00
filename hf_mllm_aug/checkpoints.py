"""What holds for every checkpoint, a captioner's or an encoder's.

No code from a repository is run, no weight is left as it was drawn at random, and no message bears a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mllm_aug.errors import CheckpointError

_COLOUR = re.compile(r"\x1b\[[\d;]*[A-Za-z]")  # of a terminal


def refuse_foreign_code(source: str, name: str, revision: str | None = None) -> None:
    """Refuse a checkpoint that transformers has no code for, before it would ask on the terminal to run foreign code.

    Args:
        source: A Hub id or a folder.
        name: What the message calls it; no path.
        revision: Commit, tag or branch of a Hub id.

    Raises:
        CheckpointError: The model type is none of transformers', nor one that was registered with it before, as
            `hf_mllm_aug.mllms.register` does.
        OSError: There is no such checkpoint, or it does not say what it is.
    """
    from transformers import CONFIG_MAPPING, PretrainedConfig

    settings, _ = PretrainedConfig.get_config_dict(source, revision=revision)
    kind = settings.get("model_type")
    if kind is None:
        raise OSError(f"{name} has no config.json that names a model type")
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{name}: transformers has no model type {kind!r}, and this library runs no code from a repository"
        )


def refuse_missing_weights(info: Mapping[str, Any], name: str) -> None:
    """Refuse a model that transformers has completed with random weights.

    Args:
        info: What `from_pretrained` returns with ``output_loading_info=True``.
        name: What the message calls the checkpoint; no path.

    Raises:
        CheckpointError: Weights are missing from the checkpoint.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{name} lacks {len(missing)} of the model's weights, which would be random: {_first(missing)}"
        )


def refuse_unfit_weights(info: Mapping[str, Any], name: str) -> None:
    """Refuse a model that is not the whole checkpoint, or more than it.

    Args:
        info: What `from_pretrained` returns with ``output_loading_info=True`` and ``ignore_mismatched_sizes=True``.
            Weights that a model is known to do without, by its ``_keys_to_ignore_on_load_unexpected``, are not in it.
        name: What the message calls the checkpoint; no path.

    Raises:
        CheckpointError: Weights are missing, have no place in the model, or have another shape there.

    >>> info = {"missing_keys": {"b", "a"}, "unexpected_keys": {"c"}, "mismatched_keys": set()}
    >>> refuse_unfit_weights(info, "mine")
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.CheckpointError: mine lacks 2 of the model's weights, which would be random: a, b; and has 1 that
    the model has no place for: c
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = [
        f"{key} is {_shape(found)}, not {_shape(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    faults = [
        f"lacks {len(missing)} of the model's weights, which would be random: {_first(missing)}" if missing else "",
        f"has {len(unexpected)} that the model has no place for: {_first(unexpected)}" if unexpected else "",
        f"has {len(mismatched)} of another shape than the model's: {_first(mismatched)}" if mismatched else "",
    ]
    if found := [fault for fault in faults if fault]:
        raise CheckpointError(f"{name} {'; and '.join(found)}")


def refuse_pickle_with_code(name: str) -> CheckpointError:
    """The error to raise where torch refuses a pickle: its own says how to run the code after all.

    Args:
        name: What the message calls the checkpoint or the file; no path.

    >>> print(refuse_pickle_with_code("mine"))
    mine holds more than weights: its pickle would run code, or is none of torch's. It is refused, and nothing of it was
    run
    """
    return CheckpointError(
        f"{name} holds more than weights: its pickle would run code, or is none of torch's. It is refused, and nothing "
        "of it was run"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def label(source: str) -> str:
    """A checkpoint's name for messages and results: of a folder its base name, a Hub id as it is."""
    path = Path(source)
    return path.resolve().name if path.is_absolute() or path.is_dir() else source


def reason(error: Exception, source: str, name: str) -> str:
    r"""An error's text on one line, without colours and without paths of the checkpoint or of the Hub's cache.

    Args:
        error: What transformers or torch raised.
        source: The Hub id or folder.
        name: What to call it instead.

    >>> from huggingface_hub import constants
    >>> cached = os.path.join(constants.HF_HUB_CACHE, "models--me--mine", "snapshots", "0a1b", "config.json")
    >>> reason(OSError(f"no \x1b[31mJSON\x1b[0m in {cached}"), "me/mine", "me/mine")
    'no JSON in me/mine/config.json'
    """
    text = _COLOUR.sub("", str(error) or type(error).__name__)
    if os.path.isdir(source):
        places = {source, os.path.normpath(source), os.path.abspath(source), os.path.realpath(source)}
        for place in sorted(places, key=len, reverse=True):
            if os.sep in place:  # a bare name tells nobody where the folder is
                text = text.replace(place, name)
    elif os.path.isabs(source):
        text = text.replace(source, name)
    return " ".join(_without_caches(text, source, name).split())[:400]


def _without_caches(text: str, source: str, name: str) -> str:
    """A text that calls a Hub id's files by its name, and others of the cache by the variable that says where it is."""
    from huggingface_hub import constants

    caches = {"HF_HUB_CACHE": constants.HF_HUB_CACHE, "HF_HOME": constants.HF_HOME}
    places = {spelled: variable for variable, place in caches.items() for spelled in (place, os.path.realpath(place))}
    part = re.escape(os.sep) + "[^" + re.escape(os.sep) + "\\s'\"]+"  # of a path
    for place in sorted(places, key=len, reverse=True):
        folder = re.escape(os.path.join(place, f"models--{source.replace('/', '--')}"))
        text = re.sub(rf"{folder}(?![\w.-])({re.escape(os.sep)}(snapshots|blobs|refs){part})?", lambda _: name, text)
        text = text.replace(place, f"${places[place]}")
    return text
