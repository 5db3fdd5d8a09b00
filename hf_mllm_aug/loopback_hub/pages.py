"""The loopback Hub's few HTML pages. Everything that came from a client is escaped; no page asks for anything else."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from hf_mllm_aug.loopback_hub.store import Commit, Repo

WHAT = "Loopback Hub of hf-mllm-aug: a local stand-in for the Hugging Face Hub, for files alone, on this machine only."
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid;padding:1rem}"
    "td,th{text-align:left;padding:.1rem 1rem .1rem 0}"
)


def _page(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p>{escape(WHAT)}</p>{body}</body></html>"
    ).encode()


def home(repos: list[Repo]) -> bytes:
    """The page at ``/``: what this is, the data sets and the Spaces."""
    body = ""
    for kind, title in (("datasets", "Data sets"), ("spaces", "Spaces")):
        here = [repo.id for repo in repos if repo.kind == kind]
        items = "".join(f'<li><a href="/{kind}/{quote(name)}">{escape(name)}</a></li>' for name in here)
        body += f"<h2>{title}</h2><ul>{items or '<li>none yet</li>'}</ul>"
    return _page("Loopback Hub", body)


def repository(repo: Repo, commit: Commit, readme: str) -> bytes:
    """The page of one repository: its card as text, its files, its history."""
    link = f"/{repo.kind}/{quote(repo.id)}/resolve/{commit.oid}/"
    files = "".join(
        f'<tr><td><a href="{link}{quote(path)}">{escape(path)}</a></td><td>{blob.size:,} bytes</td></tr>'
        for path, blob in sorted(commit.tree.items())
    )
    history = "".join(
        f"<tr><td><code>{past.oid[:10]}</code></td><td>{escape(past.date)}</td><td>{escape(past.title)}</td></tr>"
        for past in repo.history(commit.oid)
    )
    return _page(
        repo.id,
        f"<h2>Files</h2><table>{files}</table><h2>Commits</h2><table>{history}</table>"
        f"<h2>Card</h2><pre>{escape(readme)}</pre>",
    )
