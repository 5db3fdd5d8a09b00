"""A process forked from a warm one is like any other: its words, folder, files and end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.warm_python import python

pytestmark = pytest.mark.skipif(len(python()) == 1, reason="processes are forked from warm ones on Linux alone")

SAY = """
import json, os, sys, __main__
print(json.dumps([sys.argv, os.getcwd(), os.environ.get("MARK"), __main__.__dict__ is globals(), sys.path[:2]]))
"""
HUGGING_FACE = ("accelerate", "datasets", "evaluate", "hf_mllm_aug", "huggingface_hub", "transformers")


def run(*words: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*python(), *map(str, words)], capture_output=True, text=True, timeout=120, **how)


def test_code_a_module_and_a_script_run_as_python_runs_them(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(SAY)
    path = os.pathsep.join([str(tmp_path), str(tmp_path / "other")])
    for words in (["-c", SAY, "a", "b c"], ["-m", "said", "-x"], [str(tmp_path / "said.py"), "--y"]):
        how: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "MARK": "é", "PYTHONPATH": path}}
        cold = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, **how)
        assert json.loads(run(*words, **how).stdout) == json.loads(cold.stdout), words


def test_torch_is_there_and_nothing_that_reads_settings_of_hugging_face() -> None:
    done = run("-c", "import sys; print(*{name.partition('.')[0] for name in sys.modules})")
    loaded = set(done.stdout.split())
    assert {"torch", "pandas"} <= loaded
    assert not loaded & set(HUGGING_FACE)


def test_input_output_and_the_exit_code_are_its_own() -> None:
    done = run(
        "-c", "import sys; print(sys.stdin.read().upper()); print('e', file=sys.stderr); sys.exit(7)", input="in"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "IN\n", "e\n")
    failed = run("-c", "import atexit; atexit.register(print, 'at the end'); 1 / 0")
    assert (failed.returncode, failed.stdout) == (1, "at the end\n")
    assert failed.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert run("-c", "import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_it(number: signal.Signals) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([*python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", (100).to_bytes(8, "big") + b"[["])
def test_a_request_that_ends_early_harms_no_other(sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(python()[-1])
        asking.sendall(sent)
    assert run("-c", "print(1)").stdout == "1\n"


@pytest.mark.parametrize("words", [["-X", "utf8"], ["-W", "ignore"]])
def test_options_and_early_variables_lead_to_an_ordinary_process(words: list[str]) -> None:
    code = "import sys; print('torch' in sys.modules, sys.flags.hash_randomization)"
    assert run(*words, "-c", code).stdout == "False 1\n"
    assert run("-c", code, env={**os.environ, "PYTHONHASHSEED": "0"}).stdout == "False 0\n"
