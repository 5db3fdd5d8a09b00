"""The command line in a process of its own, and a folder that it captioned."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import load_dataset

import hf_mllm_aug
from tests.warm_python import python

ROOT = Path(hf_mllm_aug.__file__).parents[1]
NAME = "random-llava"

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path) -> dict[str, str]:
    """No token, cache or settings of the person's own, and a Hub that is down."""
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    path = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    return {**env, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": path, "COLUMNS": "100"}


def run_command(*words: str | Path, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*python(), "-m", "hf_mllm_aug", *map(str, words)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def load(folder: Path, config: str, cache: Path) -> Any:
    return load_dataset(str(folder), config, split="train", cache_dir=str(cache))


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr
