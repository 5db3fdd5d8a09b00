"""Each odd form of picture that the web has, from a real file: its colours, its tones, its first frame, upright."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb

# Pillow warns about what the tests break on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CORNERS = [RED, GREEN, BLUE, WHITE]  # from the upper left, row by row
GREYS = np.linspace(0, 65535, 9).round().astype(np.uint16)[None]
TONES = [0, 32, 64, 96, 128, 159, 191, 223, 255]


def quarters() -> Image.Image:
    """30 x 20 pixels: red, green, blue and white quarters."""
    values = np.zeros((20, 30, 3), np.uint8)
    for place, color in enumerate(CORNERS):
        values[place // 2 * 10 :, place % 2 * 15 :] = 0
        values[place // 2 * 10 : place // 2 * 10 + 10, place % 2 * 15 : place % 2 * 15 + 15] = color
    return Image.fromarray(values)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the quarters, rounded to full or none."""
    width, height = image.size
    pixels: list[Any] = [image.getpixel((int(width * x), int(height * y))) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    return [tuple(round(value / 255) * 255 for value in pixel) for pixel in pixels]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tones(data: bytes | Image.Image) -> list[int]:
    image = to_rgb(data)
    values = np.asarray(image)[0]
    assert (values == values[:, :1]).all(), "grey"
    return [int(value) for value in values[:, 0]]


def png(values: np.ndarray[Any, Any], color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write in all colour types. ``values``: (height, width, ...)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    body = b"".join(
        chunk(*each) for each in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


# --- orientation

# Where each quarter comes to lie when a viewer turns the stored picture as the EXIF says (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_picture_is_turned_once_as_its_exif_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = to_rgb(encoded(quarters(), kind, exif=exif))
    assert image.size == ((30, 20) if orientation < 5 else (20, 30))
    assert corners(image) == UPRIGHT[orientation]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert corners(to_rgb(encoded(quarters(), "JPEG", exif=exif))) == CORNERS


def test_exif_broken_in_any_way_costs_no_picture() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "A description", 72.0
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0hello"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    draw = np.random.default_rng(0)
    for kind in ("JPEG", "WEBP", "MPO"):
        more = {"save_all": True, "append_images": [quarters()]} if kind == "MPO" else {}
        data = encoded(quarters(), kind, exif=exif, **more)
        block = exif.tobytes()[6:]
        start = data.index(block[:8])
        for _ in range(150):
            broken = bytearray(data)
            for place in draw.integers(start, start + len(block), draw.integers(1, 8)):
                broken[place] = draw.integers(0, 256)
            assert sorted(to_rgb(bytes(broken)).size) == [20, 30], bytes(broken)


# --- colours


def test_cmyk_of_jpeg_and_tiff_keeps_its_colours() -> None:
    inks = 255 - np.asarray(quarters())
    cmyk = Image.fromarray(np.concatenate([inks, np.zeros_like(inks[..., :1])], axis=2), mode="CMYK")
    for kind, options in (("JPEG", {"quality": 95}), ("TIFF", {})):
        assert corners(to_rgb(encoded(cmyk, kind, **options))) == CORNERS, kind


def test_what_a_palette_makes_transparent_is_white() -> None:
    palette = quarters().quantize(4)
    places: Any = [(1, 1), (29, 1), (1, 19), (29, 19)]
    colors: dict[Any, Any] = {palette.getpixel(place): color for place, color in zip(places, CORNERS, strict=True)}
    alphas = bytes({RED: 0, GREEN: 128}.get(colors[index], 255) for index in sorted(colors))
    image = to_rgb(encoded(palette, "PNG", transparency=alphas))
    assert [image.getpixel(place) for place in [(1, 1), (29, 1), (1, 19)]] == [WHITE, (127, 255, 127), BLUE]
    red = next(index for index, color in colors.items() if color == RED)
    assert to_rgb(encoded(palette, "GIF", transparency=red)).getpixel((1, 1)) == WHITE


def test_a_colour_named_transparent_is_white_in_rgb_and_grey() -> None:
    assert corners(to_rgb(encoded(quarters(), "PNG", transparency=RED))) == [WHITE, GREEN, BLUE, WHITE]
    grey = Image.fromarray(np.array([[0, 7, 255]], np.uint8))
    assert tones(encoded(grey, "PNG", transparency=7)) == [0, 255, 255]


def test_alpha_lets_white_through() -> None:
    image = quarters().convert("RGBA")
    image.putalpha(Image.fromarray(np.array([[0, 255], [128, 255]], np.uint8)).resize((30, 20), 0))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        shown = to_rgb(encoded(image, kind, **options))
        assert [shown.getpixel(place) for place in [(1, 1), (29, 1), (1, 19)]] == [WHITE, GREEN, (127, 127, 255)], kind


# --- tones


def test_sixteen_bits_keep_their_tones_in_every_colour_type() -> None:
    opaque = np.full_like(GREYS, 65535)
    assert tones(png(GREYS, 0)) == TONES
    assert tones(png(np.stack([GREYS] * 3, -1), 2)) == TONES
    assert tones(png(np.stack([GREYS, opaque], -1), 4)) == TONES
    assert tones(png(np.stack([GREYS] * 3 + [opaque], -1), 6)) == TONES
    assert tones(encoded(Image.fromarray(GREYS), "TIFF")) == TONES
    assert tones(encoded(Image.fromarray(GREYS.astype(np.int32)), "TIFF")) == TONES


def test_a_transparent_tone_of_sixteen_bits_is_white() -> None:
    transparent = (b"tRNS", struct.pack(">H", int(GREYS[0, 2])))
    assert tones(png(GREYS, 0, transparent)) == [*TONES[:2], 255, *TONES[3:]]


def test_thirty_two_bits_that_hold_eight_are_taken_for_eight() -> None:
    eight = np.array([[0, 1, 100, 255]], np.int32)
    assert tones(encoded(Image.fromarray(eight), "TIFF")) == [0, 1, 100, 255]
    assert tones(Image.fromarray(eight)) == [0, 1, 100, 255]
    assert tones(encoded(Image.fromarray(eight.astype(np.float32)), "TIFF")) == [0, 1, 100, 255]


def test_a_dark_picture_of_sixteen_bits_stays_dark() -> None:
    assert tones(png(np.array([[0, 100, 255]], np.uint16), 0)) == [0, 0, 1]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_tones_do_not_depend_on_the_size_of_the_picture(mode: str) -> None:
    """Larger than what is scaled at a time, with its lightest and darkest pixels far apart."""
    values = np.linspace(0, 65535, 1500 * 1000).reshape(1500, 1000)
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    image = Image.frombytes(mode, (1000, 1500), values.round().astype(kinds[mode]).tobytes())
    greys = np.asarray(to_rgb(image))[..., 0]
    assert np.array_equal(greys, np.rint(values.round() / 257).astype(np.uint8))


@pytest.mark.parametrize(("mode", "most"), [("I;16", 11), ("I", 13), ("F", 13)])
def test_scaling_greys_takes_little_more_memory_than_the_picture(mode: str, most: int) -> None:
    """In a process of its own: what the largest memory of this one was is no news. ``most``: bytes a pixel."""
    code = f"""
import resource
from PIL import Image
from hf_mllm_aug.images import to_rgb

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

to_rgb(Image.new({mode!r}, (9, 9)))  # imports
image = Image.new({mode!r}, (4000, 5000), 5)
before = peak()
to_rgb(image)
print((peak() - before) / 20_000_000)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < most


# --- frames


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    later = [Image.new("RGB", (30, 20), color) for color in (BLACK, GREEN)]
    data = encoded(quarters(), kind, save_all=True, append_images=later)
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, getattr(opened, "n_frames", 1)) == (kind, 3)
        opened.seek(2)
    assert corners(to_rgb(data)) == CORNERS


# --- limits and messages


def test_a_large_picture_within_an_icon_is_refused() -> None:
    inside = encoded(Image.new("L", (400, 300)), "PNG")
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22) + inside
    with pytest.raises(ImageError, match="too many pixels: 400 x 300"):
        to_rgb(icon, max_pixels=100_000)


def test_the_reason_is_of_the_format_that_the_file_has() -> None:
    data = bytearray(encoded(quarters(), "JPEG"))
    start = data.index(b"\xff\xdb")
    data[start + 2 : start + 4] = b"\0\5"  # a table of quantisation that is too short
    with pytest.raises(ImageError, match=r"^broken header: ") as caught:
        to_rgb(bytes(data))
    assert "TGA" not in str(caught.value)
