"""A Hugging Face Hub for one machine: a real HTTP server that speaks what data sets need of the Hub's protocol.

It lets ``hf-mllm-aug demo`` publish without an account, and the tests run the real client against real faults.
It listens on the loopback interface alone, keeps everything in one folder, and says what it is on ``GET /`` and in the
``Server`` and ``X-Loopback-Hub`` headers of every response. It is no substitute for the Hub: it stores the files of
data sets and of Spaces (which it does not run) by LFS (no Xet), and forgets them when its folder goes.

The client reads its settings at import, so point a *new* process at it with the variables of `LoopbackHub.environment`.

    python -m hf_mllm_aug.loopback_hub --port 8900
"""

from __future__ import annotations

from hf_mllm_aug.loopback_hub.faults import Fault
from hf_mllm_aug.loopback_hub.server import LoopbackHub

__all__ = ["Fault", "LoopbackHub"]
