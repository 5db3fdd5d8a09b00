"""The raw pairs of the study: Open Clip Art's drawings with their titles, noisy as web captions.

Titles are taken as they are ("card", "Etiquette Printer", Italian names); a drawing without one is left out, for it is
no pair. Links to a drawing that is filed twice are followed once.
"""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

from datasets import Dataset, Image

from hf_mllm_aug import schema

PACKAGES = ("openclipart-png", "openclipart-svg")  # Debian; public domain
_CLIP_ART = Path("usr/share/openclipart")
_WORK = re.compile(r"<cc:Work.*", re.DOTALL)
_TITLE = re.compile(r"<dc:title>(.*?)</dc:title>", re.DOTALL)


def fetch(root: Path) -> Path:
    """Download and unpack the packages below ``root``; what is there is taken. Returns the folder of the clip art."""
    home = root / "openclipart"
    if not home.exists():
        part = home.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            subprocess.run(["apt-get", "download", package], cwd=part, check=True)
        for archive in part.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), str(part)], check=True)
            archive.unlink()
        part.rename(home)
    return home / _CLIP_ART


def title(svg: str) -> str | None:
    """What a drawing's own metadata call it; None where they say nothing.

    >>> title("<cc:Work><dc:title> Fish &amp;amp; chips </dc:title><cc:Agent><dc:title>Ann</dc:title></cc:Agent>")
    'Fish & chips'
    >>> title("<cc:Work><dc:title></dc:title>") is None
    True
    """
    work = _WORK.search(svg)
    found = _TITLE.search(work[0] if work else svg)
    text = " ".join(html.unescape(html.unescape(found[1])).split()) if found else ""
    return text or None


def pairs(home: Path) -> Dataset:
    """The rows: key (path without suffix), image (the drawing's PNG, by path), url (null), its title as the caption."""
    rows: dict[str, list[str | None]] = {schema.KEY: [], schema.IMAGE: [], schema.URL: [], schema.CAPTION: []}
    for svg in sorted((home / "svg").rglob("*.svg")):
        key = svg.relative_to(home / "svg").with_suffix("").as_posix()
        png = home / "png" / f"{key}.png"
        caption = title(svg.read_text(encoding="utf-8", errors="replace"))
        if svg.is_symlink() or png.is_symlink() or not png.is_file() or caption is None:
            continue
        for column, value in zip(rows, (key, str(png), None, caption), strict=True):
            rows[column].append(value)
    return Dataset.from_dict(rows, features=schema.base_features()).cast_column(schema.IMAGE, Image(decode=False))
