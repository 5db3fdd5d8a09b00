"""The plots of a card: SVG files, written with the standard library.

The Hub shows a card on white or on near black, as the reader has chosen on its pages; a picture in the card cannot see
that choice. So the background is left transparent, and every stroke and letter has a colour of middle lightness, with
a contrast of 3:1 at least to both. Series differ in their dashes as well as in their colours. Equal data give equal
bytes, so a release that changes nothing changes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np

from hf_mllm_aug.card_statistics import LONGEST, TextCounts
from hf_mllm_aug.safe_text import plain, scrub

INK = "#77808c"
RAW = "#c2650c"
BEFORE = "#8a6fd1"
AFTER = "#2f7fd8"

_WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 34, 44
_HEIGHT = 280
_BINS = 40
_SHOWN = 0.99
"""The share of the captions that the plot is wide enough for; the rest stands in its last bar."""

_BOX_ROW = 30
_MOST_ROWS = 40
_LABEL = 150


def lengths_figure(name: str, series: Mapping[str, TextCounts]) -> bytes:
    """A histogram of words a caption: the share of captions, for ``raw``, ``before shearing``, ``after shearing``.

    Args:
        name: The config, for the title.
        series: The captions in numbers, by the words of the legend.

    Returns:
        An SVG file.

    >>> counts = TextCounts(3, np.array([0, 1, 2]), 5)
    >>> b"words a caption" in lengths_figure("otter", {"raw": counts})
    True
    """
    styles = {"raw": (RAW, "2 3"), "before shearing": (BEFORE, "7 4")}
    filled = {label: counts for label, counts in series.items() if counts.texts}
    width = _bin_width(max((counts.quantile(_SHOWN) for counts in filled.values()), default=1))
    bins = {label: _binned(counts, width) for label, counts in filled.items()}
    used = max((int(np.flatnonzero(shares)[-1]) + 1 for shares in bins.values()), default=1)
    top = max((float(shares.max()) for shares in bins.values()), default=1.0) or 1.0
    step = _tick(top * 100)
    highest = step * np.ceil(top * 100 / step)
    across, down = (_WIDTH - _LEFT - _RIGHT) / used, _HEIGHT - _TOP - _BOTTOM

    means = ", ".join(f"{label}: {counts.mean:.1f} words on average" for label, counts in filled.items())
    svg = _canvas(_HEIGHT, f"Words a caption: {name}", f"Histogram of caption lengths. {means}.")
    for i in range(round(highest / step) + 1):
        y = _TOP + down * (1 - i * step / highest)
        _line(svg, _LEFT, y, _WIDTH - _RIGHT, y, opacity="0.35")
        _text(svg, _LEFT - 6, y + 4, f"{i * step:g}%", anchor="end")
    every = max(1, round(used / 10))
    for i in range(0, used, every):
        label = f"{i * width}+" if i == _BINS else f"{i * width}" if width == 1 else f"{i * width}\u2013"
        _text(svg, _LEFT + (i + 0.5) * across, _HEIGHT - _BOTTOM + 16, label, anchor="middle")
    _text(svg, _LEFT + used * across / 2, _HEIGHT - 8, _words_axis(width), anchor="middle")
    _text(svg, 12, _TOP + down / 2, "share of captions", anchor="middle", upright=False)
    place = _WIDTH - _RIGHT
    for label, shares in reversed(bins.items()):
        colour, dashes = styles.get(label, (AFTER, ""))
        points = [f"M{_LEFT} {_HEIGHT - _BOTTOM}"]
        for i, share in enumerate(shares[:used]):
            points.append(f"V{_round(_TOP + down * (1 - share * 100 / highest))}H{_round(_LEFT + (i + 1) * across)}")
        path = {"d": "".join([*points, f"V{_HEIGHT - _BOTTOM}"]), "stroke": colour, "stroke-width": "2"}
        fill = {"fill": "none"} if dashes else {"fill": colour, "fill-opacity": "0.18"}
        svg.append(ElementTree.Element("path", {**path, **fill, **({"stroke-dasharray": dashes} if dashes else {})}))
        said = f"{label}, mean {filled[label].mean:.1f}"
        _text(svg, place, 14, said, anchor="end")
        place -= 7 * len(said) + 12
        _line(svg, place - 26, 10, place, 10, colour=colour, width="2.5", dashes=dashes)
        place -= 42
    return _file(svg)


def boxes_figure(series: Mapping[str, TextCounts]) -> bytes:
    """Words a caption of several configs side by side: median, quartiles, and the range of nine captions in ten.

    Args:
        series: The captions of each config in numbers; the first `_MOST_ROWS` of them are drawn.

    Returns:
        An SVG file.
    """
    shown = [(name, counts) for name, counts in series.items() if counts.texts][:_MOST_ROWS]
    height = _BOX_ROW * len(shown) + 52
    longest = max((counts.quantile(0.95) for _, counts in shown), default=1) or 1
    step = _tick(longest)
    highest = step * np.ceil(longest / step)
    scale = (_WIDTH - _LABEL - _RIGHT - 30) / highest
    medians = ", ".join(f"{name} {counts.quantile(0.5)}" for name, counts in shown)
    svg = _canvas(height, "Words a caption: all configs", f"Median number of words a caption: {medians}.")
    for i in range(round(highest / step) + 1):
        x = _LABEL + i * step * scale
        _line(svg, x, 8, x, height - 40, opacity="0.35")
        _text(svg, x, height - 24, f"{i * step:g}", anchor="middle")
    _text(svg, _LABEL + highest * scale / 2, height - 6, "words a caption: 5%, 25%, median, 75%, 95%", anchor="middle")
    for i, (name, counts) in enumerate(shown):
        y = 8 + _BOX_ROW * (i + 0.5)
        low, first, median, third, high = (
            _LABEL + counts.quantile(share) * scale for share in (0.05, 0.25, 0.5, 0.75, 0.95)
        )
        colour = RAW if i == 0 and name == "raw" else AFTER
        _text(svg, _LABEL - 10, y + 4, plain(name, 22), anchor="end")
        _line(svg, low, y, high, y, colour=colour, width="2")
        box = {
            "x": _round(first),
            "y": _round(y - 8),
            "width": _round(max(third - first, 1)),
            "height": "16",
            "rx": "2",
        }
        style = {"fill": colour, "fill-opacity": "0.25", "stroke": colour, "stroke-width": "2"}
        svg.append(ElementTree.Element("rect", {**box, **style}))
        _line(svg, median, y - 8, median, y + 8, colour=colour, width="4")
        _text(svg, high + 8, y + 4, f"{counts.quantile(0.5)}")
    return _file(svg)


def _bin_width(longest: int) -> int:
    """Words a bar, so that `_BINS` bars hold the captions but for the longest.

    >>> _bin_width(30), _bin_width(41), _bin_width(1000)
    (1, 2, 50)
    """
    return next(width for width in (1, 2, 5, 10, 20, 50) if width * _BINS >= min(longest, LONGEST))


def _binned(counts: TextCounts, width: int) -> Any:
    """The share of captions in each bar; the last one has those that are longer. Shape (_BINS + 1,)."""
    bars = np.minimum(np.arange(len(counts.lengths)) // width, _BINS)
    return np.bincount(bars, weights=counts.lengths, minlength=_BINS + 1) / counts.texts


def _tick(highest: float) -> float:
    """A round distance of ticks, some five of them up to the highest value.

    >>> _tick(100), _tick(23), _tick(4)
    (20.0, 5.0, 1.0)
    """
    power = 10.0 ** np.floor(np.log10(max(highest, 1e-6) / 5))
    return float(next(step * power for step in (1, 2, 2.5, 5, 10) if step * power * 5 >= highest * 0.999))


def _words_axis(width: int) -> str:
    return "words a caption" if width == 1 else f"words a caption, {width} a bar"


def _canvas(height: int, title: str, description: str) -> ElementTree.Element:
    size = {"width": str(_WIDTH), "height": str(height), "viewBox": f"0 0 {_WIDTH} {height}"}
    font = {"font-family": "system-ui, sans-serif", "font-size": "13", "fill": INK}
    svg = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img", **font})
    ElementTree.SubElement(svg, "title").text = _inert(title)
    ElementTree.SubElement(svg, "desc").text = _inert(description)
    return svg


def _line(
    svg: ElementTree.Element,
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    colour: str = INK,
    width: str = "1",
    dashes: str = "",
    opacity: str = "",
) -> None:
    ends = {"x1": _round(x1), "y1": _round(y1), "x2": _round(x2), "y2": _round(y2)}
    style = {"stroke-dasharray": dashes, "stroke-opacity": opacity}
    kept = {name: value for name, value in style.items() if value}
    svg.append(ElementTree.Element("line", {**ends, "stroke": colour, "stroke-width": width, **kept}))


def _text(svg: ElementTree.Element, x: float, y: float, text: str, *, anchor: str = "", upright: bool = True) -> None:
    place = {"x": _round(x), "y": _round(y), **({"text-anchor": anchor} if anchor else {})}
    if not upright:
        place["transform"] = f"rotate(-90 {place['x']} {place['y']})"
    ElementTree.SubElement(svg, "text", place).text = _inert(text)


def _inert(text: str) -> str:
    return plain(scrub(text), 1000)  # the writer escapes what XML acts on


def _round(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _file(svg: ElementTree.Element) -> bytes:
    return ElementTree.tostring(svg, encoding="unicode").encode() + b"\n"
