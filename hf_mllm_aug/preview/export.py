"""The preview as one HTML file: it opens without a server and asks nobody for anything."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.preview.page import card_values, digest, frame, plot_name, render, script, style
from hf_mllm_aug.preview.pictures import thumbnail
from hf_mllm_aug.preview.state import State
from hf_mllm_aug.preview.views import RAW, Row, Views

MAX_BYTES = 25 * 1024 * 1024
"""The largest file: one that can be sent by mail, and that a browser shows at once."""

_SIDE = 200  # pixels


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        file: The file.
        size: Its bytes.
        rows: Rows of the largest config in it.
        pictures: Pictures in it.
        left_out: Pictures that were left out to keep the file small.
    """

    file: Path
    size: int
    rows: int
    pictures: int
    left_out: int


def export(views: Views, file: Path, *, rows: int = 50, max_bytes: int = MAX_BYTES) -> Exported:
    """Write the first rows of every config, the card and the plots as one HTML file; an older one is replaced.

    Pictures are made small and come once, whatever the number of configs that show them. Those for which there is no
    room are left out, the last ones first.

    Args:
        views: The rows.
        file: The file to write.
        rows: Rows a config, at most.
        max_bytes: How large the file may be.

    Returns:
        What was written.

    Raises:
        UsageError: The file would be too large even without pictures, or cannot be written there, or there is a file
            of that name which is no ``.html``.
    """
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(f"cannot write {file}: give the path of a file in a folder that exists.")
    if file.exists() and file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{file} is there already, and no .html file to be replaced. Choose another --out.")
    configs = [(name, views.first(name, rows)) for name in views.repository.splits]
    values = _values(views, configs)
    bare = len(_file(values, "", {}))
    if bare > max_bytes:
        raise UsageError(f"{file} would have {bare:,} bytes, more than {max_bytes:,}. Choose fewer --rows.")
    shown, left_out = _pictures(views, configs, max_bytes - bare)
    rules = "".join(f".p{n}{{background-image:url({data})}}" for n, data in enumerate(shown.values()))
    html = _file(values, rules, {place: number for number, place in enumerate(shown)})
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(html)
    os.replace(part, file)
    return Exported(file, len(html), max(len(found) for _, found in configs), len(shown), left_out)


def _values(views: Views, configs: list[tuple[str, list[Row]]]) -> dict[str, Any]:
    repository = views.repository
    captions = [caption for _, rows in configs for row in rows for caption in row.captions]
    by_model = list(dict.fromkeys(caption.label for caption in captions if caption.by_model))
    plots = [(plot_name(path), found) for path in repository.plots if (found := _address(views, path)) is not None]
    values = frame(views, "rows")
    for view in values["views"]:
        view["url"] = f"#{view['id']}"
    return {
        **values,
        **card_values(views, lambda path: _address(views, path)),
        "mode": "file",
        "views": [view for view in values["views"] if view["id"] != "plots" or plots],
        "state": State(),
        "configs": [{"name": name, "rows": found, "status": _status(views, name, found)} for name, found in configs],
        "labels": list(dict.fromkeys([*(c.label for c in captions if c.label == RAW), *(c.label for c in captions)])),
        "failing": by_model,
        "has_tails": any(caption.tail for caption in captions),
        "figures": plots,
    }


def _status(views: Views, config: str, rows: list[Row]) -> str:
    total = views.total(views.rows(config))
    return f"The first {len(rows):,} of {total:,} rows" if len(rows) < total else f"All {total:,} rows"


def _file(values: dict[str, Any], rules: str, places: dict[tuple[str, int], int]) -> bytes:
    styled = style() + rules

    def picture(row: Row) -> Markup:
        number = places.get((row.pictured or "", row.number))
        if number is None:
            return Markup()
        return Markup('<div class="picture p{}" role="img" aria-label="Picture of row {}"></div>').format(
            number, row.number + 1
        )

    policy = f"default-src 'none'; img-src data:; style-src {digest(styled)}; script-src {digest(script())}"
    own = {"style": Markup(styled), "policy": policy, "picture": picture}
    return render("file.html", **{**values, **own}).encode("utf-8", "replace")


def _pictures(views: Views, configs: list[tuple[str, list[Row]]], room: int) -> tuple[dict[tuple[str, int], str], int]:
    """The pictures that have room, as addresses, by the config that holds them and the row; how many have none."""
    places = dict.fromkeys((row.pictured, row.number) for _, rows in configs for row in rows if row.pictured)
    shown: dict[tuple[str, int], str] = {}
    left_out = 0
    for config, number in sorted(places, key=lambda place: place[1]):
        data = views.rows(config).picture(number)
        small = thumbnail(data, _SIDE) if data else None
        if small is None:
            continue
        address = _data_address("image/jpeg", small)
        # With its rule, and an element in each config that shows it.
        room -= len(address) + 50 + 100 * len(configs)
        if room < 0:
            left_out += 1
        else:
            shown[config, number] = address
    return shown, left_out


def _address(views: Views, path: str) -> str | None:
    found = views.repository.picture(path)
    return None if found is None else _data_address(*found)


def _data_address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
