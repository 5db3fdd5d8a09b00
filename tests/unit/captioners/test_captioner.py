"""A `Captioner` as settings and as a function, on tiny models with random weights."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners import PRESETS, Captioner, Preset, engine, presets, register
from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.captioners.engine import ModelKey, Request
from hf_mllm_aug.errors import (
    CaptionError,
    CheckpointError,
    ColumnError,
    ImageError,
    UnknownNameError,
    UsageError,
)

BROKEN = b"<html>"


class FakeEngine:
    """Says the size of each picture; refuses pictures that are 13 wide, and short of memory above `fits` pictures."""

    def __init__(self) -> None:
        self.max_batch: int | None = None
        self.calls: list[int] = []
        self.answers: Sequence[str | ImageError] | None = None

    def generate(
        self, images: Sequence[Image.Image], keys: Sequence[str], request: Request
    ) -> Sequence[str | ImageError]:
        self.calls.append(len(images))
        if self.answers is not None:
            return self.answers
        return [ImageError("refused") if i.width == 13 else f" a picture {i.width} wide. " for i in images]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    found = FakeEngine()
    monkeypatch.setattr(engine, "loaded", lambda key: found)
    return found


def pictures_of(*widths: int) -> list[Any]:
    return [Image.new("RGB", (width, 9)) for width in widths]


@pytest.fixture
def own_preset() -> Iterator[Preset]:
    preset = Preset("mine-2", "me/mine", "What is <image>?", "A test.", "MIT", "@misc{}", decoding={"num_beams": 3})
    register(preset)
    yield preset
    presets._PRESETS.pop("mine-2", None)


# Settings


def test_columns_bear_the_captioners_name(tmp_path: Path) -> None:
    assert Captioner("llava-1.5").caption_column == "caption_llava_1_5"
    assert Captioner("org/Some-VLM.7b").error_column == "error_org_some_vlm_7b"
    assert Captioner(tmp_path).caption_column == f"caption_{tmp_path.name}"
    assert Captioner("llava-1.5", name="LLaVA, asked twice").caption_column == "caption_llava_asked_twice"
    assert Captioner(output_column="text").caption_column == "text"


@pytest.mark.parametrize("name", ["minigpt-4", "qwen-vl", "otter"])
def test_the_papers_other_models_are_known_to_be_missing(name: str) -> None:
    with pytest.raises(UsageError, match=rf"captioner '{name}'.* has no modelling code for it"):
        Captioner(name)


def test_an_unknown_captioner_is_offered_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"'lava-1\.5': did you mean 'llava-1\.5'\?") as caught:
        Captioner("lava-1.5")
    assert caught.value.nearest == "llava-1.5"
    with pytest.raises(UsageError, match="there is no such folder"):
        Captioner("/nowhere/model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "transformer"}, "unknown engine 'transformer': did you mean 'transformers'"),
        ({"dtype": "fp16"}, "unknown dtype 'fp16'"),
        ({"on_error": "skip"}, "unknown on_error 'skip'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be an integer of 1 or more"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"prompt": "<image> and <image>"}, "more than once"),
        ({"output_column": "image"}, "output_column='image'"),
        ({"name": "模型"}, "pass name="),
        ({"generation": {"temprature": 0.2}}, "unknown generation parameter 'temprature': did you mean 'temperature'"),
        ({"generation": {"temperature": 0.2}}, "temperature has no effect without do_sample=True"),
        ({"generation": {"do_sample": True, "temperature": 0}}, "must be above 0; for greedy"),
        ({"generation": {"do_sample": True, "top_p": 1.5}}, "top_p=1.5"),
        ({"generation": {"do_sample": True, "num_beams": 2}}, "sampling from beams"),
        ({"generation": {"max_new_tokens": 5}}, "pass max_new_tokens to Captioner itself"),
        ({"generation": {"repetition_penalty": 0}}, "repetition_penalty=0"),
        ({"generation": {"no_repeat_ngram_size": 1.5}}, "no_repeat_ngram_size=1.5"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Captioner(**arguments)


def test_unknown_arguments_are_not_swallowed() -> None:
    with pytest.raises(TypeError, match="temperature"):
        Captioner(temperature=0.2)  # type: ignore[call-arg]


def test_every_decoding_parameter_is_described(own_preset: Preset) -> None:
    described = Captioner("mine-2", generation={"length_penalty": 0.5}, seed=4).describe()
    assert NEUTRAL.keys() <= described["decoding"].keys()
    assert (described["decoding"]["num_beams"], described["decoding"]["length_penalty"]) == (3, 0.5)
    assert (described["decoding"]["seed"], described["decoding"]["max_new_tokens"]) == (4, 30)
    assert (described["model"], described["licence"], described["prompt"]) == ("me/mine", "MIT", "What is <image>?")


def test_a_description_bears_no_path(random_llava: Path) -> None:
    described = str(Captioner(random_llava).describe()) + str(Captioner().describe())
    assert "random-llava" in described
    assert str(random_llava.parent) not in described
    assert str(Path(engine.__file__).parent) not in described


def test_names_of_presets_are_unique_and_no_paths(own_preset: Preset) -> None:
    with pytest.raises(UsageError, match="'mine-2' is registered already"):
        register(own_preset)
    with pytest.raises(UsageError, match="slash"):
        register(replace(own_preset, name="a/b"))


def test_the_papers_decoding_is_recorded() -> None:
    preset = PRESETS["llava-1.5"]
    captioner = Captioner("llava-1.5", generation=preset.published_decoding)
    decoding = captioner.describe()["decoding"]
    assert (decoding["do_sample"], decoding["temperature"], decoding["top_k"], decoding["top_p"]) == (True, 0.2, 0, 1.0)
    assert Captioner("llava-1.5").describe()["decoding"]["do_sample"] is False


# Rows


def test_a_batch_gives_lists_and_an_example_gives_scalars(fake: FakeEngine) -> None:
    assert Captioner()({"image": pictures_of(5, 6)}) == {
        "caption_tiny_llava": ["a picture 5 wide.", "a picture 6 wide."],
        "error_tiny_llava": [None, None],
    }
    assert Captioner()({"image": pictures_of(5)[0]}) == {
        "caption_tiny_llava": "a picture 5 wide.",
        "error_tiny_llava": None,
    }
    assert Captioner()({"image": []}) == {"caption_tiny_llava": [], "error_tiny_llava": []}


def test_bad_rows_are_null_with_a_reason_and_the_others_keep_their_captions(fake: FakeEngine) -> None:
    images = [*pictures_of(5, 13), BROKEN, None, *pictures_of(6)]
    batch = Captioner(batch_size=2)({"image": images})
    assert batch["caption_tiny_llava"] == ["a picture 5 wide.", None, None, None, "a picture 6 wide."]
    assert batch["error_tiny_llava"] == [None, "refused", "not a picture in a known format", "no picture", None]


def test_a_text_of_nothing_is_a_failure(fake: FakeEngine) -> None:
    fake.answers = ["  "]
    assert Captioner()({"image": pictures_of(5)})["error_tiny_llava"] == ["the model wrote nothing"]


def test_with_raise_the_bad_row_is_named(fake: FakeEngine) -> None:
    images = [*pictures_of(5), BROKEN]
    with pytest.raises(CaptionError, match=r"tiny-llava: row 'k1': not a picture"):
        Captioner(on_error="raise")({"image": images, "key": ["k0", "k1"]})
    with pytest.raises(CaptionError, match="row 1 of the batch"):
        Captioner(on_error="raise")({"image": images})


def test_an_engine_that_gives_another_number_of_captions_is_caught(fake: FakeEngine) -> None:
    fake.answers = ["a", "b", "c"]
    with pytest.raises(CaptionError, match="gave 3 captions for 2 pictures"):
        Captioner()({"image": pictures_of(5, 6)})


def test_the_micro_batch_is_the_captioners_and_shrinks_when_memory_is_short(fake: FakeEngine) -> None:
    Captioner(batch_size=4)({"image": pictures_of(*range(20, 30))})
    assert fake.calls == [4, 4, 2]
    fake.calls.clear()
    fake.max_batch = 3
    Captioner(batch_size=4)({"image": pictures_of(*range(20, 28))})
    assert fake.calls == [3, 1, 3, 1]


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ColumnError, match=r"no column 'image'; the data set has: img, text. To do: pass image_column="):
        Captioner()({"img": [1], "text": ["a"]})


@pytest.mark.parametrize("passed", [[b"x"], pictures_of(4)[0]])
def test_input_columns_are_refused_with_advice(passed: Any) -> None:
    with pytest.raises(UsageError, match="drop input_columns="):
        Captioner()(passed)


def test_indices_are_refused_with_advice(fake: FakeEngine) -> None:
    with pytest.raises(UsageError, match="drop with_indices=True"):
        Captioner()({"image": pictures_of(5)}, [0])  # type: ignore[arg-type]


def test_each_rank_has_its_own_device(monkeypatch: pytest.MonkeyPatch, fake: FakeEngine) -> None:
    from hf_mllm_aug.captioners import transformers_engine

    keys: list[ModelKey] = []

    def loaded(key: ModelKey) -> FakeEngine:
        keys.append(key)
        return fake

    monkeypatch.setattr(engine, "loaded", loaded)
    monkeypatch.setattr(transformers_engine, "count_cuda_devices", lambda: 2)
    for rank in (0, 1, 2, None):
        Captioner()({"image": pictures_of(5)}, rank)
    Captioner(device="cpu")({"image": pictures_of(5)}, 1)
    assert [key.device for key in keys] == ["cuda:0", "cuda:1", "cuda:0", None, "cpu"]


# Identity


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


# Models


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


def test_when_memory_is_short_the_micro_batch_is_halved(
    random_llava: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    captioner = Captioner(random_llava, batch_size=8)
    column = captioner.caption_column
    expected = captioner({"image": pictures[:10]})[column]
    model: Any = engine.loaded(captioner.model_key(None))
    original, sizes = model._decode, []

    def short_of_memory(inputs: Any, keys: Any, request: Any) -> Any:
        sizes.append(len(keys))
        if len(keys) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(inputs, keys, request)

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
    row = {"image": pictures_of(50)[0]}
    captioner = Captioner(folder)
    before = captioner(row)[captioner.caption_column]
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.flip(0) for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert captioner(row)[captioner.caption_column] != before
    assert sum(Path(key.source) == folder for key in engine._LOADED) == 1, "the old weights stay in memory"


def test_the_hash_sees_the_version_that_finds_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, plain = Captioner(sentence_stop=True), Captioner()
    before = hashed(stopping), hashed(plain)
    monkeypatch.setattr("hf_mllm_aug.captioners.identity.version", lambda name: "0.0.1")
    assert hashed(stopping) != before[0]
    assert hashed(plain) == before[1]


def test_a_batch_may_hold_tuples(fake: FakeEngine) -> None:
    captioner = Captioner(name="otter")
    assert captioner({"image": tuple(pictures_of(20, 21))}) == captioner({"image": pictures_of(20, 21)})
