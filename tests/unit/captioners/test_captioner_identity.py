"""What a captioner is to `map`'s cache and to other processes: its hash and its pickle."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hf_mllm_aug.captioners import Captioner, Preset, presets


def hashed(captioner: Captioner) -> str:
    from datasets.fingerprint import Hasher

    value: str = Hasher.hash(captioner)
    return value


def test_equal_settings_hash_alike_and_different_ones_do_not() -> None:
    one = Captioner(generation={"do_sample": True, "top_k": 5, "top_p": 0.9})
    same = Captioner(generation={"top_p": 0.9, "top_k": 5, "do_sample": True})
    assert hashed(one) == hashed(same) == hashed(copy.deepcopy(one)) == hashed(pickle.loads(pickle.dumps(one)))
    others = [Captioner(), Captioner(seed=1), Captioner(prompt="What is it?"), Captioner(max_new_tokens=9)]
    assert len({hashed(captioner) for captioner in [one, *others]}) == 5


def test_the_hash_sees_the_code_version_and_the_preset(monkeypatch: pytest.MonkeyPatch, own_preset: Preset) -> None:
    captioner = Captioner("mine-2")
    before = hashed(captioner)
    monkeypatch.setitem(presets._PRESETS, "mine-2", replace(own_preset, prompt="What else?"))
    assert hashed(captioner) != before
    monkeypatch.undo()
    assert hashed(captioner) == before
    monkeypatch.setattr("hf_mllm_aug.captioners.identity.CODE_VERSION", 99)
    assert hashed(captioner) != before


def test_the_hash_goes_by_the_checkpoints_content_not_its_place(random_llava: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / random_llava.name
    shutil.copytree(random_llava, copied)
    (copied / "README.md").write_text("no part of the model")
    before = hashed(Captioner(random_llava))
    assert hashed(Captioner(copied)) == before
    assert hashed(Captioner(str(copied) + "/")) == before
    with open(copied / "model.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\1\2\3")
    assert hashed(Captioner(copied)) != before


def test_loading_the_model_changes_neither_hash_nor_pickle(random_llava: Path, pictures: list[bytes]) -> None:
    captioner = Captioner(random_llava)
    before, pickled = hashed(captioner), pickle.dumps(captioner)
    captioner({"image": pictures[:2]})
    assert hashed(captioner) == before
    assert pickle.dumps(captioner) == pickled
    assert len(pickled) < 2000


def test_another_process_computes_the_same_hash(random_llava: Path) -> None:
    code = (
        "import sys; from datasets.fingerprint import Hasher; from hf_mllm_aug import Captioner, augment;"
        "print(Hasher.hash(Captioner()), Hasher.hash(Captioner(sys.argv[1])), Hasher.hash(augment))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(random_llava)],
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    from datasets.fingerprint import Hasher

    from hf_mllm_aug import augment

    assert found == [hashed(Captioner()), hashed(Captioner(random_llava)), Hasher.hash(augment)]


def test_a_preset_of_ones_own_travels_in_the_pickle(own_preset: Preset) -> None:
    pickled = pickle.dumps(Captioner("mine-2"))
    presets._PRESETS.pop("mine-2")
    assert pickle.loads(pickled).resolved_prompt == "What is <image>?"


def test_whether_decoding_is_compiled_is_in_no_hash_but_in_the_pickle() -> None:
    hashes = {hashed(Captioner(compile=choice)) for choice in (True, False, None)}
    assert len(hashes) == 1
    assert hashed(Captioner(compile=True, seed=1)) not in hashes
    assert pickle.loads(pickle.dumps(Captioner(compile=False))).compile is False


def test_the_hash_sees_the_version_that_finds_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, plain = Captioner(sentence_stop=True), Captioner()
    before = hashed(stopping), hashed(plain)
    monkeypatch.setattr("hf_mllm_aug.captioners.identity.version", lambda name: "0.0.1")
    assert hashed(stopping) != before[0]
    assert hashed(plain) == before[1]
