"""Static caches: which shapes there are, and that captions are those of the dynamic cache.

`torch.compile` is told to compile nothing here, so that all but the compiler's own work is tested in seconds;
`tests/integration/test_compiled_decoding.py` compiles.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import StaticCache

from hf_mllm_aug.captioners import Captioner, engine, static_cache
from hf_mllm_aug.captioners.engine import Generated
from hf_mllm_aug.captioners.static_cache import MAX_SHAPES, WARM_UP, Shape, choose, why_not
from hf_mllm_aug.demo import __file__ as demo
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.images import to_rgb
from tests.tiny_mllms import MAKERS

MINIATURES = ("tiny-llava", "tiny-minigpt-4", "tiny-qwen-vl", "tiny-otter")
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_p": 0.95}


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    """Nothing is compiled, models have one lane, and none of another test is in memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine.unload()
    with torch.compiler.set_stance("force_eager"):
        yield
    engine.unload()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    files = sorted((Path(demo).parent / "demo_data").glob("*.png"))[:11]
    return [to_rgb(file.read_bytes()) for file in files]


def loaded(captioner: Captioner) -> Any:
    return engine.loaded(captioner.model_key("cpu"))


def texts(captioner: Captioner, photos: Sequence[Image.Image]) -> list[Generated]:
    """What a model generates of the photos in one micro-batch."""
    keys = [f"key {number}" for number in range(len(photos))]
    found: list[Generated] = loaded(captioner).generate(photos, keys, captioner.request)
    return found


