"""The recorded cases of MiniGPT-4, and the sizes of the model that they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "fixtures" / "golden_minigpt4"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
SIZES: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 139,
        "image_size": 42,
        "patch_size": 14,
    },
    "qformer_config": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "cross_attention_frequency": 2,
    },
    "num_query_tokens": 8,
    "image_token_id": 159,
}
