"""The driver of a run on a Ray cluster of its own is ended, in real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from datasets import Dataset, Features, Image, Value

import hf_mllm_aug
from hf_mllm_aug import Captioner
from tests.conftest import picture_bytes
from tests.integration.command_line import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None,
        reason="the extra ray is not installed: pip install 'hf-mllm-aug[ray]'",
    ),
]

PATIENCE = 240.0  # seconds, for machines that are busy; a bound and no measure


@pytest.fixture
def sockets() -> Iterator[str]:
    """Where Ray's sockets lie: their paths must be short."""
    folder = tempfile.mkdtemp(prefix="ray-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_driver_that_is_terminated_leaves_a_folder_to_go_on_with(
    random_llava: Path, tmp_path: Path, sockets: str
) -> None:
    n_rows = 60
    features = Features({"key": Value("string"), "image": Image()})
    images = [{"bytes": picture_bytes(number), "path": None} for number in range(n_rows)]
    rows = Dataset.from_dict({"key": [f"k{n}" for n in range(n_rows)], "image": images}, features=features)
    rows.save_to_disk(str(tmp_path / "rows"))
    captioner = Captioner(str(random_llava), name="one", max_new_tokens=24)
    code = (
        "import datasets, hf_mllm_aug; from hf_mllm_aug import Captioner\n"
        f"captioner = Captioner(**{captioner.settings()!r})\n"
        "hf_mllm_aug.run(datasets.load_from_disk('rows'), captioner, 'run', shard_size=1, executor='ray')\n"
    )
    (tmp_path / "home").mkdir()
    own = {"HOME": str(tmp_path / "home"), "RAY_TMPDIR": sockets, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path / "hf") | own,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    family: list[psutil.Process] = []
    try:
        end = time.monotonic() + PATIENCE
        while not list(tmp_path.glob("run/one/*.parquet")) and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGTERM)
        out, err = driver.communicate(timeout=PATIENCE)
    finally:
        driver.kill()
    assert driver.returncode == 128 + signal.SIGTERM, err
    assert (out, err) == ("", "")
    assert family
    assert psutil.wait_procs(family, timeout=30)[1] == [], "processes of the cluster go on"
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/one/*.parquet")}
    assert 0 < len(finished) < n_rows
    done = hf_mllm_aug.run(rows, captioner, tmp_path / "run", shard_size=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "a finished shard was done again"
    undisturbed = hf_mllm_aug.run(rows, captioner, tmp_path / "other", shard_size=1, progress=False)
    assert done["key"][:] == rows["key"][:]
    assert done["caption_one"][:] == undisturbed["caption_one"][:]
    assert {path.name for path in (tmp_path / "run" / "one").iterdir()} == {f"{n:05d}.parquet" for n in range(n_rows)}
    assert os.listdir(tmp_path / "run" / "claims") == []
