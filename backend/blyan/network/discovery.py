"""Other nodes of the swarm on the local network, by mDNS and DNS-SD (RFC 6762, RFC 6763).

What is heard is worth a try and nothing more: anybody on the network may say anything, and may have others forgotten.
Who answers at an address proves itself in the handshake, or is no peer (docs/spec/peer.md). So all that is done here
is to bound what a flood costs: names that wait, candidates at a time, and how fast one follows the other.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import logging
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any, Final, TypeAlias

import ifaddr
import zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from blyan.primitives import limits
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PublicKey, public_key
from blyan.wire.peer import version_max, version_min

_log = logging.getLogger(__name__)
service_type: Final = "_blyan._tcp.local."
_versions: Final = re.compile(r"(\d{1,4})-(\d{1,4})")
_look_seconds: Final = 2.0  # between two looks at which interfaces there are
_pause_seconds: Final = 0.5  # between two candidates
_resolve_seconds: Final = 1.5
_resolving_max: Final = 8
_names_tried_max: Final = 3
_wildcards: Final = {4: "0.0.0.0", 6: "::"}
_get_flags: Final = 0x8913  # SIOCGIFFLAGS, netdevice(7)
_up: Final = 0x1
_multicast: Final = 0x1000

Interface: TypeAlias = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself to whoever is on its network."""

    node: PublicKey
    boot: str
    swarm: str  # its tag, 16 hex digits: it names the swarm and opens nothing
    peer_port: int
    api_port: int = 0  # 0: none
    versions: tuple[int, int] = (version_min, version_max)

    def text(self) -> dict[str, str]:
        """As a TXT record."""
        low, high = self.versions
        said = {"v": "1", "node": self.node, "boot": self.boot, "swarm": self.swarm, "versions": f"{low}-{high}"}
        return {**said, "api": str(self.api_port)} if self.api_port else said


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may be at an address. Nothing of it is proved."""

    node: PublicKey
    urls: tuple[str, ...]  # wss://HOST:PORT


def candidate_of(
    text: Mapping[bytes, bytes | None],
    addresses: Iterable[str],
    port: int | None,
    ours: Announcement,
    networks: Iterable[Interface],
) -> Candidate | None:
    """Whom to try by what was announced; None for ourselves, other swarms and versions; `InvalidInput` for nonsense.

    Addresses that are not of a network of this machine are left out: nobody is to send us elsewhere, or to loopback;
    and link-local ones of which it is not known by which interface.
    """
    said = {name.decode("ascii", "replace"): (value or b"").decode("ascii", "replace") for name, value in text.items()}
    versions = _versions.fullmatch(said.get("versions", ""))
    if said.get("v") != "1" or versions is None:
        raise InvalidInput("announcement: expected version 1 with protocol versions")
    node = public_key(said.get("node"))
    if said.get("swarm") != ours.swarm or node == ours.node:
        return None
    if int(versions[1]) > ours.versions[1] or int(versions[2]) < ours.versions[0]:
        return None
    if port is None or not 0 < port < 1 << 16:
        raise InvalidInput(f"announcement: expected a port, found {port}")
    near = [each.network for each in networks]
    found = [
        address
        for address in map(ipaddress.ip_address, addresses)
        if any(address in network for network in near) and not address.is_loopback and _has_scope(address)
    ]
    if not found:
        raise InvalidInput("announcement: expected an address of this network, found none")
    urls = [f"wss://{f'[{each}]' if each.version == 6 else each}:{port}" for each in sorted(found, key=_rank)]
    return Candidate(node, tuple(urls[: limits.summary_urls_max]))


def _has_scope(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is known by which interface it is reached, where that has to be."""
    return not (isinstance(address, IPv6Address) and address.is_link_local) or address.scope_id is not None


def _rank(address: IPv4Address | IPv6Address) -> int:
    """Which is tried first."""
    return 0 if address.version == 4 else 1 + address.is_link_local


