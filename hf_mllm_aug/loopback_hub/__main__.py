"""Run the loopback Hub as a process: ``python -m hf_mllm_aug.loopback_hub``."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from hf_mllm_aug.loopback_hub.pages import WHAT
from hf_mllm_aug.loopback_hub.server import LoopbackHub


def main() -> None:
    """Serve until interrupted. The first line of stdout is JSON: the address and the environment of a client."""
    parser = argparse.ArgumentParser(prog="python -m hf_mllm_aug.loopback_hub", description=WHAT)
    parser.add_argument("--port", type=int, default=0, help="the port; 0 takes a free one (default)")
    parser.add_argument("--folder", help="where files are kept; a temporary folder if not given")
    parser.add_argument("--token", help="the only token that may write; all may if not given")
    options = parser.parse_args()
    hub = LoopbackHub(options.folder, port=options.port, token=options.token)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a temporary folder goes on termination too
    sys.stdout.write(json.dumps({"url": hub.url, "what": WHAT, "environment": hub.environment}) + "\n")
    sys.stdout.flush()
    try:
        hub.serve()
    except KeyboardInterrupt:
        pass
    finally:
        hub.stop()


if __name__ == "__main__":
    main()
