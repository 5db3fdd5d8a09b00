"""What several modules of tests share."""

from __future__ import annotations

from typing import Any

import pytest

VOCABULARY = ["[UNK]", "a", "dog", "##s", "on", "the", "grass", "##land", "red"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Word pieces of nine words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]")
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="[UNK]")
