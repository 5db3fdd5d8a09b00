"""What is said before a Ray run begins: clusters that are not there, addresses for nothing, the extra not installed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

import hf_mllm_aug
from hf_mllm_aug.errors import UsageError
from tests.conftest import picture_bytes
from tests.integration.command_line import assert_one_line, environment
from tests.warm_python import python

pytestmark = pytest.mark.slow

PATIENCE = 240.0  # seconds, for machines that are busy; a bound and no measure


@pytest.fixture(scope="module")
def rows() -> Dataset:
    features = Features({"key": Value("string"), "image": Image()})
    images = [{"bytes": picture_bytes(number), "path": None} for number in range(4)]
    return Dataset.from_dict({"key": list("abcd"), "image": images}, features=features)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"])
def test_a_cluster_that_is_not_there_is_named(rows: Dataset, tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'hf-mllm-aug[ray]'")
    with pytest.raises(UsageError, match=f"^the Ray cluster at {address} cannot be reached: "):
        hf_mllm_aug.run(rows, "tiny-llava", tmp_path / "run", executor="ray", address=address)


def test_an_address_is_for_ray_alone(rows: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="address='auto' is for executor='ray'"):
        hf_mllm_aug.run(rows, "tiny-llava", tmp_path / "run", address="auto")


def test_without_ray_one_line_says_what_to_install(tmp_path: Path, random_llava: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(picture_bytes(0))
    code = (
        "import sys; sys.modules['ray'] = None; from hf_mllm_aug.cli import main; "
        f"sys.argv[1:] = ['caption', 'photos', '--captioner', {str(random_llava)!r}, '--out', 'out', *sys.argv[1:]]; "
        "sys.exit(main())"
    )
    command = [*python(), "-c", code]
    settings: dict[str, Any] = {"cwd": tmp_path, "env": environment(tmp_path / "home"), "timeout": PATIENCE}
    refused = subprocess.run([*command, "--executor", "ray"], **settings, capture_output=True, text=True, check=False)
    assert_one_line(refused, 2, "executor='ray'", "pip install 'hf-mllm-aug[ray]'")
    assert not (tmp_path / "out.run").exists()
    # What does not need it does without it.
    done = subprocess.run(command, **settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
