"""Decoding steps that are really compiled, for the CPU, by the C++ compiler of this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_mllm_aug import Captioner
from hf_mllm_aug.loaders.picture_folder import load_picture_folder

PICTURES = Path(__file__).parents[2] / "hf_mllm_aug" / "demo_data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile for a CPU needs the compiler g++"),
]

# In a process of its own: what torch has compiled stays for good in the one that did it.
COMPILE = """
import json, logging, sys
import torch
from torch._dynamo.utils import counters
from hf_mllm_aug import Captioner
from hf_mllm_aug.captioners import engine
from hf_mllm_aug.loaders.picture_folder import load_picture_folder
torch.set_num_threads(1)
if "broken" in sys.argv:
    import torch._inductor.config
    torch._inductor.config.cpp.cxx = ("/nowhere/g++",)
    torch._inductor.config.fx_graph_cache = False
logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
rows = load_picture_folder(sys.argv[1])
batch = {"key": rows["key"][:10], "image": list(rows["image"])[:10]}
settings = {"device": "cpu", "batch_size": 4, "generation": {"do_sample": True, "top_p": 0.9}, "sentence_stop": True}
captioner = Captioner("tiny-llava", compile=True, **settings)
found = [captioner(batch)[captioner.caption_column] for _ in range(2)]
(model,) = engine._LOADED.values()
print(json.dumps([found, list(model._static.shapes), counters["stats"]["unique_graphs"]]))
"""


def compiled(*words: str) -> tuple[Any, str]:
    command = [sys.executable, "-c", COMPILE, str(PICTURES), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def wanted() -> list[str]:
    rows = load_picture_folder(PICTURES)
    batch = {"key": rows["key"][:10], "image": list(rows["image"])[:10]}
    captioner = Captioner("tiny-llava", device="cpu", generation={"do_sample": True, "top_p": 0.9}, sentence_stop=True)
    found: list[str] = captioner(batch)[captioner.caption_column]
    return found


def test_compiled_captions_are_those_of_the_dynamic_cache_and_a_step_is_compiled_once(wanted: list[str]) -> None:
    (found, shapes, graphs), said = compiled()
    assert found == [wanted, wanted]
    assert len(shapes) == 1, "the two rows that are left over have a shape of their own"
    assert shapes[0][0] == 4
    assert graphs == 1, "steps were compiled more than once"
    assert "left" not in said


@pytest.mark.soak
def test_without_a_compiler_there_are_captions_and_one_warning(wanted: list[str]) -> None:
    (found, shapes, _), said = compiled("broken")
    assert found == [wanted, wanted]
    assert shapes == []
    warnings = [line for line in said.splitlines() if line.startswith("hf_mllm_aug")]
    assert len(warnings) == 1, said
    assert "compiled decoding failed and is left; the captions are the same without it" in warnings[0]
    assert "nowhere" not in warnings[0], "a message with somebody's path"
