"""Connections of the peer port whose callers proved nothing yet: few in all, fewer of one address, each for seconds.

Nothing is made for one beyond that. Where there is no more room, the address that has most loses its oldest to one that
has less, and where each has one, the oldest goes: neither many idle connections from one place nor one from each of
many keep others out. Many nodes may share an address (NAT, a relay), but prove themselves within some round trips, and
from then on are not counted here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, cast

from aiohttp import web

from blyan.network.tls import TlsHandshake
from blyan.primitives import limits

_site_bits: Final = 64  # of an IPv6 address: whoever has one has all that begin so


@dataclass(frozen=True, slots=True)
class _Arrival:
    wire: asyncio.Transport
    address: str
    late: asyncio.TimerHandle


class Unproven:
    """For the network's loop."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._open: dict[asyncio.BaseProtocol, _Arrival] = {}  # in the order in which they came
        self._counts: Counter[str] = Counter()  # of these, by address
        self.refused = 0  # for which there was no room

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, server: web.Server, **options: Any) -> asyncio.Protocol:
        """Of the next connection, whose requests go to `server`, read with these options of aiohttp's."""
        return _Threshold(lambda wire: self._came(wire, server, options))

    def proved(self, caller: asyncio.BaseProtocol) -> None:
        """It is one of those that have a right to be here, or over."""
        arrival = self._open.pop(caller, None)
        if arrival is None:
            return
        arrival.late.cancel()
        self._counts[arrival.address] -= 1
        if not self._counts[arrival.address]:
            del self._counts[arrival.address]

    def _came(self, wire: asyncio.Transport, server: web.Server, options: dict[str, Any]) -> None:
        address = site(wire.get_extra_info("peername"))
        if not self._has_room(address):
            self.refused += 1
            wire.abort()
            return
        seconds = limits.link_handshake_seconds_max
        loop = asyncio.get_running_loop()
        caller = _Caller(self.proved, server, loop, options)
        self._open[caller] = _Arrival(wire, address, loop.call_later(seconds, self._let_go, caller))
        self._counts[address] += 1

        def done(reason: Exception | None) -> None:
            if reason is not None:  # it is over, of which the caller is told nothing
                self.proved(caller)

        shake = TlsHandshake(self._context, caller, server=True, seconds=seconds, done=done)
        wire.set_protocol(shake)
        shake.connection_made(wire)

    def _has_room(self, address: str) -> bool:
        """Whether there is, perhaps as another address lost a connection."""
        if self._counts[address] >= limits.unproven_address_max:
            return False
        if len(self._open) < limits.unproven_max:
            return True
        most, count = self._counts.most_common(1)[0]
        own = self._counts[address]
        if own and count <= own + 1:
            return False
        self._let_go(next(caller for caller, arrival in self._open.items() if arrival.address == most))
        return True

    def _let_go(self, caller: asyncio.BaseProtocol) -> None:
        arrival = self._open[caller]
        self.proved(caller)
        arrival.wire.abort()


class _Threshold(asyncio.Protocol):
    """A connection for which nothing was made."""

    def __init__(self, came: Callable[[asyncio.Transport], None]) -> None:
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._came(cast("asyncio.Transport", transport))


class _Caller(web.RequestHandler):
    """Speaks HTTP on one connection, and says when that is over."""

    def __init__(
        self,
        over: Callable[[asyncio.BaseProtocol], None],
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        options: dict[str, Any],
    ) -> None:
        super().__init__(server, loop=loop, **options)
        self._over = over

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        self._over(self)
        super().connection_lost(exc)


def site(peer: Any) -> str:
    """Whose address a socket's other end is: an IPv4 address, or the network of an IPv6 one; empty if it is gone."""
    try:
        found = ip_address(str(peer[0]).partition("%")[0]) if peer else None
    except ValueError:
        return ""
    if not isinstance(found, IPv6Address):
        return "" if found is None else str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> (128 - _site_bits) << (128 - _site_bits)))
