"""One node of the tests of relays in a process of its own: `ROLE LISTEN [URL]`; it writes what happens by lines."""

from __future__ import annotations

import asyncio
import sys

from blyan.network.dialling import Expected, relayed_url
from blyan.primitives import limits
from blyan.primitives.errors import Fault
from relays import RelayNode, relay_host, tensor, until


def say(*words: object) -> None:
    print(*words, flush=True)


async def read_line() -> str:
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


async def relay(listen: str, _url: str) -> None:
    """Serve until it is told to end, and say from where others came."""
    async with RelayNode(host=relay_host(), listen=listen, port=9650) as node:
        say(node.url, node.key)
        while await read_line() == "who":
            links = [link for link in node.links if link.open]
            say(*(link._socket._transport.get_extra_info("peername")[0] for link in links), "|", *node.host.nodes)


async def node(listen: str, url: str) -> None:
    """A node that is reached through a relay alone."""
    async with RelayNode(listen=listen, port=9650) as node:
        link = await node.dial(url)
        node.relays.add(link.peer.node)
        await until(lambda: bool(node.client.urls))
        say(node.key, *node.client.urls)
        await read_line()


async def caller(listen: str, url: str) -> None:
    """Ask nodes that are named by key, through the relay or directly, until told to end."""
    limits.link_handshake_seconds_max = 3.0  # of what does not answer
    async with RelayNode(listen=listen, port=9650) as node:
        relay = (await node.dial(url)).peer.node
        say(node.key)
        while line := await read_line():
            way, key = line.split()
            try:
                link = await node.dial(relayed_url(relay) if way == "relay" else way, Expected(key))
                answer = await link.request("echo", {"say": "hello"}, (tensor(1 << 20),), seconds=10)
                assert bytes(answer.tensors[0].data) == bytes(tensor(1 << 20).data)
                say("reached", link.peer.node, answer.fields["said"])
            except Fault as reason:
                say("fault", type(reason).__name__, reason.message)


if __name__ == "__main__":
    role, listen, *rest = sys.argv[1:]
    asyncio.run({"relay": relay, "node": node, "caller": caller}[role](listen, rest[0] if rest else ""))
