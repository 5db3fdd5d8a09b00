"""Captioners with tiny models of random weights that transformers has."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hf_mllm_aug.captioners import Captioner, engine
from hf_mllm_aug.errors import CheckpointError, UsageError
from tests.conftest import build_llava
from tests.tiny_mllms import MAKERS
from tests.weights import Malicious, as_pickle

BROKEN = b"<html>"


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    yield
    engine.unload()


@pytest.fixture(params=["random_llava", "random_qwen2_vl"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_batched_and_single_captions_are_equal(checkpoint: Path, pictures: list[bytes]) -> None:
    captioner = Captioner(checkpoint, batch_size=6)
    column = captioner.caption_column
    together = captioner({"image": [*pictures, BROKEN]})
    assert together[column][-1] is None
    for row, picture in enumerate(pictures):
        assert captioner({"image": picture})[column] == together[column][row], row
    assert len(set(together[column])) > 10


def test_what_is_sampled_for_a_row_depends_on_seed_and_key_alone(checkpoint: Path, pictures: list[bytes]) -> None:
    sampled = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 50}
    captioner = Captioner(checkpoint, generation=sampled, batch_size=5)
    column = captioner.caption_column
    images, keys = [pictures[0]] * 4 + pictures[:4], [f"k{number}" for number in range(8)]
    captions = captioner({"image": images, "key": keys})[column]
    backwards = replace(captioner, batch_size=3)({"image": images[::-1], "key": keys[::-1]})[column]
    assert backwards[::-1] == captions
    assert len(set(captions[:4])) == 4
    assert replace(captioner, seed=1)({"image": images, "key": keys})[column] != captions
    by_pixels = captioner({"image": images})[column]
    assert len(set(by_pixels[:5])) == 1
    decoded = [Image.open(io.BytesIO(picture)) for picture in images]
    assert captioner({"image": decoded})[column] == by_pixels


def test_what_the_checkpoint_suggests_for_decoding_does_not_leak_in(random_llava: Path, pictures: list[bytes]) -> None:
    column = Captioner(random_llava).caption_column
    plain = Captioner(random_llava)({"image": pictures[:6]})[column]
    same = Captioner(random_llava, generation={"do_sample": True, "top_k": 1})({"image": pictures[:6]})[column]
    assert same == plain
    penalty = Captioner(random_llava, generation={"repetition_penalty": 1.5})({"image": pictures[:6]})[column]
    assert penalty != plain


def test_decoding_parameters_take_effect(checkpoint: Path, pictures: list[bytes]) -> None:
    def captions(**settings: Any) -> list[str]:
        captioner = Captioner(checkpoint, **settings)
        found: list[str] = captioner({"image": pictures[:5]})[captioner.caption_column]
        return found

    plain = captions()
    short = captions(max_new_tokens=4)
    assert all(long.startswith(text.rstrip("\ufffd")) for long, text in zip(plain, short, strict=True))
    assert captions(generation={"num_beams": 2, "length_penalty": 0.0}) != plain
    assert captions(prompt="What is <image> about?") != plain


def test_sentence_stop_gives_the_same_sheared_captions(checkpoint: Path, pictures: list[bytes]) -> None:
    from hf_mllm_aug.shearing import shear

    column = Captioner(checkpoint).caption_column
    variants: list[dict[str, Any]] = [{}, {"generation": {"do_sample": True}}]
    for settings in variants:
        full = Captioner(checkpoint, max_new_tokens=60, **settings)({"image": pictures})[column]
        ended = Captioner(checkpoint, max_new_tokens=60, sentence_stop=True, **settings)({"image": pictures})[column]
        assert [shear(text) for text in ended] == [shear(text) for text in full]


def test_a_picture_that_the_processor_refuses_leaves_its_neighbours_alone(
    checkpoint: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner(checkpoint)
    column = captioner.caption_column
    expected = captioner({"image": pictures[:5]})[column]
    model: Any = engine.loaded(captioner.model_key(None))
    original = model._prompter.inputs

    def refusing(images: Any, prompt: str) -> Any:
        if any(image.size == (49, 58) for image in images):
            raise ValueError("mean must have 3 elements")
        return original(images, prompt)

    monkeypatch.setattr(model._prompter, "inputs", refusing)
    batch = captioner({"image": pictures[:5]})
    assert batch[column] == [None if row == 3 else text for row, text in enumerate(expected)]
    assert batch[captioner.error_column][3] == "the model's processor refuses the picture: mean must have 3 elements"


def test_what_the_processor_says_bears_no_path_into_the_error_column(
    random_llava: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    captioner = Captioner(random_llava)
    model: Any = engine.loaded(captioner.model_key(None))
    cached = Path(constants.HF_HUB_CACHE) / "models--me--mine" / "snapshots" / "0a1b" / "mean.json"

    def refusing(images: Any, prompt: str) -> Any:
        raise OSError(f"\x1b[31mcannot read\x1b[0m {random_llava / 'mean.json'},\nnor {cached}")

    monkeypatch.setattr(model._prompter, "inputs", refusing)
    error = captioner({"image": pictures[0]})[captioner.error_column]
    assert error.startswith("the model's processor refuses the picture: cannot read random-llava/mean.json, nor ")
    for part in (str(random_llava.parent), constants.HF_HUB_CACHE, constants.HF_HOME, "\x1b"):
        assert part not in error


def test_two_presets_of_one_folder_do_not_push_each_other_out(random_llava: Path, pictures: list[bytes]) -> None:
    for model in (Captioner(random_llava), Captioner("tiny-llava", checkpoint=random_llava)) * 2:
        model({"image": pictures[0]})
    assert sum(key.source == str(random_llava) for key in engine._LOADED) == 2


@pytest.mark.parametrize("name", ["llava-1.5", *MAKERS])
def test_a_pickle_with_code_is_refused_without_advice_to_run_it(name: str, tmp_path: Path) -> None:
    folder, trace = MAKERS.get(name, build_llava)(tmp_path / "mine"), tmp_path / "trace"
    as_pickle(folder, more=Malicious(trace))
    with pytest.raises(CheckpointError, match="mine holds more than weights") as caught:
        Captioner(folder)({"image": Image.new("RGB", (8, 8))})
    assert not trace.exists(), "the pickle's code was run"
    for part in ("weights_only", "\x1b", "\n", str(tmp_path)):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    "shortage",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ],
)
def test_when_memory_is_short_the_micro_batch_is_halved(
    random_llava: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch, shortage: RuntimeError
) -> None:

    captioner = Captioner(random_llava, batch_size=8)
    column = captioner.caption_column
    expected = captioner({"image": pictures[:10]})[column]
    model: Any = engine.loaded(captioner.model_key(None))
    original, sizes = model._decode, []

    def short_of_memory(lane: Any, inputs: Any, keys: Any, request: Any) -> Any:
        sizes.append(len(keys))
        if len(keys) > 2:
            raise shortage
        return original(lane, inputs, keys, request)

    monkeypatch.setattr(model, "_decode", short_of_memory)
    monkeypatch.setattr(model, "max_batch", None)
    assert captioner({"image": pictures[:10]})[column] == expected
    assert model.max_batch == 2
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 2]


def test_odd_pictures_pass_the_processor(checkpoint: Path) -> None:
    images = [Image.new("RGB", size) for size in ((1, 1), (1, 150), (150, 1), (3, 3), (2, 5))]
    captioner = Captioner(checkpoint)
    batch = captioner({"image": images})
    assert batch[captioner.error_column][0] is None
    for error in batch[captioner.error_column]:
        assert error is None or error.startswith("the model's processor refuses the picture: ")


def test_a_folder_without_a_model_is_a_clear_error(tmp_path: Path, pictures: list[bytes]) -> None:
    with pytest.raises(CheckpointError, match=f"cannot load {tmp_path.name}: ") as caught:
        Captioner(tmp_path)({"image": pictures[:1]})
    assert str(tmp_path.parent) not in str(caught.value)


def test_a_model_without_a_chat_template_is_a_clear_error(
    random_qwen2_vl: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(random_qwen2_vl, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="mute has no chat template"):
        Captioner(folder)({"image": pictures[:1]})
    with pytest.raises(CheckpointError, match="'segments' is LLaVA's"):
        Captioner(random_qwen2_vl, prompt_style="segments")({"image": pictures[:1]})


def test_an_unknown_device_is_a_clear_error(random_llava: Path, pictures: list[bytes]) -> None:
    with pytest.raises(UsageError, match="device 'gpu'"):
        Captioner(random_llava, device="gpu")({"image": pictures[:1]})
    with pytest.raises(UsageError, match=r"this machine has \d+ CUDA devices"):
        Captioner(random_llava, device="cuda:63")({"image": pictures[:1]})


def test_a_folder_that_was_written_anew_is_loaded_anew(random_llava: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "mine"
    shutil.copytree(random_llava, folder)
    row = {"image": Image.new("RGB", (50, 9))}
    captioner = Captioner(folder)
    before = captioner(row)[captioner.caption_column]
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.flip(0) for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert captioner(row)[captioner.caption_column] != before
    assert sum(Path(key.source) == folder for key in engine._LOADED) == 1, "the old weights stay in memory"


def test_an_engine_says_how_much_it_generated_and_why_it_ended(pictures: list[bytes]) -> None:
    captioner = Captioner("tiny-llava")
    model = engine.loaded(captioner.model_key("cpu"))
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures[:4]]

    def reasons(**settings: Any) -> list[engine.Generated]:
        request = replace(captioner, **settings).request
        found = model.generate(images, ["", "", "", ""], request)
        return [answer for answer in found if isinstance(answer, engine.Generated)]

    whole, cut, short = reasons(), reasons(sentence_stop=True), reasons(max_new_tokens=1)
    assert [answer.finish_reason for answer in whole] == ["stop"] * 4
    assert {answer.finish_reason for answer in cut} <= {"stop", "sentence"}
    assert [answer.finish_reason for answer in short] == ["length"] * 4
    assert [answer.tokens for answer in short] == [1] * 4
    for shorter, longer in zip(cut, whole, strict=True):
        assert longer.text.startswith(shorter.text)
        assert (shorter.tokens or 0) <= (longer.tokens or 0) <= captioner.max_new_tokens
