"""A call through a relay on this machine, against the same call on a direct link to the same node.

Back of the envelope: four more hops over loopback each way (to the relay, within it, to the node's machine, to its
port), each a wake-up and a WebSocket frame in Python, two of them under a TLS of their own: 0.1 to 0.2 ms a hop, so
about a millisecond for a small call; a MiB is copied and encrypted twice more each way. On a real network the way to
the relay and from there comes on top, which no relay can save.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import SMOKE, Page, both, interleaved, percentile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blyan.network.dialling import Expected, relayed_url
from blyan.network.link import Link
from relay_worker import __file__ as worker
from relays import RelayNode, tensor


def start(*words: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Another process, and the words of its first line."""
    running = subprocess.Popen(
        [sys.executable, str(worker), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    return running, running.stdout.readline().split()


async def links(url: str, relay_key: str, key: str, node: RelayNode) -> tuple[Link, Link]:
    await node.dial(url)
    through = await node.dial(relayed_url(relay_key), Expected(key))
    return through, await node.dial("wss://127.0.0.3:9650", Expected(key))


def main() -> None:
    page = Page("relay", "A call through a relay", __doc__.partition("\n\n")[2].strip())
    loop = asyncio.new_event_loop()
    relay, (url, relay_key) = start("relay", "127.0.0.2")
    behind, (key, _) = start("node", "127.0.0.3", url)
    node = loop.run_until_complete(RelayNode().__aenter__())
    try:
        through, direct = loop.run_until_complete(links(url, relay_key, key, node))
        for size, what in ((0, "nothing"), (8 << 10, "8 KiB each way"), (1 << 20, "1 MiB each way")):
            sent = tensor(size)

            def call(link: Link, sent=sent) -> Callable[[], None]:
                async def once() -> None:
                    answer = await link.request("echo", {"say": 1}, (sent,), seconds=30)
                    assert bytes(answer.tensors[0].data) == bytes(sent.data)

                return lambda: loop.run_until_complete(once())

            relayed, straight = interleaved(20 if SMOKE else 1_000, call(through), call(direct))
            page.row(f"a call of {what}, through the relay", both(relayed), "no promise")
            page.row(f"a call of {what}, direct", both(straight))
            page.row("p50 added", f"{(percentile(relayed, 0.5) - percentile(straight, 0.5)) * 1e3:.2f} ms")
    finally:
        loop.run_until_complete(node.__aexit__(None, None, None))
        for each in (behind, relay):
            each.kill()
            each.wait(10)
    page.write()


if __name__ == "__main__":
    main()
