"""A real Hub on the loopback interface, and clients in real processes: the client reads its settings at import."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hf_mllm_aug
from hf_mllm_aug.loopback_hub import LoopbackHub
from tests.integration.command_line import Run, environment, run_command
from tests.warm_python import python

TOKEN = "hf_loopbacktesttokenloopbacktest"

PREAMBLE = """
import json, sys
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi
from hf_mllm_aug import push_to_hub, save_configs, to_configs
from hf_mllm_aug.errors import PublishError

def rows(captioners=("tiny-llava", "otter"), n=20, mark=""):
    data = {"key": [f"k{i}" for i in range(n)], "url": [f"https://example.org/{i}.jpg" for i in range(n)],
            "caption": [f"raw {i}" for i in range(n)]}
    for name in captioners:
        slug = name.replace("-", "_").replace(".", "_")
        data[f"caption_{slug}"] = [f"{mark}{name} {i}" if i % 7 != 3 else None for i in range(n)]
        data[f"error_{slug}"] = [None if i % 7 != 3 else "the file is empty" for i in range(n)]
    return to_configs(Dataset.from_dict(data), captioners=list(captioners))

def say(**answer):
    print(json.dumps(answer))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub that accepts one token."""
    server = LoopbackHub(tmp_path / "hub", token=TOKEN)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def hub_env(hub: LoopbackHub, tmp_path: Path) -> dict[str, str]:
    """The environment of a client that knows this Hub alone: no token, cache or proxy of the person's own."""
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HUGGING"))}
    env |= hub.environment
    env["HF_HOME"] = str(tmp_path / "hf-home")
    env["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    env["TMPDIR"] = str(tmp_path)
    env["PYTHONPATH"] = os.pathsep.join([str(Path(hf_mllm_aug.__file__).parents[1]), env.get("PYTHONPATH", "")])
    return env


class Client:
    """Runs code in a new process that talks to the Hub."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def start(self, code: str, **env: str) -> subprocess.Popen[str]:
        command = [*python(), "-c", PREAMBLE + code]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env={**self.env, **env}, stdout=pipe, stderr=pipe, text=True)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err[-4000:]
        answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        answer["stderr"] = err
        return answer

    def __call__(self, code: str, **env: str) -> dict[str, Any]:
        return self.finish(self.start(code, **env))


@pytest.fixture
def client(hub_env: dict[str, str]) -> Client:
    return Client(hub_env)


@pytest.fixture
def client_of() -> Callable[[dict[str, str]], Client]:
    """Makes clients of other Hubs."""
    return Client


# The command line in a process of its own, and a folder that it captioned


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in an empty folder."""
    return lambda *words, **env: run_command(*words, env=environment(tmp_path / "home") | env, cwd=tmp_path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """Ten pictures with captions, and a text file named .jpg among them."""
    folder = tmp_path_factory.mktemp("sources") / "photos"
    folder.mkdir()
    for number, content in enumerate(pictures[:10]):
        (folder / f"{number}.png").write_bytes(content)
        (folder / f"{number}.txt").write_text(f"picture number {number}\n")
    (folder / "4b.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def captioned(
    tmp_path_factory: pytest.TempPathFactory, photos: Path, random_llava: Path
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What `caption` said, and the folder that it staged."""
    home = tmp_path_factory.mktemp("captioned")
    words: list[str | Path] = ["caption", photos, "--captioner", random_llava, "--out", "staged"]
    words += ["--keep-unsheared", "--images", "embed"]
    done = run_command(*words, env=environment(home / "home"), cwd=home)
    assert done.returncode == 0, done.stderr
    return done, home / "staged"


@pytest.fixture
def staged(captioned: tuple[subprocess.CompletedProcess[str], Path]) -> Path:
    return captioned[1]
