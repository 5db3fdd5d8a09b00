"""`to_rgb` on what the web has."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb

# Pillow warns about the EXIF that the tests break on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    width, height = size
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_paths_bytes_pictures_and_dictionaries_give_the_same(tmp_path: Path) -> None:
    data = encoded(noise())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    forms: list[Any] = [
        path,
        str(path),
        data,
        bytearray(data),
        noise(),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": data, "path": "elsewhere/gone.png"},
        {"path": str(path)},
    ]
    for form in forms:
        image = to_rgb(form)
        assert image.mode == "RGB"
        assert image.tobytes() == noise().tobytes(), form


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "RGB", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = to_rgb(
        noise(mode="L").convert(mode) if mode not in ("I;16",) else noise(mode="L").convert("I").convert(mode)
    )
    assert (image.mode, image.size) == ("RGB", (64, 48))


def test_cmyk_jpeg() -> None:
    image = to_rgb(encoded(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = image.getpixel((5, 5))  # type: ignore[misc]
    assert red > 200
    assert green < 60
    assert blue < 60


def test_transparent_parts_are_white_and_half_transparent_ones_half() -> None:
    layer = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    layer.putpixel((1, 0), (255, 0, 0, 255))
    layer.putpixel((2, 0), (0, 0, 0, 128))
    image = to_rgb(encoded(layer))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == (255, 0, 0)
    assert image.getpixel((2, 0)) == (127, 127, 127)
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((0, 0), 0)
    image = to_rgb(encoded(palette, transparency=0))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    image = to_rgb(encoded(grey))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]
    image = to_rgb(encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)), "TIFF"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert to_rgb(data).getpixel((4, 4)) == (255, 0, 0)


def test_one_pixel() -> None:
    assert to_rgb(encoded(Image.new("RGB", (1, 1), "red"))).size == (1, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened)
        assert to_rgb(data).tobytes() == expected.tobytes()
        assert to_rgb(opened).size == expected.size


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12"]
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    assert to_rgb(encoded(noise(), "JPEG", exif=exif)).size == (64, 48)


def test_what_datasets_decodes_and_what_we_decode_have_equal_pixels() -> None:
    from datasets import Image as ImageFeature

    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (encoded(noise((301, 203)), "JPEG", exif=exif), encoded(noise(mode="RGBA")), encoded(noise(), "GIF")):
        decoded = ImageFeature().decode_example({"bytes": data, "path": None})
        assert to_rgb(data).tobytes() == to_rgb(decoded).tobytes()


JPEG = encoded(noise((200, 100)), "JPEG")
PNG = encoded(noise((200, 100)))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("cut.jpg", JPEG[: len(JPEG) // 2], "cut.jpg: truncated picture"),
        ("cut.png", PNG[: len(PNG) // 2], "cut.png: truncated picture"),
        ("cut.gif", encoded(noise(), "GIF")[:-900], "cut.gif: truncated picture"),
        ("cut.webp", encoded(noise(), "WEBP")[:200], "cut.webp: "),
        ("head.png", PNG[:20], "head.png: "),
        ("empty.jpg", b"", "empty.jpg: the file is empty"),
        ("page.jpg", b"<html>not found</html>", "page.jpg: not a picture in a known format"),
        ("bomb.png", png_header(20_000, 20_000), "bomb.png: too many pixels: 20,000 x 20,000, more than 89,478,485"),
        ("strip.png", encoded(Image.new("L", (2010, 10))), "strip.png: too thin: 2,010 x 10"),
        ("eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "eps.jpg: not a picture in a known format"),
        ("one.jpg", b"\xff", "one.jpg: not a picture in a known format"),
    ],
)
def test_the_reason_names_what_is_wrong_and_no_directory(name: str, data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    messages = set()
    for form in (path, {"bytes": data, "path": str(path)}, {"bytes": None, "path": str(path)}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ImageError) as caught:
                to_rgb(form)
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert message.startswith(reason)
    assert str(tmp_path) not in message
    assert "0x" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no picture"),
        ({"bytes": None, "path": None}, "no picture"),
        ({"url": "x"}, "no picture: neither bytes nor a path"),
        (7, "not a picture but a value of type int"),
        ("/nowhere/at/all/x.jpg", "x.jpg: no such file"),
        ("zip://a.png::/nowhere/x.zip", "a.png: no such file"),
        ("/dev/zero", "zero: not a file"),
        ("nosuch://host/dir/x.jpg?size=2", "x.jpg: addresses of this kind are not opened"),
    ],
)
def test_what_is_no_picture_is_said(value: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=f"^{reason}") as caught:
        to_rgb(value)
    assert "/nowhere" not in str(caught.value)


def test_limits_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with pytest.raises(ImageError, match=r"too many pixels: 200 x 100, more than 19,999"):
        to_rgb(PNG, max_pixels=19_999)
    with pytest.raises(ImageError, match=r"a\.png: too large a file: more than 100 bytes"):
        to_rgb(path, max_bytes=100)
    assert to_rgb(PNG, max_pixels=20_000).size == (200, 100)


def test_a_decoded_picture_over_the_limit_is_refused_too() -> None:
    with pytest.raises(ImageError, match="too many pixels"):
        to_rgb(Image.new("L", (9460, 9460)))


def test_pillows_settings_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(PNG).size == (200, 100)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before


def test_the_callers_picture_is_not_changed() -> None:
    mine = noise()
    to_rgb(mine).putpixel((0, 0), (1, 2, 3))
    assert mine.tobytes() == noise().tobytes()


def test_random_damage_never_raises_anything_else() -> None:
    draw = np.random.default_rng(1)
    kinds = [encoded(noise(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM")]
    for round_ in range(400):
        data = bytearray(kinds[round_ % len(kinds)])
        for _ in range(int(draw.integers(1, 12))):
            data[int(draw.integers(0, min(len(data), 400)))] = int(draw.integers(0, 256))
        message = ""
        try:
            mode = to_rgb(bytes(data)).mode
        except ImageError as error:
            mode, message = "RGB", str(error)
        assert mode == "RGB", round_
        assert "0x" not in message, round_


def test_a_reason_is_short_and_quick_however_long_the_path() -> None:
    start = time.monotonic()
    for path in (
        "x" * 20_000,
        "x" * 200_000 + "/a.png",
        f"hf://{'y' * 200_000}",
        "/".join(["zz"] * 50_000),
        "<" * 200_000,
    ):
        with pytest.raises(ImageError) as caught:
            to_rgb(path)
        assert len(str(caught.value)) < 350
    assert time.monotonic() - start < 1
