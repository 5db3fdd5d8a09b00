"""A `Captioner` as settings: what can be said, what is refused, what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_mllm_aug.captioners import Captioner, Preset, engine
from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.errors import UnknownNameError, UsageError


def test_columns_bear_the_captioners_name(tmp_path: Path) -> None:
    assert Captioner("llava-1.5").caption_column == "caption_llava_1_5"
    assert Captioner("org/Some-VLM.7b").error_column == "error_org_some_vlm_7b"
    assert Captioner(tmp_path).caption_column == f"caption_{tmp_path.name}"
    assert Captioner("llava-1.5", name="LLaVA, asked twice").caption_column == "caption_llava_asked_twice"
    assert Captioner(output_column="text").caption_column == "text"


def test_an_unknown_captioner_is_offered_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"'lava-1\.5': did you mean 'llava-1\.5'\?") as caught:
        Captioner("lava-1.5")
    assert caught.value.nearest == "llava-1.5"
    with pytest.raises(UsageError, match="there is no such folder"):
        Captioner("/nowhere/model")
    with pytest.raises(UsageError, match="captioner 'minigpt4': there is no such folder"):
        Captioner("minigpt-4", checkpoint="minigpt4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "transformer"}, "unknown engine 'transformer': did you mean 'transformers'"),
        ({"dtype": "fp16"}, "unknown dtype 'fp16'"),
        ({"quantization": "int4"}, "unknown quantization 'int4': did you mean 'int8'"),
        ({"compile": "yes"}, "compile='yes' must be True, False or None"),
        ({"on_error": "skip"}, "unknown on_error 'skip'"),
        ({"max_new_tokens": True}, "max_new_tokens=True must be an integer of 1 or more"),
        ({"seed": "x"}, "seed='x' must be an integer"),
        ({"generation": {"do_sample": True, "temperature": "0.2"}}, "generation: temperature='0.2' must be a number"),
        ({"generation": {"repetition_penalty": float("nan")}}, "generation: repetition_penalty=nan must be a number"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be an integer of 1 or more"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"prompt": "<image> and <image>"}, "more than once"),
        ({"prompt_style": "segment"}, "unknown prompt_style 'segment': did you mean 'segments'"),
        ({"preset": "papers"}, "unknown preset variant 'papers': did you mean 'paper'"),
        ({"preset": "otter"}, "unknown preset variant 'otter'.*A captioner's name is the first argument"),
        ({"model": "org/name", "preset": "paper"}, "'org/name' has no variant 'paper'.* Known: .*otter"),
        ({"model": "org/name", "checkpoint": "org/other"}, "checkpoint= goes with a preset's name"),
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


@pytest.mark.parametrize("name", ["org/na--me", "org/name.git", "-org/name", "org/name-", "org/na..me", "org/-name"])
def test_what_the_hub_allows_no_repository_to_be_called_is_taken_for_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        Captioner(name)


def test_a_relative_folder_is_the_same_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    captioner = Captioner("mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert captioner.label == "mine"
    assert captioner.folder == tmp_path / "mine"


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