def spied(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[dict[str, Any]]:
    """Keeps what `generate` of the model is called with."""
    original, calls = model._model.generate, []

    def generate(**given: Any) -> Any:
        calls.append(given)
        return original(**given)

    monkeypatch.setattr(model._model, "generate", generate)
    return calls


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package has logged."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("hf_mllm_aug")]


def test_a_smaller_batch_takes_the_smallest_shape_that_it_fills_by_more_than_half() -> None:
    known = [Shape(48, 640), Shape(8, 640)]
    assert choose(known, 48, 640) == choose(known, 25, 1) == Shape(48, 640)
    assert choose(known, 5, 600) == Shape(8, 640)
    assert choose(known, 24, 600) is None
    assert choose(known, 4, 600) is None


def test_however_batches_and_prompts_vary_there_are_few_compilations() -> None:
    class Model(torch.nn.Linear):
        device = torch.device("cpu")

    decoding = static_cache.StaticDecoding(Model(1, 1))
    decoding._able = True
    request = Captioner(compile=True).request
    made = set()
    for rows in (1, 8, 3, 64, 33, 65, 200, 48, 201, 7):
        for length in (5, 900, 70, 1000, 2000, 64):
            shape = decoding._shape({"input_ids": torch.zeros(rows, length)}, rows, request)
            if shape is not None and shape not in decoding.shapes:
                decoding._caches[shape] = None
                decoding._compilations += 1
                made.add(shape)
    assert 0 < len(made) <= MAX_SHAPES


@pytest.mark.parametrize("name", MINIATURES)
@pytest.mark.parametrize("generation", [None, SAMPLED], ids=["greedy", "sampled"])
def test_captions_are_those_of_the_dynamic_cache(
    name: str, generation: dict[str, Any] | None, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Captioner(name, generation=generation, device="cpu")
    static = replace(plain, compile=True)
    calls = spied(monkeypatch, loaded(static))
    # The second call has the same shape, the third is filled up, and the last is too small for that.
    for count, stop in ((6, False), (6, True), (4, True), (2, False)):
        wanted = texts(replace(plain, sentence_stop=stop), photos[3 : 3 + count])
        assert texts(replace(static, sentence_stop=stop), photos[3 : 3 + count]) == wanted
    caches = [call.get("past_key_values") for call in calls[1::2]]
    assert caches[0] is not None
    assert all(cache is caches[0] for cache in caches[:3]), "the cache of a shape is not used again"
    assert caches[3] is None
    assert [call["pixel_values"].shape[0] for call in calls[1::2]] == [6, 6, 6, 2]
    assert loaded(static)._static.shapes == (Shape(6, caches[0].layers[0].max_cache_len),)


@pytest.mark.parametrize("name", MAKERS)
def test_so_are_those_of_the_papers_mllms_with_random_weights(
    name: str, tmp_path: Path, photos: list[Image.Image]
) -> None:
    plain = Captioner(name, checkpoint=MAKERS[name](tmp_path / name), device="cpu", max_new_tokens=40)
    static = replace(plain, compile=True)
    assert texts(static, photos[:7]) == texts(plain, photos[:7])
    assert texts(static, photos[7:]) == texts(plain, photos[7:])
    assert loaded(static)._static.shapes


def test_prompts_of_several_lengths_need_no_padding_of_rows(random_qwen2_vl: Path, photos: list[Image.Image]) -> None:
    """Qwen2-VL's patches are one axis for all pictures, so a batch cannot be filled up; others have longer prompts."""
    plain = Captioner(random_qwen2_vl, device="cpu", max_new_tokens=9)
    static = replace(plain, compile=True)
    small = [photo.resize((56, 28 + 28 * (number % 2))) for number, photo in enumerate(photos)]
    large = [photo.resize((112, 112)) for photo in photos]
    for images in (small[:4], small[:3], large[:4], small[4:8]):
        assert texts(static, images) == texts(plain, images)
    assert {shape.rows for shape in loaded(static)._static.shapes} == {4}


def test_a_cpu_is_not_asked_to_compile_unless_somebody_says_so(
    photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    for choice in (None, False):
        captioner = Captioner("tiny-llava", device="cpu", compile=choice)
        calls = spied(monkeypatch, loaded(captioner))
        for _ in range(WARM_UP + 1):
            texts(captioner, photos[:1])
        assert len(calls) == WARM_UP + 1
        assert not any("past_key_values" in call for call in calls)
        assert all(call["generation_config"].compile_config is None for call in calls)


def test_a_gpu_compiles_after_a_while_and_with_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(Captioner("tiny-llava", device="cpu"))._model
    decoding = static_cache.StaticDecoding(model)
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    request, inputs = Captioner().request, {"input_ids": torch.zeros(8, 71)}
    found = []
    for _ in range(WARM_UP + 1):
        decoding._calls += 1
        found.append(decoding._shape(inputs, 8, request))
    assert found == [None] * WARM_UP + [Shape(8, 128)]
    config = decoding._compile_config()
    assert (config.mode, config.dynamic) == ("reduce-overhead", False)
    assert decoding._shape(inputs, 8, replace(request, compile=False)) is None
    beams = Captioner(generation={"num_beams": 3}).request
    assert decoding._shape(inputs, 8, beams) is None


def test_models_that_cannot_are_decoded_as_ever(
    photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration, T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "vocab_size": 9}
    assert why_not(T5ForConditionalGeneration(T5Config(**sizes))) == "the model is an encoder-decoder"
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    blip: Any = BlipConfig
    model: Any = BlipForConditionalGeneration
    assert "cannot compile a BlipFor" in (
        why_not(model(blip(text_config={**tiny, "vocab_size": 9}, vision_config=tiny))) or ""
    )
    captioner = Captioner("tiny-llava", device="cpu", compile=True)
    plain = texts(replace(captioner, compile=None), photos[:2])
    monkeypatch.setattr(type(loaded(captioner)._model), "_can_compile_fullgraph", False)
    with caplog.at_level(logging.WARNING, "hf_mllm_aug"):
        assert [texts(captioner, photos[:2]) for _ in range(2)] == [plain, plain]
    assert said(caplog) == ["decoding is not compiled: transformers cannot compile a LlavaForConditionalGeneration"], (
        "said once"
    )


def failing(model: Any, error: Exception) -> None:
    """Steps with a static cache fail for more than two rows."""

    def fail(_: Any, args: Any, given: dict[str, Any]) -> None:
        cache = given.get("past_key_values")
        if isinstance(cache, StaticCache) and cache.get_seq_length() > 0 and given["input_ids"].shape[0] > 2:
            raise error

    model._model.register_forward_pre_hook(fail, with_kwargs=True)


def test_when_compiling_fails_no_row_is_lost_and_it_is_said_once(
    photos: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    captioner = Captioner("tiny-llava", device="cpu", compile=True, generation=SAMPLED)
    plain = texts(replace(captioner, compile=None), photos)
    model = loaded(captioner)
    failing(model, NotImplementedError("no such operation"))
    with caplog.at_level(logging.WARNING, "hf_mllm_aug"):
        assert texts(captioner, photos) == plain
        assert texts(captioner, photos) == plain
    assert said(caplog) == [
        "compiled decoding failed and is left; the captions are the same without it: no such operation"
    ]
    assert model._static.shapes == (), "the cache's memory is not given back"


def test_a_mistake_of_the_callers_is_no_failure_of_compiling(
    photos: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    captioner = Captioner("tiny-llava", device="cpu", compile=True)
    failing(loaded(captioner), UsageError("not so"))
    with pytest.raises(UsageError, match="not so"):
        texts(captioner, photos)
    assert not said(caplog)


def test_when_memory_is_short_the_halves_have_a_shape_of_their_own(photos: list[Image.Image]) -> None:
    captioner = Captioner("tiny-llava", device="cpu", compile=True)
    plain = texts(replace(captioner, compile=None), photos[:4])
    model = loaded(captioner)
    failing(model, torch.OutOfMemoryError("CUDA out of memory"))
    assert texts(captioner, photos[:4]) == plain
    assert model.max_batch == 2
    assert [shape.rows for shape in model._static.shapes] == [2]