class Discovery:
    """Announces this node and hands out candidates. `run` until it is cancelled; for the network's loop."""

    def __init__(
        self,
        ours: Announcement,
        listen: str,
        found: Callable[[Candidate], None],
        gone: Callable[[Candidate], None],
        *,
        entropy: Entropy,
        seconds: int = limits.announcement_seconds,
    ) -> None:
        """`listen`: the address of the peer port. `found` and `gone` come in pairs, with few candidates in between.

        `seconds`: how long others are to believe that this node is there, and how often those known are looked for.
        """
        self._ours, self._listen, self._found, self._gone = ours, listen, found, gone
        self._entropy, self._seconds = entropy, seconds
        self._known: dict[str, Candidate] = {}  # name → as it was handed out, oldest first
        self._waiting: dict[str, None] = {}  # names that were heard, oldest first
        self._awake = asyncio.Event()
        self._resolving: set[asyncio.Task[None]] = set()
        self._said: set[str] = set()  # in the log, once each
        self._next = 0.0  # when the next candidate may be handed out, by the loop's clock

    async def run(self) -> None:
        """Be heard and listen wherever there is multicast, and look for that where there is none."""
        while True:
            interfaces = self._interfaces()
            if interfaces:
                try:
                    await self._on(interfaces)
                except* (OSError, RuntimeError, zeroconf.Error) as reasons:
                    self._say_once(f"discovery: expected multicast, found {reasons.exceptions[0]!r}")
            else:
                self._say_once("discovery: expected an interface with multicast, found none: no node is found here yet")
            await asyncio.sleep(_look_seconds)

    async def _on(self, interfaces: tuple[Interface, ...]) -> None:
        """On these interfaces, until they are others. Where they are but more, who was found stays."""
        service = AsyncZeroconf(_speaking(interfaces), ip_version=_version_of(interfaces))
        more = False
        try:
            browser = AsyncServiceBrowser(service.zeroconf, service_type, handlers=[self._heard])
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._announce(service, interfaces)),
                    group.create_task(self._hand_out(service.zeroconf)),
                    group.create_task(self._look_for(service.zeroconf)),
                ]
                while self._interfaces() == interfaces:  # noqa: ASYNC110 - what is waited for tells nobody
                    await asyncio.sleep(_look_seconds)
                more = set(interfaces) <= set(self._interfaces())
                for task in tasks:
                    task.cancel()
            await browser.async_cancel()
        finally:
            for task in self._resolving:
                task.cancel()
            await asyncio.gather(*self._resolving, return_exceptions=True)
            self._waiting.clear()
            for name in [] if more else list(self._known):
                self._lose(name)
            await service.async_close()

    async def _announce(self, service: AsyncZeroconf, interfaces: tuple[Interface, ...]) -> None:
        """Be found by others, under a name that says nothing."""
        here = sorted((each.ip for each in interfaces), key=_rank)
        addresses = [str(each) for each in here if self._listen in (_wildcards[each.version], str(each))]
        if not addresses:
            self._say_once(f"discovery: peers cannot reach {self._listen} from another machine: not announced")
            return
        for _ in range(_names_tried_max):
            label = f"blyan-{self._entropy(8).hex()}"
            info = AsyncServiceInfo(
                service_type,
                f"{label}.{service_type}",
                port=self._ours.peer_port,
                properties=self._ours.text(),
                server=f"{label}.local.",
                parsed_addresses=addresses[: limits.summary_urls_max],
                host_ttl=self._seconds,
                other_ttl=self._seconds,
            )
            try:
                registering: Any = service  # its annotations say half of what it returns
                await (await registering.async_register_service(info))
            except zeroconf.NonUniqueNameException:
                continue  # somebody claims every name, or it is chance
            return
        self._say_once("discovery: expected a name that nobody claims, found none: not announced")

    def _heard(
        self, zeroconf: zeroconf.Zeroconf, service_type: str, name: str, state_change: zeroconf.ServiceStateChange
    ) -> None:
        """The browser's callback, which names its arguments."""
        del zeroconf, service_type
        if state_change.name == "Removed":
            self._waiting.pop(name, None)
            self._lose(name)
            return
        self._waiting.pop(name, None)
        self._waiting[name] = None
        if len(self._waiting) > limits.announcements_waiting_max:
            del self._waiting[next(iter(self._waiting))]
        self._awake.set()

    async def _hand_out(self, service: zeroconf.Zeroconf) -> None:
        """What was heard last comes first, so that a flood keeps nobody waiting who comes after it."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._waiting:
                name, _ = self._waiting.popitem()
                info = _info(name)
                if info is None:
                    continue
                if info.load_from_cache(service):
                    await self._take(name, info)
                elif len(self._resolving) < _resolving_max:
                    task = asyncio.create_task(self._resolve(service, name, info))
                    self._resolving.add(task)
                    task.add_done_callback(self._resolving.discard)
                await asyncio.sleep(0)

    async def _resolve(self, service: zeroconf.Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(service, _resolve_seconds * 1000):
            self._heard(service, service_type, name, zeroconf.ServiceStateChange.Updated)

    async def _take(self, name: str, info: AsyncServiceInfo) -> None:
        """A candidate if it is one, not too soon after the one before."""
        if len(info.text or b"") > limits.announcement_bytes_max:
            return
        try:
            addresses = info.parsed_scoped_addresses(zeroconf.IPVersion.All)
            candidate = candidate_of(info.properties, addresses, info.port, self._ours, self._interfaces())
        except (InvalidInput, ValueError) as reason:
            _log.debug("discovery: %s: %s", name[:80], reason)
            return
        if candidate is None or self._known.get(name) == candidate:
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next - loop.time()))
        self._next = loop.time() + _pause_seconds
        self._lose(name)
        if len(self._known) >= limits.candidates_max:
            self._lose(next(iter(self._known)))
        new = candidate not in self._known.values()
        self._known[name] = candidate
        if new:
            _log.info("discovery: node %s may be at %s", candidate.node[:12], ", ".join(candidate.urls))
            self._found(candidate)

    async def _look_for(self, service: zeroconf.Zeroconf) -> None:
        """Who is known and says nothing when asked is gone: not everybody says good-bye."""
        while True:
            await asyncio.sleep(self._seconds / 2)
            await asyncio.gather(*(self._look_for_one(service, name) for name in list(self._known)))

    async def _look_for_one(self, service: zeroconf.Zeroconf, name: str) -> None:
        info = _info(name)
        if info is None or not await info.async_request(service, _resolve_seconds * 1000):
            self._lose(name)

    def _lose(self, name: str) -> None:
        candidate = self._known.pop(name, None)
        if candidate is not None and candidate not in self._known.values():
            self._gone(candidate)

    def _interfaces(self) -> tuple[Interface, ...]:
        """Those by which others may be heard."""
        found: list[Interface] = []
        for adapter in ifaddr.get_adapters():
            each = [made for ip in adapter.ips if not (made := _interface(ip)).is_loopback and _is_settled(made)]
            if each and not _has_multicast(adapter.name):
                self._say_once(f"discovery: interface {adapter.name} has no multicast: no node is found there")
            else:
                found.extend(each)
        return tuple(found)

    def _say_once(self, what: str) -> None:
        if what not in self._said and len(self._said) < limits.announcements_waiting_max:
            self._said.add(what)
            _log.warning("%s", what)


def _info(name: str) -> AsyncServiceInfo | None:
    try:
        return AsyncServiceInfo(service_type, name)
    except zeroconf.Error:
        return None


def _interface(ip: ifaddr.IP) -> Interface:
    """An address of an adapter, and its network."""
    if isinstance(ip.ip, str):
        return IPv4Interface(f"{ip.ip}/{ip.network_prefix}")
    address, _, scope = ip.ip
    return IPv6Interface(f"{address}{f'%{scope}' if scope else ''}/{ip.network_prefix}")


def _is_settled(address: Interface) -> bool:
    """Whether it can be used: one of IPv6 that is new is looked for elsewhere first, for about a second (RFC 4862)."""
    if isinstance(address, IPv4Interface):
        return True
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address.ip), 0, 0, int(address.scope_id or 0)))
        except OSError:
            return False
    return True


def _speaking(interfaces: Iterable[Interface]) -> list[str]:
    """One address of each interface, by which it speaks: of IPv6 its link-local one (RFC 6762, section 11)."""
    sixes = [each.ip for each in interfaces if each.version == 6]
    local = [each for each in sixes if each.is_link_local]
    return [str(each.ip) for each in interfaces if each.version == 4] + [str(each) for each in local or sixes]


def _version_of(interfaces: Iterable[Interface]) -> zeroconf.IPVersion:
    """What they have: a kernel may be without one."""
    versions = {each.version for each in interfaces}
    if len(versions) > 1:
        return zeroconf.IPVersion.All
    return zeroconf.IPVersion.V4Only if versions == {4} else zeroconf.IPVersion.V6Only


def _has_multicast(interface: str) -> bool:
    """Whether it is up and can."""
    request = bytearray(struct.pack("256s", interface.encode()[:15]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _get_flags, request)
        except OSError:
            return False  # it is gone
    (flags,) = struct.unpack_from("H", request, 16)
    return bool(flags & _up and flags & _multicast)
