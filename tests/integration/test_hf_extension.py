"""`hf-mllm-aug` as an extension of the `hf` command: what `hf extensions install` asks for, and `hf mllm-aug` itself.

The installation from GitHub is done here from an archive of the same layout, for it asks for github.com and nothing
else; names, folders, the manifest and the dispatch are those of the installed `huggingface_hub`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub.cli import extensions

import hf_mllm_aug

ROOT = Path(hf_mllm_aug.__file__).parents[1]
NAME = "mllm-aug"
PARTS = ["pyproject.toml", "README.md", "LICENSE", "hf_mllm_aug", "cards"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the extension in it, installed as `hf extensions install` does: pip, archive, manifest."""
    home = tmp_path_factory.mktemp("home")
    archive = home / "HEAD.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part in PARTS:
            place = ROOT / part
            for path in [place, *place.rglob("*")]:
                if path.is_file() and "__pycache__" not in path.parts:
                    file.write(path, Path("hf-mllm-aug-HEAD") / path.relative_to(ROOT))
    folder = home / ".local" / "share" / "hf" / "extensions" / f"hf-{NAME}"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "venv")
    # The libraries underneath are those that are here: nothing is downloaded.
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall"]
    subprocess.run([*pip, *options, archive], check=True, capture_output=True, text=True)
    extensions.ExtensionManifest(
        owner="someone",
        repo=f"hf-{NAME}",
        repo_id=f"someone/hf-{NAME}",
        short_name=NAME,
        executable_path=str(folder / "venv" / "bin" / extensions._get_executable_name(NAME)),
        type="python",
        installed_at=datetime.now(UTC),
    ).save(folder)
    return home


def hf(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    env |= {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    env |= {"HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": ""}
    command = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", *words]
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=180, check=False)


def test_the_repositorys_name_is_one_that_hf_accepts() -> None:
    assert extensions._normalize_repo_id(f"someone/hf-{NAME}") == ("someone", f"hf-{NAME}", NAME)


def test_the_package_brings_the_console_script_that_hf_looks_for(home: Path) -> None:
    folder = home / ".local" / "share" / "hf" / "extensions" / f"hf-{NAME}"
    assert (folder / "venv" / "bin" / f"hf-{NAME}").is_file()


def test_hf_runs_the_extension(home: Path) -> None:
    done = hf(home, NAME, "models")
    assert done.returncode == 0, done.stderr
    assert "tiny-llava" in done.stdout
    done = hf(home, NAME, "--version")
    assert done.stdout.strip() == f"hf-mllm-aug {hf_mllm_aug.__version__}"


def test_exit_codes_and_reasons_pass_through_hf(home: Path) -> None:
    done = hf(home, NAME, "publish", "nowhere", "me/x")
    assert done.returncode == 1
    assert "error: no such folder: nowhere" in done.stderr
    assert hf(home, NAME, "publish").returncode == 2


def test_hf_names_the_extension_in_its_help(home: Path) -> None:
    done = hf(home, "--help")
    assert done.returncode == 0, done.stderr
    assert NAME in done.stdout
