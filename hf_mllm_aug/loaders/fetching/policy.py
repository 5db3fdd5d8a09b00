"""The settings of fetching that are about the network, checked when they are made."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.images import MAX_ASPECT, MAX_PIXELS

OPT_OUT = ("noai", "noimageai", "noindex", "noimageindex")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How hosts are asked and what is accepted from them; `FetchImages` says what each setting means."""

    concurrency: int = 64
    per_host: int = 4
    connect_timeout: float = 10.0
    read_timeout: float = 10.0
    total_timeout: float = 30.0
    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    max_aspect: float = MAX_ASPECT
    max_redirects: int = 5
    retries: int = 2
    first_wait: float = 0.5
    max_wait: float = 30.0
    max_held_bytes: int = 1024 * 1024 * 1024
    opt_out: tuple[str, ...] = OPT_OUT
    user_agent: str | None = None
    allow_private: bool = False
    allowed_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("concurrency", "per_host", "max_bytes", "max_pixels", "max_held_bytes"):
            _check_integer(name, getattr(self, name), 1)
        for name in ("max_redirects", "retries"):
            _check_integer(name, getattr(self, name), 0)
        for name in ("connect_timeout", "read_timeout", "total_timeout", "first_wait", "max_wait", "max_aspect"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise UsageError(f"{name}={value!r} must be a number above 0")
        for name in ("opt_out", "allowed_networks"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise UsageError(f"{name}={value!r} must be a list of strings, not a string")
            object.__setattr__(self, name, tuple(str(item).strip().lower() for item in value))
        for network in self.allowed_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise UsageError(f"allowed_networks: {error}; give networks such as '10.1.0.0/16'") from None
        if self.user_agent is not None and (not self.user_agent.isprintable() or not self.user_agent.isascii()):
            raise UsageError("user_agent must be one line of ASCII characters")


def _check_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}={value!r} must be an integer of {least} or more")
