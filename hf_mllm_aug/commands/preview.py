"""``hf-mllm-aug preview``: look at a data set, staged or on the Hub, in a browser."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_mllm_aug.commands.options import DebugOption
from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from hf_mllm_aug.preview.views import Views


def preview(
    source: Annotated[str, typer.Argument(metavar="FOLDER_OR_REPO", help="A staged data set, or OWNER/NAME.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write one HTML file that needs no server, and end."),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the local page; 0 = a free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, tag or commit on the Hub.", metavar="REVISION")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="Rows a page; with --out, rows a config.")] = 50,
    debug: DebugOption = False,
) -> None:
    """Look at a data set: its card as the Hub shows it, its rows with every caption side by side, its plots.

    The page is served to this machine alone, until Ctrl-C. It asks nobody else for anything.
    """
    from hf_mllm_aug.preview.repository import open_repository
    from hf_mllm_aug.preview.views import Views

    views = Views(open_repository(source, revision=revision), page_rows=rows)
    if out is not None:
        _write(views, out, rows)
        return
    from hf_mllm_aug.preview.page import rows_page
    from hf_mllm_aug.preview.server import PreviewServer
    from hf_mllm_aug.preview.state import State

    rows_page(views, State())  # what cannot be read is better said here, and the browser's first page finds all ready
    try:
        server = PreviewServer(views, port=port)
    except OSError as error:
        raise UsageError(f"cannot listen on port {port}: {error.strerror}. Choose another --port, or 0.") from error
    say(f"{views.repository.name}: {server.url} (Ctrl-C ends it)")
    sys.stdout.flush()
    if not no_open and sys.stdout.isatty() and _has_display():
        import webbrowser

        webbrowser.open(server.url)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()
    server.close()


def _write(views: Views, out: Path, rows: int) -> None:
    from hf_mllm_aug.preview.export import export

    done = export(views, out, rows=rows)
    left_out = f"; {count(done.left_out, 'picture')} left out to keep it small" if done.left_out else ""
    holds = f"{count(done.rows, 'row')} a config, {count(done.pictures, 'picture')}"
    say(f"{done.file}: {holds}, {done.size:,} bytes{left_out}")


def _has_display() -> bool:
    """Whether a browser would have a window; without one, Python may start a browser within the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
