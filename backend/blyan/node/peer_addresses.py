"""Where peers reach this node, and the addresses of peers of before: `peers.json` in the data directory."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ifaddr

from blyan.primitives import canonical, limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PublicKey, public_key
from blyan.storage import durable
from blyan.wire.peer import want_url

if TYPE_CHECKING:  # commands say an address without what dials it
    from blyan.network.links import Links

_log = logging.getLogger(__name__)
file_name: Final = "peers.json"
_remember_seconds: Final = 15.0
_wildcards: Final = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}


def announced(host: str, port: int) -> str:
    """The URL at which others reach a peer port; of a wildcard, that of the address this machine goes out by.

    On a network without a way out: that of its first interface.
    """
    if host in _wildcards:
        family, far = _wildcards[host]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # nothing is sent: only a route is chosen
            try:
                probe.connect((far, 9))
                host = probe.getsockname()[0]
            except OSError:
                host = _first_address(family) or ("127.0.0.1" if family == socket.AF_INET else "::1")
    return f"wss://{f'[{host}]' if ':' in host else host}:{port}"


def _first_address(family: socket.AddressFamily) -> str | None:
    """One of this machine's by which others on its network come; none that needs an interface beside it."""
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            address = ip_address(each.ip if isinstance(each.ip, str) else each.ip[0])
            wanted = each.is_IPv4 if family == socket.AF_INET else each.is_IPv6
            if wanted and not address.is_loopback and not address.is_link_local:
                return str(address)
    return None


def read_peers(folder: Path) -> list[tuple[str, PublicKey | None]]:
    """Addresses of peers of before, with their keys; none, said in the log, if the file is damaged: it is derived."""
    path = folder / file_name
    if not path.exists():
        return []
    found: list[tuple[str, PublicKey | None]] = []
    try:
        raw = durable.read_limited(path, limits.peers_file_bytes_max)
        listed = canonical.decode_object(raw, bytes_max=limits.peers_file_bytes_max).get("peers")
        for pair in listed if isinstance(listed, list) else []:
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise InvalidInput("expected pairs of an address and a key")
            want_url(pair[0], "peer", "wss")
            found.append((pair[0], public_key(pair[1])))
    except (OSError, ValueError, InvalidInput) as reason:
        _log.warning("%s is not read: %s", path, reason)
        return []
    return found[: limits.peers_remembered_max]


def write_peers(folder: Path, peers: Iterable[tuple[str, PublicKey]]) -> None:
    """Remember where peers are, at most as many as a file may name."""
    listed = [[url, node] for url, node in list(peers)[: limits.peers_remembered_max]]
    durable.write_file(folder / file_name, canonical.encode({"v": 1, "peers": listed}))


def linked_peers(links: Links, now: float) -> list[tuple[str, PublicKey]]:
    """Addresses of the nodes that links are up to, of each first the one that answered; `now` is the monotonic clock's.

    For the network's loop.
    """
    found: list[tuple[str, PublicKey]] = []
    for summary in links.table.live(now):
        link = links.link(summary.node)
        urls = () if link is None else dict.fromkeys((link.url, *summary.peer_urls))
        found += [(url, summary.node) for url in urls if url.startswith("wss://")]
    return found


async def remember_peers(folder: Path, known: Callable[[], list[tuple[str, PublicKey]]]) -> None:
    """Write where peers are, now and then, if that changed, until it is cancelled."""
    written: list[tuple[str, PublicKey]] = []
    while True:
        await asyncio.sleep(_remember_seconds)
        found = known()
        if found and found != written:
            try:
                await asyncio.to_thread(write_peers, folder, found)
                written = found
            except OSError as reason:
                _log.warning("%s is not written: %s", folder / file_name, reason)
