"""Collect the open picture sets that the miniatures are trained and scored on, as one NumPy archive.

    python -m benchmarks.tiny.pictures --fetch /tmp/pictures --out /tmp/pictures.npz

``--fetch`` unpacks the packages below with ``npm pack`` and ``apt-get download``; run again, it takes what is there.
Emoji drawings by several vendors are matched by their Unicode code or CLDR short name, so that one concept has several
hands. The vendor of npm ``emoji-datasource-facebook`` is for scoring only, and so are the Tux Paint stamps whose
``int(sha256(path below stamps/, without suffix), 16) % 5 == 0``: both are marked ``held_out`` here, once.
Needs ``pip install resvg-py``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 96  # pixels; the archive holds RGBA so that training can put any background behind a drawing

HELD_OUT_VENDOR = "facebook"
NAMES = ("emoji-datasource@16.0.0", "openmoji@17.0.0")  # codes and CLDR names; OpenMoji's tags
RASTER = {HELD_OUT_VENDOR: "emoji-datasource-facebook@16.0.0"}
VECTOR = {
    "noto": "@iconify-json/noto@1.2.9",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "fluent-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "streamline": "@iconify-json/streamline-emojis@1.2.4",
    "openmoji": "@iconify-json/openmoji@1.2.29",
}
BY_CODE = {"fluent-3d": ("@lobehub/fluent-emoji-3d@1.1.0", "assets")}  # folders of pictures named by code
STAMPS, ART4APPS = "tuxpaint-stamps-default", "pysiogame"  # Debian packages; the second has Art4Apps' drawings


@dataclass(frozen=True)
class Picture:
    """One drawing: where it comes from, its first-sentence caption, what it is filed under, and its pixels."""

    key: str
    source: str
    caption: str
    category: str
    held_out: bool
    load: tuple[str, ...]  # ("file", path) or ("svg", text)


def folder_name(package: str) -> str:
    """The folder that a package is unpacked into.

    >>> folder_name("@iconify-json/noto@1.2.9")
    'iconify-json-noto-1.2.9'
    """
    return package.removeprefix("@").replace("/", "-").replace("@", "-")


def fetch(root: Path) -> None:
    """Download and unpack the packages below ``root``, as ``root/npm/<name-version>`` and ``root/deb/<name>``."""
    npm, deb = root / "npm", root / "deb"
    npm.mkdir(parents=True, exist_ok=True)
    for package in (*NAMES, *RASTER.values(), *VECTOR.values(), *(package for package, _ in BY_CODE.values())):
        folder = npm / folder_name(package)
        if folder.exists():
            continue
        subprocess.run(["npm", "pack", "--silent", package], cwd=npm, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(npm / f"{folder.name}.tgz") as archive:
            archive.extractall(folder.with_suffix(".part"), filter="data")
        (folder.with_suffix(".part") / "package").rename(folder)
    for name in (STAMPS, ART4APPS):
        folder = deb / name
        if folder.exists():
            continue
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        subprocess.run(["apt-get", "download", name], cwd=part, check=True)
        for archive_file in part.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive_file), str(part)], check=True)
        part.rename(folder)


def plain(name: str) -> str:
    """A name without case, accents' punctuation and separators, for matching vendors' spellings.

    >>> plain("Flag: Côte d’Ivoire"), plain("kiwi-fruit")
    ('flagcôtedivoire', 'kiwifruit')
    """
    return re.sub(r"[\W_]+", "", name.lower())


def concepts(npm: Path) -> dict[str, tuple[str, str]]:
    """Base emoji by code (hex, without variation selectors): CLDR short name and subcategory."""
    base = json.loads((npm / folder_name(NAMES[0]) / "emoji.json").read_text("utf-8"))
    names = {
        entry["hexcode"].replace("-FE0F", ""): entry["annotation"]
        for entry in json.loads((npm / folder_name(NAMES[1]) / "data" / "openmoji.json").read_text("utf-8"))
    }
    return {
        code: (names.get(code, entry["name"].lower()), entry["subcategory"].replace("-", " "))
        for entry in base
        for code in [entry["unified"].replace("-FE0F", "")]
    }


def spellings(npm: Path, known: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Code by plain name: Unicode names and short names too, CLDR's name where they disagree."""
    base = json.loads((npm / folder_name(NAMES[0]) / "emoji.json").read_text("utf-8"))
    spelled = {
        plain(name): entry["unified"].replace("-FE0F", "")
        for entry in base
        for name in (*entry["short_names"], entry["name"])
    }
    return spelled | {plain(name): code for code, (name, _) in known.items()}


def emoji(npm: Path) -> Iterator[Picture]:
    """Every vendor's drawings of the base emoji; drawings whose name matches no concept are left out."""
    known = concepts(npm)
    by_name = spellings(npm, known)
    raster = npm / folder_name(RASTER[HELD_OUT_VENDOR])
    for entry in json.loads((raster / "emoji.json").read_text("utf-8")):
        path = raster / "img" / HELD_OUT_VENDOR / "64" / entry["image"]
        if entry[f"has_img_{HELD_OUT_VENDOR}"] and path.exists():
            code = entry["unified"].replace("-FE0F", "")
            name, category = known[code]
            yield Picture(f"{HELD_OUT_VENDOR}/{code}", HELD_OUT_VENDOR, name, category, True, ("file", str(path)))
    for vendor, package in VECTOR.items():
        icons = json.loads((npm / folder_name(package) / "icons.json").read_text("utf-8"))
        chars = json.loads((npm / folder_name(package) / "chars.json").read_text("utf-8") or "{}")
        codes = {name: code.upper().replace("-FE0F", "") for code, name in chars.items()}
        aliases = {name: entry["parent"] for name, entry in icons.get("aliases", {}).items()}
        seen = set()
        for name in (*icons["icons"], *aliases):
            source = aliases.get(name, name)
            icon = icons["icons"].get(source)
            code = codes.get(name)
            if code not in known:
                # "flag-for-italy" and "waving-hand-2" (a second drawing) are how some vendors write
                code = by_name.get(plain(re.sub(r"^flag-for-(flag-)?", "flag-", re.sub(r"-\d$", "", name))))
            if code is None or source in seen or icon is None:
                continue
            seen.add(source)
            side = (icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16)))
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {side[0]} {side[1]}" '
                f'width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
            )
            caption, category = known[code]
            yield Picture(f"{vendor}/{source}", vendor, caption, category, False, ("svg", svg))
    for vendor, (package, folder) in BY_CODE.items():
        for path in sorted((npm / folder_name(package) / folder).iterdir()):
            code = path.stem.upper().replace("-FE0F", "")
            if code in known:
                name, category = known[code]
                yield Picture(f"{vendor}/{code}", vendor, name, category, False, ("file", str(path)))


def stamps(deb: Path) -> Iterator[Picture]:
    """Tux Paint's stamps; a fifth of them is held out by a hash of the path."""
    root = deb / STAMPS / "usr" / "share" / "tuxpaint" / "stamps"
    for text in sorted(root.rglob("*.txt")):
        key = text.relative_to(root).with_suffix("").as_posix()
        image = next((path for suffix in (".png", ".svg") if (path := text.with_suffix(suffix)).exists()), None)
        if image is None:
            continue
        sentence = text.read_text("utf-8").splitlines()[0].strip()
        held_out = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 5 == 0
        category = key.rsplit("/", 1)[0].replace("/", ", ")
        yield Picture(f"stamps/{key}", "stamps", sentence, category, held_out, ("file", str(image)))


def art4apps(deb: Path) -> Iterator[Picture]:
    """Art4Apps' drawings of words (CC BY-SA), named by their files, filed under their folders."""
    root = deb / ART4APPS / "usr" / "share" / "games" / "pysiogame" / "res" / "images" / "art4apps"
    for path in sorted(root.rglob("*.jpg")):
        key = path.relative_to(root).with_suffix("").as_posix()
        category = path.parent.name.replace("_n_", " ").replace("veg", "vegetables")
        yield Picture(f"art4apps/{key}", "art4apps", path.stem.replace("_", " "), category, False, ("file", str(path)))


def pixels(picture: Picture) -> bytes | None:
    """RGBA bytes, SIZE x SIZE, the drawing fitted and centred; None where it cannot be drawn."""
    import resvg_py

    kind, value = picture.load
    try:
        if kind == "svg":
            image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=value))))
        elif value.endswith(".svg"):
            image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=value, width=2 * SIZE))))
        else:
            image = Image.open(value)
        image = image.convert("RGBA")
    except (OSError, ValueError, RuntimeError):
        return None
    scale = SIZE / max(image.size)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    out = Image.new("RGBA", (SIZE, SIZE))
    out.paste(small, ((SIZE - small.width) // 2, (SIZE - small.height) // 2))
    return out.tobytes()


def collect(root: Path, out: Path) -> dict[str, int]:
    """Draw every picture into ``out``, pixels (n, SIZE, SIZE, 4) uint8 and columns; returns counts by source."""
    pictures = [*emoji(root / "npm"), *stamps(root / "deb"), *art4apps(root / "deb")]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        drawn = list(pool.map(pixels, pictures, chunksize=64))
    kept = [(picture, data) for picture, data in zip(pictures, drawn, strict=True) if data is not None]
    np.savez(
        out,
        pixels=np.stack([np.frombuffer(data, np.uint8).reshape(SIZE, SIZE, 4) for _, data in kept]),
        **{
            column: np.array([getattr(picture, column) for picture, _ in kept])
            for column in ("key", "source", "caption", "category", "held_out")
        },
    )
    counts: dict[str, int] = {"undrawable": len(pictures) - len(kept)}
    for picture, _ in kept:
        source = f"{picture.source} (held out)" if picture.held_out else picture.source
        counts[source] = counts.get(source, 0) + 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", type=Path, required=True, help="folder that the packages are unpacked in")
    parser.add_argument("--out", type=Path, required=True, help="the archive to write (.npz)")
    args = parser.parse_args()
    fetch(args.fetch)
    print(json.dumps(collect(args.fetch, args.out), indent=2))


if __name__ == "__main__":
    main()
