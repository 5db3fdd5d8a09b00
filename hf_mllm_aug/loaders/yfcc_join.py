"""OpenAI's list of photos joined with the metadata, and what is not to be found there said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from hf_mllm_aug.loaders.yfcc_metadata import photo_ids
from hf_mllm_aug.schema import KEY

logger = logging.getLogger(__name__)

_SHOWN = 3


def load_joined(photos: str, load: Callable[[], Any], metadata: str) -> Any:
    """Load the rows of the photos of a list, and log how many of them there are none of.

    Args:
        photos: The list.
        load: Loads the rows; a stream's are not counted.
        metadata: The metadata, for the message.
    """
    import numpy as np
    from datasets import Dataset

    rows = load()
    if isinstance(rows, Dataset):
        wanted = photo_ids(photos)
        batches = rows.select_columns([KEY]).iter(10_000)
        found = np.fromiter((int(key) for batch in batches for key in batch[KEY]), np.int64)
        missing = np.setdiff1d(wanted, found)
        if len(missing):
            shown = ", ".join(map(str, missing[:_SHOWN]))
            message = "%s: %d of %d photos are not in %s and have no row, such as %s"
            logger.warning(message, photos, len(missing), len(wanted), metadata, shown)
    return rows
