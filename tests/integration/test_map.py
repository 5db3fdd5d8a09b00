"""Captioners in `Dataset.map` and `IterableDataset.map`: by row, batched, in processes, streamed, from the cache."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Value, load_dataset
from PIL import Image

import hf_mllm_aug
from hf_mllm_aug import Augment, Captioner
from tests.warm_python import python

COLUMN, ERROR = "caption_random_llava", "error_random_llava"

BAD = {
    "03_truncated.jpg": "truncated picture",
    "06_empty.jpg": "the file is empty",
    "09_page.jpg": "not a picture in a known format",
    "12_bomb.png": "too many pixels: 20,000 x 20,000",
}
ODD = ["02_cmyk.jpg", "05_alpha.png", "08_one_pixel.png", "11_animated.gif", "14_exif.jpg"]

# Pillow warns about the EXIF that is broken on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def _noise(number: int) -> Image.Image:
    squares = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize((40 + 2 * number, 50), Image.Resampling.NEAREST)


def _bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures that are good or odd."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(16):
        _noise(number).save(root / f"{number:02}.png")
    special = {
        "02_cmyk.jpg": _encoded(_noise(2).convert("CMYK"), "JPEG"),
        "05_alpha.png": _encoded(_noise(5).convert("RGBA"), "PNG"),
        "08_one_pixel.png": _encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        "11_animated.gif": _encoded(_noise(11), "GIF", save_all=True, append_images=[_noise(1)]),
    }
    for name, data in special.items():
        (root / f"{name[:2]}.png").unlink()
        (root / name).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def bad_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with four that are broken, and one whose EXIF is."""
    root = tmp_path_factory.mktemp("bad")
    for path in folder.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    jpeg = _encoded(_noise(3), "JPEG")
    special = {
        "03_truncated.jpg": jpeg[: len(jpeg) // 2],
        "06_empty.jpg": b"",
        "09_page.jpg": b"<html>gone</html>",
        "12_bomb.png": _bomb(),
        "14_exif.jpg": _encoded(_noise(14), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0garbage"),
    }
    for name, data in special.items():
        (root / f"{name[:2]}.png").unlink()
        (root / name).write_bytes(data)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_ways_to_map_give_equal_captions(folder: Path, random_llava: Path) -> None:
    pictures = load_dataset("imagefolder", data_dir=str(folder), split="train")
    streamed = load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=True)
    augment = Augment(Captioner(random_llava))
    plain = pictures.map(augment)
    assert plain.column_names == ["image", COLUMN, ERROR]
    assert plain.features[COLUMN] == plain.features[ERROR] == Value("string")
    assert plain[ERROR][:] == [None] * 16
    assert len(set(plain[COLUMN][:])) > 8
    ways = {
        "batched": pictures.map(augment, batched=True, batch_size=7),
        "two processes": pictures.map(augment, num_proc=2),
        "two processes, batched, with ranks": pictures.map(
            augment, num_proc=2, batched=True, batch_size=3, with_rank=True
        ),
        "with features": pictures.map(augment, batched=True, features=augment.features(pictures.features)),
        "streamed": list(streamed.map(augment)),
        "streamed, batched": list(streamed.map(augment, batched=True, batch_size=7)),
        "streamed, undecoded": list(streamed.decode(False).map(augment)),
    }
    for way, rows in ways.items():
        assert [row[COLUMN] for row in rows] == plain[COLUMN][:], way
        assert [row[ERROR] for row in rows] == [None] * 16, way
    with Image.open(folder / _names(folder)[4]) as original:
        assert plain[4]["image"].tobytes() == original.tobytes(), "the pictures are as they were"


def test_bad_pictures_are_null_with_a_reason_and_all_others_have_their_own_captions(
    folder: Path, bad_folder: Path, random_llava: Path
) -> None:
    captioner = Captioner(random_llava)
    good = load_dataset("imagefolder", data_dir=str(folder), split="train").map(captioner)
    expected = {name[:2]: text for name, text in zip(_names(folder), good[COLUMN], strict=True)}
    pictures = load_dataset("imagefolder", data_dir=str(bad_folder), split="train")
    streamed = load_dataset("imagefolder", data_dir=str(bad_folder), split="train", streaming=True).decode(False)
    ways = {
        "row by row": pictures.map(captioner).remove_columns("image"),
        "batched": pictures.map(captioner, batched=True, batch_size=5).remove_columns("image"),
        "two processes": pictures.map(captioner, batched=True, num_proc=2).remove_columns("image"),
        "streamed": streamed.map(captioner),
        "streamed, batched": streamed.map(captioner, batched=True, batch_size=5),
    }
    for way, rows in ways.items():
        for name, row in zip(_names(bad_folder), rows, strict=True):
            if name in BAD:
                assert row[COLUMN] is None, (way, name)
                assert row[ERROR].startswith(f"{name}: {BAD[name]}"), (way, name, row[ERROR])
            else:
                assert row[ERROR] is None, (way, name, row[ERROR])
                assert row[COLUMN], (way, name)
                if name != "14_exif.jpg":  # JPEG changes the pixels; the others are the pictures of the good folder
                    assert row[COLUMN] == expected[name[:2]], (way, name)


def test_nine_pictures_in_a_hundred_that_are_broken_or_odd_leave_the_others_alone() -> None:
    drawings = [path.read_bytes() for path in sorted((Path(hf_mllm_aug.__file__).parent / "demo_data").glob("*.png"))]
    jpeg = _encoded(_noise(3), "JPEG")
    broken = {
        4: (jpeg[: len(jpeg) // 2], BAD["03_truncated.jpg"]),
        15: (b"", BAD["06_empty.jpg"]),
        26: (b"<html>gone</html>", BAD["09_page.jpg"]),
        37: (_bomb(), BAD["12_bomb.png"]),
    }
    odd = {
        48: _encoded(_noise(2).convert("CMYK"), "JPEG"),
        59: _encoded(_noise(5).convert("RGBA"), "PNG"),
        70: _encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        81: _encoded(_noise(11), "GIF", save_all=True, append_images=[_noise(1)]),
        92: _encoded(_noise(14), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0garbage"),
    }
    pictures = [drawings[number % len(drawings)] for number in range(100)]
    for number, data in ({row: data for row, (data, _) in broken.items()} | odd).items():
        pictures[number] = data
    captioner = Captioner("tiny-llava")
    rows = Dataset.from_dict(
        {"image": [{"bytes": data, "path": None} for data in pictures]}, Features({"image": datasets.Image()})
    ).map(captioner, batched=True, batch_size=32)
    alone = {data: captioner({"image": {"bytes": data, "path": None}})[captioner.caption_column] for data in pictures}
    assert len(set(alone.values())) > 12
    for number, (data, row) in enumerate(zip(pictures, rows.remove_columns("image"), strict=True)):
        if number in broken:
            assert row[captioner.caption_column] is None, number
            assert broken[number][1] in row[captioner.error_column], number
        else:
            assert row[captioner.caption_column] == alone[data], number
            assert row[captioner.error_column] is None, number


def _captioned(good: int, bad: int) -> Dataset:
    """Rows whose only failure comes after `map` has written its first rows, or the other way round."""
    data = _encoded(Image.new("RGB", (30, 30)), "PNG")
    rows = [{"bytes": data, "path": None}] * good + [{"bytes": b"<html>", "path": "p.jpg"}] * bad
    features = Features({"image": datasets.Image(), "n": Value("int64")})
    return Dataset.from_dict({"image": rows, "n": list(range(good + bad))}, features=features)


@pytest.mark.parametrize(("good", "bad"), [(25, 3), (0, 28)])
@pytest.mark.parametrize("options", [{}, {"batched": True, "batch_size": 5}, {"batched": True, "num_proc": 3}])
@pytest.mark.parametrize("numpy_types_nulls", [True, False])
def test_columns_that_begin_with_nulls_are_strings(
    good: int, bad: int, options: dict[str, Any], numpy_types_nulls: bool, random_llava: Path, monkeypatch: Any
) -> None:
    if not numpy_types_nulls:
        monkeypatch.setattr("hf_mllm_aug.captioners.rows._numpy_types_nulls", lambda: False)
    rows = _captioned(good, bad).select([*range(good, good + bad), *range(good)]) if not good else _captioned(good, bad)
    captioner = Captioner(random_llava, max_new_tokens=2)
    mapped = rows.map(captioner, writer_batch_size=4, **options)
    assert mapped.features[COLUMN] == mapped.features[ERROR] == Value("string")
    assert [text is None for text in mapped[ERROR]] == [True] * good + [False] * bad
    # Again, over columns that are there.
    again = mapped.map(captioner, writer_batch_size=4, load_from_cache_file=False, **options)
    assert again[ERROR][:] == mapped[ERROR][:]
    replaced = mapped.map(captioner, writer_batch_size=4, remove_columns=[COLUMN, ERROR, "n"], **options)
    assert replaced[ERROR][:] == mapped[ERROR][:]


@pytest.mark.parametrize("options", [{}, {"batched": True, "batch_size": 5}])
def test_a_function_of_ones_own_may_call_a_captioner(options: dict[str, Any], random_llava: Path) -> None:
    captioner = Captioner(random_llava, max_new_tokens=2)

    def pick(rows: Any) -> Any:
        found = captioner(rows)
        return {"text": found[COLUMN], "why": found[ERROR]}

    def merge(rows: Any) -> Any:
        return {**captioner(rows), "n": rows["n"]}

    def update(rows: Any) -> Any:
        rows.update(captioner(rows))
        return rows

    rows = _captioned(4, 2)
    picked = rows.map(pick, **options)
    assert [text is None for text in picked["text"]] == [False] * 4 + [True] * 2
    merged = rows.map(merge, writer_batch_size=2, **options)
    assert [text is None for text in merged[ERROR]] == [True] * 4 + [False] * 2
    updated = rows.map(update, **options)
    assert [text is None for text in updated[ERROR]] == [True] * 4 + [False] * 2


def test_captions_that_look_like_numbers_stay_strings(random_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_mllm_aug.captioners import engine

    class Counter:
        max_batch = None

        def generate(self, images: Any, keys: Any, request: Any) -> list[engine.Generated]:
            return [engine.Generated("0")] * len(images)

    monkeypatch.setattr(engine, "loaded", lambda key: Counter())
    for options in ({}, {"batched": True}):
        mapped = _captioned(3, 1).map(Captioner(random_llava), **options)
        assert mapped.features[COLUMN] == Value("string")
        assert mapped[COLUMN][:] == ["0", "0", "0", None]


@pytest.mark.parametrize("form", ["numpy", "torch", "arrow", "pandas"])
def test_formatted_rows_are_refused_with_advice(form: str, random_llava: Path) -> None:
    rows = _captioned(2, 0).with_format(form)
    with pytest.raises(ValueError, match="with_format"):
        rows.map(Captioner(random_llava), batched=True)


_SCRIPT = """
import json, sys
import datasets
from datasets import load_dataset
from hf_mllm_aug import Augment, Captioner, augment
from hf_mllm_aug.captioners import engine

folder, checkpoint, cache, mode = sys.argv[1:]
datasets.config.HF_DATASETS_CACHE = cache
datasets.disable_progress_bars()
pictures = load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=cache)
augment = Augment(Captioner(checkpoint))
if mode == "parent first":
    augment(pictures[:2])
    mapped = pictures.map(augment, num_proc=2)
elif mode == "torch first":
    import torch
    torch.set_num_threads(4)
    torch.randn(700, 700) @ torch.randn(700, 700)
    mapped = pictures.map(augment, num_proc=2)
else:
    mapped = pictures.map(augment)
loaded = bool(engine._LOADED)
print(json.dumps({"captions": mapped["caption_random_llava"][:], "loaded": loaded}))
"""


def _run(folder: Path, checkpoint: Path, cache: Path, mode: str) -> dict[str, Any]:
    threads = {} if mode == "map" else {"OMP_NUM_THREADS": "4"}
    finished = subprocess.run(
        [*python(), "-c", _SCRIPT, str(folder), str(checkpoint), str(cache), mode],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **threads,
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def test_a_second_map_in_a_new_process_is_served_from_the_cache(
    folder: Path, random_llava: Path, tmp_path: Path
) -> None:
    first = _run(folder, random_llava, tmp_path / "own", "map")
    second = _run(folder, random_llava, tmp_path / "own", "map")
    assert first["loaded"]
    assert not second["loaded"], "the second process loaded the model"
    assert second["captions"] == first["captions"]


@pytest.mark.parametrize("mode", ["parent first", "torch first"])
def test_workers_forked_from_a_process_that_used_torch_do_not_hang(
    mode: str, folder: Path, random_llava: Path, tmp_path: Path
) -> None:
    captions = _run(folder, random_llava, tmp_path / "own", mode)["captions"]
    pictures = load_dataset("imagefolder", data_dir=str(folder), split="train")
    assert captions == pictures.map(Augment(Captioner(random_llava)))["caption_random_llava"][:]
