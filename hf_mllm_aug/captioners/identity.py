"""What a captioner is, to `datasets`' cache and to other processes.

`Dataset.map` looks for a cached result under a hash of its function, taken from the function's pickle. So a
`Captioner`'s pickle holds all that decides its captions, and nothing else: settings, the prompt and decoding they
resolve to, a version of this code, and for a checkpoint in a folder the digest of its files. No model, so that the
hash before and after loading is one; and where `datasets` hashes, no path, so that a folder that was moved or copied
to another machine is the same captioner, no server's address, so that a job goes on when its server has moved, and not
whether decoding is compiled, so that it goes on with or without.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners import preset_data, presets

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.captioner import Captioner

logger = logging.getLogger(__name__)

CODE_VERSION = 2
"""To be raised with every change of this package that changes captions: cached ones would be stale."""

# Files that change no caption.
_IDLE = frozenset({"readme.md", "license", "license.txt", ".gitattributes", ".gitignore"})


def digest(folder: Path) -> str | None:
    """A digest of a checkpoint's files, their names included, wherever the folder stands; None if there is none.

    Args:
        folder: A checkpoint in transformers' layout.
    """
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.lower() not in _IDLE)
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    stamps = tuple(
        (path.relative_to(folder).as_posix(), path.stat().st_mtime_ns, path.stat().st_size) for path in files
    )
    return _digest(folder, stamps)


@functools.lru_cache(maxsize=32)
def _digest(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, _, _ in stamps:
        with open(folder / name, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()


def identity(captioner: Captioner) -> dict[str, Any]:
    """All that decides a captioner's captions, and no path.

    Two things are left out. The number type stands here as it was asked for, in the settings: what ``"auto"`` comes to
    on a machine is not in the hash, so that one data set may be captioned on several. And a checkpoint may name a
    tokenizer in another repository, as Otter's does where it brings none (``text_config.tokenizer_name``): that one is
    known by its name, which is in the digest, and not by its content.
    """
    folder = captioner.folder
    # What ends a decoding behind its first sentence.
    segmenter = {"sentencex": version("sentencex")} if captioner.request.sentence_stop else {}
    # Named where there is one only, so that what was captioned before there was the setting is still known.
    weights = {"quantization": captioner.quantization} if captioner.quantization is not None else {}
    return {
        **segmenter,
        **weights,
        "code_version": CODE_VERSION,
        "source": digest(folder) if folder is not None else captioner.source,
        "revision": captioner.resolved_revision,
        "prompt": captioner.resolved_prompt,
        "prompt_style": captioner.resolved_prompt_style,
        "decoding": dict(captioner.decoding),
        "clean_up": captioner.variant.clean_up.describe(),
    }


def reduced(captioner: Captioner, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """A captioner's pickle: its settings, and the preset if it is the caller's own, for a process that has not
    registered it.
    """
    preset = captioner.mllm
    own = None if preset is None or preset.name in preset_data.BUILT_IN else preset
    return _rebuild, (type(captioner), dict(settings), own, identity(captioner))


def _rebuild(
    kind: type[Captioner], settings: dict[str, Any], preset: presets.Preset | None, _: Mapping[str, Any]
) -> Captioner:
    if preset is not None and preset.name not in presets.PRESETS:
        presets.register(preset)
    return kind(**settings)


def _same_content(pickler: Any, captioner: Captioner) -> None:
    """Write a captioner to `datasets`' hash: as in its pickle, but without the places of its checkpoint and server."""
    function, (kind, settings, own, found) = reduced(
        captioner, {**captioner.settings(), "base_url": None, "compile": None}
    )
    if captioner.own_folder is not None:
        settings, own = {**settings, "model": captioner.label, "checkpoint": None}, None
    pickler.save_reduce(function, (kind, settings, own, found), obj=captioner)


def hash_by_content(kind: type[Captioner]) -> None:
    """Make `datasets` hash captioners by the content of their checkpoint's folder, whichever server is asked, and
    whether decoding is compiled or not.

    Only those whose checkpoint is in a folder of the caller's, or that name a server or say whether to compile, need
    it, so only they cost the import of `datasets`.
    The registry is the one through which `datasets` itself makes the hashes of tokenizers and tensors stable; it is
    not documented, and without it a captioner whose folder has moved is hashed anew, no more.
    """
    try:
        from datasets.utils._dill import pklregister
    except ImportError:
        logger.debug("datasets has no pklregister; captioners are hashed with their folders' paths")
        return
    pklregister(kind)(_same_content)
