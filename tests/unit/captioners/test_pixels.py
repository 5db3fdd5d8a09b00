"""Lean pixels: the floats of transformers' image processors, bit by bit, from bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import LlavaImageProcessorPil

from hf_mllm_aug.captioners.prompters.pixels import lean, scaling_of, suits
from hf_mllm_aug.mllms.minigpt4_processing import MiniGPT4ImageProcessor
from hf_mllm_aug.mllms.otter_processing import OtterImageProcessor
from hf_mllm_aug.mllms.qwen_vl_processing import QwenVLImageProcessor

SIZES = [(40, 30), (200, 300), (300, 7), (64, 64), (1, 1), (2, 90)]
SMALL = {"height": 40, "width": 30}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_pad": True},
    {"do_pad": True, "size": {"height": 96, "width": 96}, "do_center_crop": False},
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_center_crop": False, "size": SMALL, "resample": 2},
    {"size": {"shortest_edge": 20}},  # less than is cropped
    {"image_mean": 0.3, "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 128},
]


def random_pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


def named(name: str) -> Any:
    return getattr(transformers, name)()


@pytest.mark.parametrize(
    "processor",
    [
        *(pytest.param(LlavaImageProcessorPil(**settings), id=f"LLaVA {settings}") for settings in SETTINGS),
        OtterImageProcessor(),
        QwenVLImageProcessor(),
        MiniGPT4ImageProcessor(),
        named("CLIPImageProcessorPil"),
        named("BlipImageProcessorPil"),
        named("SiglipImageProcessorPil"),
        named("ViTImageProcessorPil"),
    ],
)
def test_the_floats_are_those_of_the_image_processor(processor: Any) -> None:
    stand_in = lean(processor)
    for picture in random_pictures():
        expected = processor(images=[picture], return_tensors="pt")["pixel_values"]
        found = stand_in(images=[[picture]], return_tensors="pt")["pixel_values"]
        assert found.dtype == torch.uint8, picture.size
        floats = stand_in.scaling(found)
        assert floats.dtype == torch.float32
        assert torch.equal(floats, expected.to(torch.float32)), picture.size


def test_what_is_out_of_the_ordinary_is_left_to_the_image_processor() -> None:
    whole = LlavaImageProcessorPil(do_center_crop=False, size={"shortest_edge": 32})
    stand_in = lean(whole)
    several = random_pictures()[:2]
    with pytest.raises(ValueError):  # of several sizes there is no one tensor
        stand_in(images=several, return_tensors="pt")
    assert [pixels.dtype for pixels in stand_in(images=several)["pixel_values"]] == [np.float32] * 2
    grey = [picture.convert("L").convert("P") for picture in several[:1]]
    pairs = zip(stand_in(images=grey)["pixel_values"], whole(images=grey)["pixel_values"], strict=True)
    assert all(np.array_equal(found, expected) for found, expected in pairs)
    others: dict[str, Any] = {"do_normalize": False}
    (found,), (expected,) = (each(images=several[:1], **others)["pixel_values"] for each in (stand_in, whole))
    assert np.array_equal(found, expected)
    assert stand_in.size == whole.size
    floats = torch.rand(1, 3, 2, 2)
    assert torch.equal(stand_in.scaling(floats), floats)


_Llava: Any = LlavaImageProcessorPil


class _Darkened(_Llava):  # type: ignore[misc]
    def rescale(self, image: Any, scale: float, **kwargs: Any) -> Any:
        return super().rescale(image, scale / 2, **kwargs)


class _Tiled(_Llava):  # type: ignore[misc]
    def _preprocess(self, images: Any, **kwargs: Any) -> Any:
        return super()._preprocess([*images, *images], **kwargs)


@pytest.mark.parametrize(
    "processor",
    [
        _Darkened(),
        _Tiled(),
        named("Idefics3ImageProcessorPil"),
        named("Qwen2VLImageProcessorPil"),
        named("LlavaNextImageProcessorPil"),
        named("Pix2StructImageProcessorPil"),
        named("CLIPImageProcessorPil").__class__(do_pad=True, pad_size={"height": 300, "width": 300}),
        LlavaImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 40}),
        LlavaImageProcessorPil(do_pad=True, image_mean=[1.5, 0, 0]),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_image_processors_with_steps_of_their_own_are_used_as_they_are(processor: Any) -> None:
    assert not suits(processor)
    assert lean(processor) is processor
    assert scaling_of(processor) is None
