"""Whose address a request comes from: the connection's, unless that is a proxy which the configuration trusts.

`X-Forwarded-For` is read from its end, as each proxy appends whom it heard; the first address that is no trusted proxy
is the client. Anything before it is what the client itself wrote, and is never looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, TypeAlias

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_home_prefix: Final = 64  # one customer has at least so many addresses of IPv6


def parse_network(text: str, what: str) -> Network:
    """An address or a network in CIDR form; `InvalidInput` names `what`."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise InvalidInput(
            f"{what}: expected an address or a network such as 10.0.0.0/8, found {text[:80]!r}"
        ) from None


def client_address(connection: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The client's address; `forwarded` are the values of all `X-Forwarded-For` headers, in order.

    Empty if the connection has none (a unix socket). A hop that is no address ends the walk at the proxy that wrote it.
    """
    found = _address(connection or "")
    if found is None:
        return ""
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    for hop in reversed(hops[-limits.forwarded_hops_max :]):
        address = _address(hop) if _within(found, trusted) else None
        if address is None:
            break
        found = address
    return str(found)


def charged_address(address: str) -> str:
    """Which addresses share one quota: those of one home, in IPv6."""
    found = _address(address)
    if found is None or found.version == 4:
        return address
    return str(ipaddress.ip_network((int(found), _home_prefix), strict=False))


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _address(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return mapped or found
