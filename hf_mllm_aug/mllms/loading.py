"""Checkpoints are loaded as a whole, or not at all."""

from __future__ import annotations

import pickle
from typing import Any

from hf_mllm_aug.checkpoints import label, refuse_pickle_with_code, refuse_unfit_weights


class WholeCheckpoint:
    """Before a `PreTrainedModel` among the bases: refuses what transformers would complete with random weights."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint, in the original project's layout or in this library's.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            model_args: For the constructor.
            output_loading_info: Whether to return what was found as well.
            ignore_mismatched_sizes: Without effect: weights of another shape are refused in any case.
            kwargs: As `PreTrainedModel.from_pretrained` has them.

        Returns:
            The model; with ``output_loading_info`` a pair of it and what was found.

        Raises:
            CheckpointError: Weights are missing, have no place in the model or another shape there, or a pickle is of
                more than weights; nothing that such a pickle would call is called.
            OSError: There is no such checkpoint.
        """
        name = label(str(pretrained_model_name_or_path))
        try:
            model, info = super().from_pretrained(  # type: ignore[misc]
                pretrained_model_name_or_path,
                *model_args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        except pickle.UnpicklingError as error:
            raise refuse_pickle_with_code(name) from error
        refuse_unfit_weights(info, name)
        return (model, info) if output_loading_info else model
