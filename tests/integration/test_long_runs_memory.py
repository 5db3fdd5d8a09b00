"""The memory of a long run in a process of its own: ten times the rows take no more of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hf_mllm_aug.schema import base_features
from tests.conftest import picture_bytes
from tests.integration.command_line import environment

SMALL, LARGE = 500, 5_000
PICTURE = 8_000  # bytes

CODE = f"""
import gc, json, re, sys, threading
from pathlib import Path
import datasets
from hf_mllm_aug import Captioner, run

def look():
    status = Path("/proc/self/status").read_text()
    kib = [int(re.search(name + r":\\s+(\\d+)", status)[1]) for name in ("RssAnon", "RssFile")]
    return {{"anonymous": kib[0] * 1024, "files": kib[1] * 1024, "objects": sys.getallocatedblocks()}}

class Peak(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.over = look(), threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.01):
            self.most = {{name: max(value, self.most[name]) for name, value in look().items()}}

rows = datasets.load_from_disk("rows")
captioner = Captioner("model", name="one", batch_size=8, max_new_tokens=1)
found = []
for name, part in (("small", range({SMALL})), ("large", range({SMALL}, {SMALL + LARGE}))):
    peak = Peak()
    done = run(rows.select(part), captioner, name, shard_size=100, progress=False)
    peak.over.set()
    assert len(done) == len(part)
    gc.collect()
    found.append({{"most": peak.most, "after": look()}})
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is read from /proc")
def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path, random_llava: Path) -> None:
    pictures = [picture_bytes(number, (24, 20)).ljust(PICTURE, b"\0") for number in range(50)]
    total = SMALL + LARGE
    columns = {
        "key": [f"k{number}" for number in range(total)],
        "image": [{"bytes": pictures[number % 50], "path": None} for number in range(total)],
        "url": [None] * total,
        "caption": ["raw"] * total,
    }
    Dataset.from_dict(columns, features=base_features()).save_to_disk(str(tmp_path / "rows"))
    (tmp_path / "model").symlink_to(random_llava)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout.splitlines()[-1])
    grown = {when: {name: large[when][name] - small[when][name] for name in small[when]} for when in small}
    assert grown["most"]["anonymous"] < 3_000 * LARGE
    assert grown["most"]["objects"] < 3 * LARGE, "something is kept of each row while the run works"
    assert grown["after"]["objects"] < LARGE / 4, "something is kept of rows when the run is over"
    # The source's file is mapped, and all of it was read.
    assert grown["after"]["files"] < PICTURE * LARGE / 4
