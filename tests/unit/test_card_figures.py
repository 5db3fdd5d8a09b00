"""The plots of a card: what they say, that they can be read on white and on black, and that they do nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from hf_mllm_aug.card_figures import boxes_figure, lengths_figure
from hf_mllm_aug.card_statistics import LONGEST, TextCounts

LIGHT, DARK = "#ffffff", "#0b0f19"
HOSTILE = "</text><script>alert(1)</script>&<!-- ]]> \u202e\x00 hf_abcdefghijklmnopqrst /home/ann/x"
SVG = "{http://www.w3.org/2000/svg}"


def counts(lengths: dict[int, int]) -> TextCounts:
    histogram = np.zeros(LONGEST + 1, dtype=np.int64)
    for words, texts in lengths.items():
        histogram[words] = texts
    return TextCounts(sum(lengths.values()), histogram, sum(words * texts for words, texts in lengths.items()))


RAW, BEFORE, AFTER = counts({3: 5, 8: 5}), counts({20: 6, 30: 4}), counts({8: 7, 12: 3})
SERIES = {"raw": RAW, "before shearing": BEFORE, "after shearing": AFTER}
BOXES = {"raw": RAW, "llava-1.5": AFTER, "otter": counts({1: 1, 2: 2, 9: 1})}
FIGURES = {"lengths": lengths_figure("llava-1.5", SERIES), "boxes": boxes_figure(BOXES)}


def texts(figure: bytes) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(figure).iter() if node.text]


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("background", [LIGHT, DARK])
def test_every_colour_can_be_seen_on_light_and_on_dark(name: str, background: str) -> None:
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', FIGURES[name].decode())) - {"none"}
    assert len(colours) >= 2
    for colour in colours:
        assert contrast(colour, background) >= 3, f"{colour} on {background}"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_small_and_does_nothing(name: str) -> None:
    figure = FIGURES[name]
    assert len(figure) < 30_000
    elements = {node.tag.removeprefix(SVG) for node in ElementTree.fromstring(figure).iter()}
    assert elements <= {"svg", "title", "desc", "line", "path", "rect", "text"}
    text = figure.decode().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|href|url\(|style=|<\?|<!|\bon\w+=", text)


def test_equal_data_give_equal_bytes() -> None:
    assert lengths_figure("llava-1.5", SERIES) == FIGURES["lengths"]
    assert boxes_figure(BOXES) == FIGURES["boxes"]


def test_the_histogram_names_its_axes_and_series() -> None:
    said = texts(FIGURES["lengths"])
    for part in ("words a caption", "share of captions", "raw, mean 5.5", "before shearing, mean 24.0"):
        assert part in said, part
    assert said[0] == "Words a caption: llava-1.5"
    assert "after shearing: 9.2 words on average" in said[1]


def test_the_histogram_is_as_high_as_the_shares() -> None:
    """70% of the captions have 8 words, 30% have 12, and the axis ends at 80%."""
    figure = ElementTree.fromstring(lengths_figure("x", {"captions": AFTER}))
    (path,) = figure.iter(f"{SVG}path")
    heights = [float(y) for y in re.findall(r"V([\d.]+)", path.get("d") or "")]
    bottom = heights[-1]
    ticks = {node.text: float(node.get("y") or 0) - 4 for node in figure.iter(f"{SVG}text") if "%" in (node.text or "")}
    scale = (bottom - ticks["80%"]) / 80
    shares = [round((bottom - y) / scale) for y in heights[:-1]]
    assert [(words, share) for words, share in enumerate(shares) if share] == [(8, 70), (12, 30)]


def test_series_are_told_apart_without_their_colours() -> None:
    paths = list(ElementTree.fromstring(FIGURES["lengths"]).iter(f"{SVG}path"))
    assert len({path.get("stroke-dasharray") for path in paths}) == len(paths) == 3


def test_a_long_tail_does_not_flatten_the_plot() -> None:
    said = texts(lengths_figure("x", {"captions": counts({10: 995, 900: 5})}))
    assert "900" not in said
    assert "40+" in said


@pytest.mark.parametrize("lengths", [{0: 3}, {1: 1}, {LONGEST: 2}, {200: 1, 5: 1}])
def test_odd_lengths_are_drawn_too(lengths: dict[int, int]) -> None:
    for figure in (lengths_figure("x", {"captions": counts(lengths)}), boxes_figure({"x": counts(lengths)})):
        assert ElementTree.fromstring(figure).tag == f"{SVG}svg"
        assert "nan" not in figure.decode()


def test_boxes_show_the_median_and_the_quartiles_of_every_config() -> None:
    figure = ElementTree.fromstring(FIGURES["boxes"])
    assert {"raw", "llava-1.5", "otter"} <= set(texts(FIGURES["boxes"]))
    ticks = [node for node in figure.iter(f"{SVG}text") if node.get("text-anchor") == "middle"][:-1]
    x = [float(node.get("x") or 0) for node in ticks]
    word = (x[1] - x[0]) / (float(ticks[1].text or 0) - float(ticks[0].text or 0))
    boxes = [(float(box.get("x") or 0) - x[0], float(box.get("width") or 0)) for box in figure.iter(f"{SVG}rect")]
    assert [(round(left / word), round((left + width) / word)) for left, width in boxes] == [(3, 8), (8, 12), (1, 2)]


def test_text_in_a_figure_is_text() -> None:
    for figure in (lengths_figure(HOSTILE, SERIES), boxes_figure({HOSTILE: RAW})):
        text = figure.decode()
        assert "<script" not in text
        assert "\u202e" not in text
        assert "hf_abc" not in text
        assert "/home/ann" not in text
        assert any("</text><script>" in part for part in texts(figure)), "not shown as it is"


def test_many_configs_stay_small() -> None:
    figure = boxes_figure({f"captioner-{i}": RAW for i in range(500)})
    assert len(figure) < 50_000
