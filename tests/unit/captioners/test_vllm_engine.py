"""The engine ``"vllm"``: what vLLM is told, what is made of its answers, and that its functions take what they get."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners import Captioner, engine, vllm_engine
from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.captioners.decoding import resolve
from hf_mllm_aug.captioners.engine import Generated, ModelKey, Request
from hf_mllm_aug.errors import CaptionError, ImageError, UsageError

_INSTALLED = importlib.util.find_spec("vllm") is not None
_SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1}


def request(prompt: str = "Describe <image> in English:", *stops: str, **decoding: Any) -> Request:
    return Request(prompt, resolve(decoding), 30, 7, sentence_stop=False, language="en", clean_up=CleanUp(stops))


@dataclass
class Output:
    """As `vllm.CompletionOutput`."""

    text: str
    token_ids: Sequence[int]
    finish_reason: str | None
    stop_reason: int | str | None = None


@dataclass
class Answer:
    """As `vllm.RequestOutput`."""

    outputs: list[Output]


@dataclass
class Llm:
    """In place of `vllm.LLM`: says the pictures' widths, refuses one that is 13 wide, and dies of one that is 99."""

    calls: list[tuple[str, list[Any], list[dict[str, Any]]]] = field(default_factory=list)

    def generate(self, prompts: list[Any], sampling_params: list[Any], *, use_tqdm: bool) -> list[Answer]:
        return self._answer("generate", prompts, sampling_params, [p["multi_modal_data"]["image"] for p in prompts])

    def chat(self, messages: list[Any], sampling_params: list[Any], use_tqdm: bool) -> list[Answer]:
        parts = [[part for part in turn["content"] if "image_pil" in part] for (turn,) in messages]
        return self._answer("chat", messages, sampling_params, [part["image_pil"] for (part,) in parts])

    def _answer(self, name: str, asked: list[Any], params: list[Any], images: list[Image.Image]) -> list[Answer]:
        self.calls.append((name, asked, params))
        if any(image.width == 99 for image in images):
            raise RuntimeError("the engine is dead")
        if any(image.width == 13 for image in images):
            raise ValueError("a picture of 13 pixels in /models/mine")
        return [Answer([Output(f" {image.width} wide.", [5, 6, 2], "stop")]) for image in images]


def test_greedy_decoding_is_said_whole() -> None:
    assert vllm_engine.sampling_arguments(request(), "k") == {
        "max_tokens": 30,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
    }


def test_sampling_has_the_rows_own_seed_and_the_clean_ups_stops() -> None:
    first, again, other = (
        vllm_engine.sampling_arguments(request("", "###", ".", **_SAMPLING, min_new_tokens=2), key) for key in "aab"
    )
    assert first == again
    assert first["seed"] != other["seed"]
    said = {"temperature": 0.2, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2}
    assert {**said, "stop": ["###", "."]}.items() <= first.items()


def test_the_picture_stands_where_its_mark_does() -> None:
    image = Image.new("RGB", (9, 9))
    raw = vllm_engine.raw_prompt(image, "Describe <image> in English:")
    assert raw == {"prompt": "Describe <image> in English:", "multi_modal_data": {"image": image}}
    assert vllm_engine.raw_prompt(image, "What is it?")["prompt"] == "<image>What is it?"
    (turn,) = vllm_engine.conversation(image, "Describe <image> in English:")
    picture = {"type": "image_pil", "image_pil": image}
    texts = [{"type": "text", "text": text} for text in ("Describe", "in English:")]
    assert turn == {"role": "user", "content": [texts[0], picture, texts[1]]}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (Output(" A dog.", [5, 6, 2], "stop"), Generated("A dog.", 2, "stop")),
        (Output("A dog.", [5, 6, 2], "stop", 2), Generated("A dog.", 2, "stop")),
        (Output("A dog", [5, 6, 7], "stop", "."), Generated("A dog", 3, "sentence")),
        (Output("A dog on", [5, 6, 7], "length"), Generated("A dog on", 3, "length")),
    ],
)
def test_answers_are_read(output: Output, expected: Generated) -> None:
    assert vllm_engine.read_output(Answer([output])) == expected


def test_a_request_that_vllm_has_ended_is_no_caption() -> None:
    error = vllm_engine.read_output(Answer([Output("A", [5], "abort")]))
    assert isinstance(error, ImageError)
    assert "abort" in str(error)


@pytest.mark.parametrize("raw", [True, False])
def test_a_picture_that_is_refused_leaves_its_neighbours_alone(raw: bool) -> None:
    llm = Llm()
    model = vllm_engine.VllmEngine(llm, dict, source="/models/mine", name="mine", raw=raw)
    images = [Image.new("RGB", (width, 9)) for width in (10, 11, 13, 14, 15)]
    found = model.generate(images, list("abcde"), request())
    assert [one.text if isinstance(one, Generated) else None for one in found] == [
        "10 wide.",
        "11 wide.",
        None,
        "14 wide.",
        "15 wide.",
    ]
    assert str(found[2]) == "vLLM refuses the picture: a picture of 13 pixels in mine", "without the path"
    assert {name for name, _, _ in llm.calls} == {"generate" if raw else "chat"}


def test_a_failure_of_vllm_itself_ends_the_call() -> None:
    model = vllm_engine.VllmEngine(Llm(), dict, source="org/name", name="org/name", raw=False)
    with pytest.raises(CaptionError, match="vLLM has failed and captions no more with org/name: the engine is dead"):
        model.generate([Image.new("RGB", (width, 9)) for width in (10, 99)], ["a", "b"], request())


@pytest.mark.skipif(_INSTALLED, reason="vLLM is installed")
def test_without_the_package_the_extra_is_named() -> None:
    captioner = Captioner("llava-1.5", engine="vllm")
    with pytest.raises(UsageError, match=r"needs the package vllm\. To do: pip install 'hf-mllm-aug\[vllm\]'"):
        captioner({"image": [Image.new("RGB", (9, 9))]})
    engine.unload()


@pytest.mark.skipif(not _INSTALLED, reason="vLLM is not installed: it needs a CUDA build of torch")
def test_vllms_functions_take_these_arguments() -> None:
    import vllm

    def takes(function: Any, *places: str, **names: Any) -> None:
        inspect.signature(function).bind(None, *places, **names)

    vllm.SamplingParams(**vllm_engine.sampling_arguments(request("", ".", **_SAMPLING), "k"))
    takes(vllm.LLM.generate, "prompts", "sampling_params", use_tqdm=False)
    takes(vllm.LLM.chat, "messages", "sampling_params", use_tqdm=False)
    named = inspect.signature(vllm.LLM.__init__).parameters
    of_the_engine = inspect.signature(vllm.EngineArgs).parameters
    assert set(vllm_engine.model_arguments(ModelKey("vllm", "org/name"))) <= {*named, *of_the_engine}
