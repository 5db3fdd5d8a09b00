"""What passes between the HTTP side of the loopback Hub and its routes, and the check of a card's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_mllm_aug.loopback_hub.store import HubError


@dataclass
class Request:
    """One request: `path` is still percent-encoded, so that a quoted slash stays inside its segment."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    chunks: Iterator[bytes]
    may_read_private: bool = True

    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            HubError: 400 if it is none.
        """
        try:
            value = json.loads(self.body() or b"{}")
        except ValueError as error:
            raise HubError(400, f"Not JSON: {error}") from None
        if not isinstance(value, dict):
            raise HubError(400, "Expected a JSON object")
        return value

    def first(self, name: str) -> str | None:
        """A query parameter."""
        return self.query.get(name, [None])[0]


@dataclass
class Response:
    """One answer: `data` is a JSON value, or `body` the bytes, or `file` the file of which `span` is sent."""

    status: int = 200
    data: Any = None
    body: bytes | None = None
    file: Path | None = None
    span: tuple[int, int] = (0, 0)
    headers: dict[str, str] = field(default_factory=dict)


def front_matter(content: str) -> tuple[dict[str, Any], list[str]]:
    """The YAML of a card, really parsed, and what is wrong with it."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", content, re.DOTALL)
    if not match:
        return {}, []
    try:
        data = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        return {}, [f"YAML: {error}"]
    if not isinstance(data, dict):
        return {}, ["The metadata is no mapping"]
    configs = data.get("configs", [])
    if not isinstance(configs, list) or not all(isinstance(c, dict) and "config_name" in c for c in configs):
        return data, ['"configs" must be a list of objects with a config_name']
    errors = []
    names = [str(config["config_name"]) for config in configs]
    errors += [f'"configs" names {name} twice' for name in sorted({n for n in names if names.count(n) > 1})]
    defaults = [str(c["config_name"]) for c in configs if c.get("default") or c["config_name"] == "default"]
    if len(defaults) > 1:
        errors.append(f'"configs" has several defaults: {", ".join(defaults)}')
    return data, errors
