"""Column names and features of an augmented data set: the only place that spells them.

A row is `key`, `image`, `url`, `caption` (the raw one) and, for each captioner, ``caption_<slug>`` and
``error_<slug>``: exactly one of the two is null in a row that was worked. With ``keep_unsheared`` there is
``generated_<slug>`` too, the text before shearing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Features

KEY = "key"
IMAGE = "image"
URL = "url"
CAPTION = "caption"
CAPTION_PREFIX = "caption_"
ERROR_PREFIX = "error_"
GENERATED_PREFIX = "generated_"

ALL_CONFIG = "all"
RAW_CONFIG = "raw"


def slug(name: str) -> str:
    """Turn a captioner's name into the ending of its columns: runs of other characters than a-z, 0-9 become ``_``.

    >>> slug("llava-1.5"), slug("Salesforce/blip2-opt-2.7b")
    ('llava_1_5', 'salesforce_blip2_opt_2_7b')
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def caption_column(name: str) -> str:
    """The column of a captioner's captions.

    >>> caption_column("llava-1.5")
    'caption_llava_1_5'
    """
    return CAPTION_PREFIX + slug(name)


def error_column(name: str) -> str:
    """The column that says why a captioner's caption is null.

    >>> error_column("tiny-llava")
    'error_tiny_llava'
    """
    return ERROR_PREFIX + slug(name)


def generated_column(name: str) -> str:
    """The column of a captioner's text before shearing.

    >>> generated_column("tiny-llava")
    'generated_tiny_llava'
    """
    return GENERATED_PREFIX + slug(name)


def caption_columns(columns: Iterable[str]) -> list[str]:
    """The captioners' caption columns among ``columns``, in their order; the raw caption is not one of them.

    >>> caption_columns(["key", "caption", "caption_otter", "error_otter"])
    ['caption_otter']
    """
    return [column for column in columns if column.startswith(CAPTION_PREFIX)]


def base_features(*, decode: bool = False) -> Features:
    """The features of a row before augmentation: key, image, url, caption.

    Args:
        decode: Whether `datasets` decodes the pictures. Ours are read undecoded, for one corrupt picture
            would otherwise end a streaming read.
    """
    from datasets import Features, Image, Value

    return Features(
        {
            KEY: Value("string"),
            IMAGE: Image(decode=decode),
            URL: Value("string"),
            CAPTION: Value("string"),
        }
    )
