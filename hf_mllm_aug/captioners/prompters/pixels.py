"""Pictures -> pixels, the way most image processors have it, in fewer steps.

An image processor of transformers' PIL back end resizes a picture by way of two copies as an array, and hands out
float32 pixels, scaled and normalised on the CPU. `LeanPixels` stands in its place where it does nothing else than to
pad to a square, resize, crop, rescale and normalise: it resizes the picture as it is and hands out the bytes, a
quarter of the memory to be copied to an accelerator, where `Scaling` makes the same floats of them, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

if TYPE_CHECKING:
    from PIL import Image as PilImage

_PilBackend: Any = PilBackend  # transformers' own types are incomplete
_Llava: Any = LlavaImageProcessorPil

# What a class may not do in its own way.
_STEPS = (
    *("__call__", "preprocess", "_preprocess_image_like_inputs", "_prepare_image_like_inputs", "process_image"),
    *("resize", "center_crop", "rescale", "normalize", "_standardize_kwargs"),
)
_SIZES = ({"height", "width"}, {"shortest_edge"})


@dataclass(frozen=True)
class Scaling:
    """What is done to the bytes of pictures: ``(byte * factor - mean) / deviation``.

    Args:
        factor: Such as 1/255; 1.0 where bytes are not rescaled.
        mean: (3,) one a channel; zeros where pixels are not normalised.
        deviation: (3,)

    >>> half = Scaling(1 / 255, (0.5,) * 3, (0.5,) * 3)
    >>> half(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1))[:, 0, 0, 0]
    tensor([-1.,  1.])
    """

    factor: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale.

        Args:
            pixels: (..., 3, height, width) bytes, on any device; anything else is given back as it is.

        Returns:
            The same shape as float32, the values that transformers computes in numpy.
        """
        if pixels.dtype != torch.uint8:
            return pixels
        if self.factor == 1.0:
            floats = pixels.to(torch.float32)
        elif pixels.device.type == "mps":  # has no float64, in which numpy multiplies
            return self(pixels.cpu()).to(pixels.device)
        else:
            floats = (pixels.to(torch.float64) * self.factor).to(torch.float32)
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device).reshape(3, 1, 1)
            for values in (self.mean, self.deviation)
        )
        return floats.sub_(mean).div_(deviation)


class LeanPixels:
    """In place of an image processor that it knows: the same pictures as bytes.

    Args:
        processor: For which `suits` is true.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        settings = self._settings()
        rescale, normalise = settings["do_rescale"], settings["do_normalize"]
        self.scaling = Scaling(
            float(settings["rescale_factor"]) if rescale else 1.0,
            _channels(settings["image_mean"]) if normalise else (0.0,) * 3,
            _channels(settings["image_std"]) if normalise else (1.0,) * 3,
        )

    def __getattr__(self, name: str) -> Any:
        """What a processor asks of its image processor, and what configurations are saved from."""
        if name.startswith("__") or name == "_processor":
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __call__(self, images: Any, return_tensors: Any = None, **others: Any) -> Any:
        """As an image processor, but for the pixels' type.

        Returns:
            ``pixel_values`` (n, 3, height, width) uint8 of RGB pictures that all come out in one size; anything else is
            left to the image processor, settings that come with the call as well.
        """
        flat = list(_flat(images))
        if flat and not others and all(isinstance(each, Image.Image) and each.mode == "RGB" for each in flat):
            settings = self._settings()
            pixels = [self._pixels(each, settings) for each in flat]
            if len({each.shape for each in pixels}) == 1:
                return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)
        return self._processor(images, return_tensors=return_tensors, **others)

    preprocess = __call__

    def _settings(self) -> dict[str, Any]:
        """The settings as the image processor itself would complete them."""
        names = self._processor._valid_kwargs_names
        settings: dict[str, Any] = self._processor._standardize_kwargs(
            **{name: getattr(self._processor, name, None) for name in names}
        )
        return settings

    def _pixels(self, image: PilImage.Image, settings: dict[str, Any]) -> np.ndarray:
        if settings.get("do_pad"):
            image = _squared(image, settings["image_mean"])
        if settings["do_resize"]:
            height, width = _size(image, settings["size"])
            image = image.resize((width, height), resample=settings["resample"])
        pixels = np.moveaxis(np.asarray(image), -1, 0)
        if settings["do_center_crop"]:
            pixels = self._processor.center_crop(pixels, settings["crop_size"])
        return pixels


def lean(processor: Any) -> Any:
    """`LeanPixels` in place of an image processor, where it suits; else the image processor."""
    return LeanPixels(processor) if suits(processor) else processor


def scaling_of(image_processor: Any) -> Scaling | None:
    """What is left to be done to the pixels of an image processor, or of its stand-in."""
    return image_processor.scaling if isinstance(image_processor, LeanPixels) else None


def suits(processor: Any) -> bool:
    """Whether an image processor does the common steps and no other.

    Its class must take every step from transformers' PIL back end as it is there, or be LLaVA's, which can pad pictures
    to a square before them.
    """
    kind: Any = type(processor)
    if not issubclass(kind, _PilBackend) or any(
        getattr(kind, step) is not getattr(_PilBackend, step) for step in _STEPS
    ):
        return False
    pads = kind._preprocess is _Llava._preprocess and kind.pad_to_square is _Llava.pad_to_square
    if not pads and (processor.do_pad or kind._preprocess is not _PilBackend._preprocess):
        return False
    return _is_plain(processor)


def _is_plain(processor: Any) -> bool:
    """Whether the settings are of the usual kinds."""
    size = dict(processor.size or {})
    mean, deviation = _channels(processor.image_mean), _channels(processor.image_std)
    return bool(
        (not processor.do_resize or (set(size) in _SIZES and isinstance(processor.resample, int)))
        and (not processor.do_normalize or len(mean) == len(deviation) == 3)
        and (not processor.do_pad or (len(mean) == 3 and all(0 <= value <= 1 for value in mean)))
        and (processor.do_rescale or processor.do_normalize)
    )


def _channels(values: Any) -> tuple[float, ...]:
    if values is None:
        return ()
    return tuple(float(value) for value in values) if isinstance(values, Iterable) else (float(values),) * 3


def _flat(images: Any) -> Iterable[Any]:
    """One picture, or pictures, each maybe in a list of its own."""
    if not isinstance(images, (list, tuple)):
        return [images]
    return [inner for each in images for inner in (each if isinstance(each, (list, tuple)) else [each])]


def _squared(image: PilImage.Image, mean: Sequence[float]) -> PilImage.Image:
    """The picture in the middle of a square of the mean colour, as LLaVA's own code pads it."""
    side = max(image.size)
    if image.width == image.height:
        return image
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _size(image: PilImage.Image, size: Any) -> tuple[int, int]:
    """Height and width after resizing, by transformers' own rules."""
    if not size.shortest_edge:
        return size.height, size.width
    # The rule is for arrays; this one has no memory behind it, and tells its shape only.
    shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))
    first = ChannelDimension.FIRST
    height, width = get_resize_output_image_size(shape, size.shortest_edge, False, input_data_format=first)
    return height, width
