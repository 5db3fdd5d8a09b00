"""What holds for every checkpoint, a captioner's or an encoder's: no code from a repository is run."""

from __future__ import annotations

from hf_mllm_aug.errors import CheckpointError


def refuse_foreign_code(source: str, name: str, revision: str | None = None) -> None:
    """Refuse a checkpoint that transformers has no code for, before it would ask on the terminal to run foreign code.

    Args:
        source: A Hub id or a folder.
        name: What the message calls it; no path.
        revision: Commit, tag or branch of a Hub id.

    Raises:
        CheckpointError: The model type is none of transformers'.
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
