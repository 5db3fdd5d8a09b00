"""A checkpoint with code in its repository is refused, and its code is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hf_mllm_aug import Captioner
from hf_mllm_aug.embedding import DualEncoder
from hf_mllm_aug.errors import CheckpointError


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder whose model type only its own module knows; the module leaves a trace when it is run."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    config = {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    return folder


def test_a_captioner_with_code_of_its_own_is_refused_by_name(foreign: Path) -> None:
    with pytest.raises(CheckpointError, match=r"foreign: transformers has no model type 'foreign'") as caught:
        Captioner(foreign)({"image": Image.new("RGB", (8, 8))})
    assert str(foreign) not in str(caught.value)
    assert not (foreign.parent / "trace").exists(), "the repository's code was run"


def test_an_encoder_with_code_of_its_own_is_refused(foreign: Path) -> None:
    with pytest.raises(CheckpointError, match="runs no code from a repository"):
        DualEncoder.load(foreign)
    assert not (foreign.parent / "trace").exists(), "the repository's code was run"
