"""The parts behind `FetchImages` that need no network: addresses, robots headers, waits, settings."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import subprocess
import sys
import time
from email.utils import formatdate
from typing import Any

import pytest
from datasets import Features, Image, Value
from datasets.fingerprint import Hasher

from hf_mllm_aug.errors import ColumnError, UsageError
from hf_mllm_aug.loaders.fetch import FetchImages
from hf_mllm_aug.loaders.fetching.addresses import refusal
from hf_mllm_aug.loaders.fetching.robots import opt_out
from hf_mllm_aug.loaders.fetching.waits import backoff, retry_after


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "192.0.0.8",
        "198.18.0.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:a00:1",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "4000::1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "localhost",
        "",
    ],
)
def test_special_addresses_in_every_form_are_refused(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "168.63.129.17", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"],
)
def test_public_addresses_are_permitted(address: str) -> None:
    assert refusal(address) is None


def test_an_allowed_network_permits_its_addresses_and_no_others() -> None:
    allowed = ("127.0.0.1/32", "fd00::/8")
    assert refusal("127.0.0.1", allowed) is None
    assert refusal("::ffff:127.0.0.1", allowed) is None
    assert refusal("fd00::5", allowed) is None
    assert refusal("127.0.0.2", allowed)
    assert refusal("::ffff:127.0.0.2", allowed)
    assert refusal("::1", allowed)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (["noai"], "noai"),
        (["NoIndex, nofollow"], "noindex"),
        (["none"], "noindex"),
        (["all", "noimageindex"], "noimageindex"),
        (["hf-mllm-aug: noimageai"], "noimageai"),
        (["*: noai"], "noai"),
        (["googlebot: nofollow, hf-mllm-aug: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai"], "noai"),  # RFC 822
        (["unavailable_after: Wednesday, 25-Jun-30 15:00:00 GMT, noai"], "noai"),  # RFC 850
        (["unavailable_after: 2030-06-25T15:00:00Z, noai"], "noai"),
        (["otherbot: unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai"], None),
        (["hf-mllm-aug: unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai"], "noai"),
        (["max-snippet: 20, noindex"], "noindex"),
        (["googlebot: noindex, noai"], None),
        (["googlebot: noai", "otherbot: noindex"], None),
        (["hf-mllm-aug: noai-please"], None),
        (["nofollow, nosnippet, noarchive"], None),
        (["", ",,:", ":"], None),
        ([], None),
    ],
)
def test_owners_wishes_are_read_as_they_concern_us(headers: list[str], found: str | None) -> None:
    assert opt_out(headers, "hf-mllm-aug", ("noai", "noimageai", "noindex", "noimageindex")) == found


def test_without_honoured_directives_nothing_is_an_opt_out() -> None:
    assert opt_out(["noai, none"], "hf-mllm-aug", ()) is None


def test_retry_after_is_read_in_both_forms_and_bounded() -> None:
    assert retry_after("7") == 7
    assert retry_after("9" * 5000) == retry_after("86400") == 3600
    soon = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert soon is not None
    assert 55 < soon <= 60
    for nonsense in (None, "", "-5", "soon", "1.5e3", "²", "Wed, 99 Foo 2015"):
        assert retry_after(nonsense) is None, nonsense


def test_waits_double_differ_and_stay_below_the_longest() -> None:
    for failures in range(1, 6):
        expected = 0.5 * 2 ** (failures - 1)
        waits = {backoff(failures, 0.5, 1000) for _ in range(50)}
        assert all(expected / 2 <= wait <= expected * 1.5 for wait in waits)
        assert len(waits) > 25
    assert backoff(10_000, 0.5, 3) == 3


def test_map_sees_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(FetchImages())


def test_equal_settings_are_equal_and_hash_alike_in_every_process() -> None:
    fetch = FetchImages(retries=1, allowed_networks=["127.0.0.1/32"])  # type: ignore[arg-type]
    same = FetchImages(retries=1, allowed_networks=("127.0.0.1/32",))
    assert fetch == same == pickle.loads(pickle.dumps(fetch)) == copy.deepcopy(fetch)
    assert hash(fetch) == hash(same)
    assert fetch != FetchImages(retries=2, allowed_networks=("127.0.0.1/32",))
    code = (
        "from datasets.fingerprint import Hasher; from hf_mllm_aug.loaders.fetch import FetchImages; "
        "print(Hasher.hash(FetchImages(retries=1, allowed_networks=('127.0.0.1/32',))))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    before = Hasher.hash(fetch)
    asyncio.run(fetch({"url": "ftp://x"}))
    assert Hasher.hash(fetch) == before == elsewhere
    assert Hasher.hash(FetchImages(retries=2)) != before


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FetchImages().retries = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0},
        {"per_host": True},
        {"retries": -1},
        {"total_timeout": 0},
        {"total_timeout": float("inf")},
        {"max_bytes": 1.5},
        {"allowed_networks": "127.0.0.1"},
        {"allowed_networks": ("127.0.0.1/8",)},
        {"opt_out": "noai"},
        {"user_agent": "a\r\nCookie: b"},
        {"on_error": "ignore"},
        {"status_column": "url"},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(UsageError, match="columns" if name == "status_column" else name):
        FetchImages(**settings)


def test_a_missing_column_of_addresses_is_named() -> None:
    with pytest.raises(ColumnError, match="url_column="):
        asyncio.run(FetchImages()({"link": "http://a.b/c.png"}))


def test_features_add_three_columns_and_replace_a_decoding_picture_column() -> None:
    before = Features({"url": Value("string"), "image": Image()})
    after = FetchImages().features(before)
    assert after == Features(
        {"url": Value("string"), "image": Image(decode=False), "status": Value("string"), "reason": Value("string")}
    )


def test_importing_the_settings_loads_no_client() -> None:
    code = (
        "import sys, hf_mllm_aug.loaders.fetch; print([m for m in ('aiohttp', 'datasets', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
