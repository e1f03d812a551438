"""One node of the tests of discovery in a process of its own, or somebody who announces nonsense.

`node LISTEN SWARM SECONDS` writes a line for what is found, gone and linked. `hostile ADDRESS KEY TAG WHAT…` sends.
`announced` writes what a node on all addresses says to be reached at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys

import zeroconf
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService, DNSText
from zeroconf.const import _CLASS_IN, _FLAGS_AA, _FLAGS_QR_RESPONSE, _TYPE_A, _TYPE_PTR, _TYPE_SRV, _TYPE_TXT

from blyan.network.dialling import Expected
from blyan.network.discovery import Announcement, Candidate, Discovery, service_type
from blyan.network.handshake import Swarm
from blyan.node.peer_addresses import announced
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import Fault
from relays import RelayNode

GROUP = ("224.0.0.251", 5353)


def say(*words: object) -> None:
    print(*words, flush=True)


async def node(listen: str, secret: str, seconds: str) -> None:
    """Found nodes are dialled, and told in a line when they answered as who they were said to be."""
    tasks: set[asyncio.Task[None]] = set()
    async with RelayNode(listen=listen, port=9650, swarm=Swarm(secret.encode().ljust(16))) as node:

        async def dial(candidate: Candidate) -> None:
            for url in candidate.urls:
                try:
                    link = await node.dial(url, Expected(candidate.node))
                    say("linked", link.peer.node)
                except Fault:
                    say("missed", candidate.node)

        def found(candidate: Candidate) -> None:
            say("found", candidate.node, *candidate.urls)
            tasks.add(asyncio.create_task(dial(candidate)))

        ours = Announcement(node.key, node.identity.boot, node.swarm.tag, 9650, 8645)
        gone = lambda candidate: say("gone", candidate.node)  # noqa: E731
        discovery = Discovery(ours, listen, found, gone, entropy=system_entropy, seconds=int(seconds))
        task = asyncio.create_task(discovery.run())
        say("key", node.key, node.swarm.tag)
        await asyncio.to_thread(sys.stdin.readline)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def announcement(
    label: str, key: str, tag: str, address: str, *, port: int = 9650, extra: bytes = b"", **other: str
) -> bytes:
    """A response that nobody asked for, with everything that a listener needs."""
    name, host = f"{label}.{service_type}", f"{label}.local."
    said = {"v": "1", "node": key, "boot": "00" * 16, "swarm": tag, "versions": "1-1", **other}
    pairs = [f"{name}={value}".encode() for name, value in said.items()]
    text = b"".join(bytes([len(pair)]) + pair for pair in pairs) + extra
    out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
    for record in (
        DNSPointer(service_type, _TYPE_PTR, _CLASS_IN, 4500, name),
        DNSService(name, _TYPE_SRV, _CLASS_IN, 4500, 0, 0, port, host),
        DNSText(name, _TYPE_TXT, _CLASS_IN, 4500, text),
        DNSAddress(host, _TYPE_A, _CLASS_IN, 4500, socket.inet_aton(address)),
    ):
        out.add_answer_at_time(record, 0)
    return b"".join(out.packets())


def hostile(address: str, key: str, tag: str, *what: str) -> None:
    """Send each kind of nonsense that is named."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    other = "ab" * 32
    kinds = {
        "oversized": [announcement("a", other, tag, address, extra=(b"\xff" + b"x" * 255) * 16)],
        "tag": [announcement("b", other, "00" * 8, address)],
        "ours": [announcement("c", key, tag, address)],
        "elsewhere": [announcement("d", other, tag, "8.8.8.8"), announcement("e", other, tag, "127.0.0.1")],
        "malformed": [
            announcement("f", "short", tag, address),
            announcement("g", other, tag, address, versions="x"),
            announcement("h", other, tag, address, versions="9-9"),
            announcement("i", other, tag, address, v="2"),
            announcement("j", other, tag, address, port=0),
            b"\x00\x00\x84\x00" + os.urandom(1_000),
            os.urandom(8_000),
        ],
        "thousand": [announcement(f"n{n}", f"{n:064x}", tag, address, port=1 + n % 60_000) for n in range(1_000)],
    }
    for each in what:
        for packet in kinds[each]:
            made.sendto(packet, GROUP)
    say("sent", zeroconf.__version__)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")
    if sys.argv[1] == "node":
        asyncio.run(node(*sys.argv[2:]))
    elif sys.argv[1] == "announced":
        say(*(announced(host, 9650) for host in ("0.0.0.0", "::", "10.9.0.7")))
    else:
        hostile(*sys.argv[2:])
