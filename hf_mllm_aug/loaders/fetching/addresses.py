"""Which internet addresses may be connected to.

The addresses in a data set are strangers' words: ``http://169.254.169.254/`` would have a machine in the cloud hand
over its own credentials, ``http://192.168.1.1/`` reach a router. What counts is the address that a connection is made
to: names resolve to anything, and to something else a second later.

The special networks are spelled out, from IANA's registries for IPv4 and IPv6 (as of 2025), since the answers of
`ipaddress` differ between versions of Python and its `is_global` takes ``::127.0.0.1`` for a public address.
"""

from __future__ import annotations

import functools
import ipaddress

_V4 = ipaddress.IPv4Address
_V6 = ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL_V4 = tuple(
    (ipaddress.IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a provider's customers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "of a cloud provider's own"),  # Azure's host, which hands out keys; in no registry
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a relay's"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that has been given out for public use
_SPECIAL_V6 = tuple(
    (ipaddress.IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link-local"),
        ("fc00::/7", "private"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "a relay's"),
        ("3fff::/20", "for documentation"),
    )
)
# IPv4 addresses in the clothes of IPv6: mapped, and translated (NAT64), which networks without IPv4 live on.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


def refusal(address: str, allowed_networks: tuple[str, ...] = ()) -> str | None:
    """Why an address may not be connected to.

    Args:
        address: As a socket takes it. Other spellings than the usual ones (decimal, octal, hexadecimal) are refused;
            the resolver turns them into usual ones before it comes to that.
        allowed_networks: What may be connected to although it is special, such as ``("10.1.0.0/16",)``.

    Returns:
        The reason, or None if it may.

    >>> refusal("93.184.216.34"), refusal("127.0.0.1"), refusal("::ffff:10.0.0.1")
    (None, 'a loopback address', 'a private address')
    >>> refusal("127.0.0.1", ("127.0.0.1/32",)) is None
    True
    """
    try:
        ip = _plain(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return "an unusual spelling of an address"
    if any(ip in network for network in _networks(allowed_networks)):
        return None
    special = _SPECIAL_V4 if isinstance(ip, _V4) else _SPECIAL_V6
    for network, kind in special:
        if ip in network:
            return f"{'an' if kind[0] in 'u' else 'a'} {kind} address" if " " not in kind else f"an address {kind}"
    if isinstance(ip, _V6) and ip not in _PUBLIC_V6:
        return "a reserved address"
    return None


def _plain(ip: _V4 | _V6) -> _V4 | _V6:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(ip, _V6) and (ip in _MAPPED or ip in _TRANSLATED):
        return _V4(int(ip) & 0xFFFFFFFF)
    return ip


@functools.lru_cache(maxsize=64)
def _networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)
