"""Options that commands hand on to captioners, seen in what an engine refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_mllm_aug.cli import app
from hf_mllm_aug.errors import UsageError

SERVED = ["--captioner", "org/some", "--engine", "openai", "--base-url", "http://127.0.0.1:9/v1"]


@pytest.mark.parametrize("command", ["caption", "plan"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--compile"], "compile=True means nothing to the engine 'openai'"),
        (["--no-compile"], "compile=False means nothing to the engine 'openai'"),
        (["--quantization", "int8"], "quantization='int8' means nothing to the engine 'openai'"),
    ],
)
def test_compiling_and_quantization_reach_the_captioner(
    command: str, option: list[str], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, [command, str(tmp_path), *SERVED, "--out", str(tmp_path / "out"), *option])
    assert isinstance(done.exception, UsageError), done.output
    assert message in str(done.exception)
