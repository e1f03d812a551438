"""A verified fetch from three nodes on loopback against one raw HTTP transfer into tmpfs and a durable write.

Fetched into tmpfs as the raw transfer is, into a disk (what is fetched is durable when it is said to be there), and so
by peer ports as nodes of a swarm fetch it: links, tokens, TLS.

Back of the envelope, in seconds of one core for 1 GB: a node copies a range out of its mapping and into the socket,
0.6 to 1.0; we take it out of the socket, 0.3; two hashes of it (as it comes, and from the disk before it becomes a
blob), 0.6; into the page cache and back, 0.4. On two cores, which the three nodes share with us, that is about 1 GB/s,
while one raw transfer has two cores for copying alone. Where the disk is slower, it is the bound. TLS costs 0.5 at
either end, and a copy on each side.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benched_node import BenchedNode, node_up
from harness import ROOT, SMOKE, Page, interleaved, percentile

from blyan.network.dialling import blobs_url
from blyan.network.door import token_kind
from blyan.network.fetching import fetch
from blyan.network.items import Wanted
from blyan.network.sources import Source, SourceBook, peer_source
from blyan.primitives.ids import PayloadId
from blyan.primitives.limits import MIB
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore

sys.path.insert(0, str(ROOT / "tests"))

from nodes import writing
from relays import RelayNode

PAYLOADS, LENGTH = (3, 5 * MIB) if SMOKE else (8, 128 * MIB)
RUNS = 1 if SMOKE else 5


def make_nodes(folder: Path) -> dict[PayloadId, int]:
    """Three data directories that hold the same payloads, once on the disk; their ids and lengths."""
    stored: dict[PayloadId, int] = {}
    for number in range(3):
        with writing(folder / str(number)) as ground:
            for _ in range(0 if stored else PAYLOADS):
                blob = ground.store.put([os.urandom(LENGTH)])
                stored[blob.payload] = blob.length
    first = BlobStore(folder / "0/blobs")
    for number in (1, 2):
        for payload in stored:
            for path in (first.path(payload), first.index_path(payload)):
                target = folder / str(number) / path.relative_to(folder / "0")
                target.parent.mkdir(exist_ok=True)
                os.link(path, target)
    return stored


def raw_transfer(node: BenchedNode, payloads: Mapping[PayloadId, int], target: Path) -> None:
    """One connection, one file in memory, nothing looked at: what HTTP on loopback gives."""
    buffer = memoryview(bytearray(4 * MIB))
    with socket.create_connection(node.address) as connection, target.open("wb", buffering=0) as file:
        for payload, length in payloads.items():
            request = f"GET /blobs/{payload} HTTP/1.1\r\nHost: {node.address[0]}:{node.address[1]}\r\n\r\n"
            connection.sendall(request.encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1 << 16)
            head, _, rest = head.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            file.write(rest)
            left = length - len(rest)
            while left:
                count = connection.recv_into(buffer[: min(left, len(buffer))])
                assert count, "the node closed the connection"
                file.write(buffer[:count])
                left -= count


def durable_write(payloads: Mapping[PayloadId, int], folder: Path, data: memoryview) -> None:
    """The same bytes onto the store's disk, as files of allocated space that are synced in the end."""
    folder.mkdir()
    for payload, length in payloads.items():
        handle = durable.open_alone(folder / payload)
        durable.allocate(handle, folder / payload, length, fresh=True)
        for at in range(0, length, len(data)):
            durable.write_at(handle, data[: min(len(data), length - at)], at)
        durable.sync(handle)
        os.close(handle)


def verified_fetch(nodes: Sequence[BenchedNode], payloads: Mapping[PayloadId, int], folder: Path) -> None:
    """Ours."""
    store = BlobStore(folder / "blobs", writable=True)
    book = SourceBook(folder / "bad-sources.json", lambda: 1_700_000_000)
    wanted = [Wanted(*each) for each in payloads.items()]
    asyncio.run(fetch(store, wanted, [peer_source(node.url) for node in nodes], book))


@contextmanager
def peer_port(folder: Path) -> Iterator[str]:
    """The URL of one that gives the blobs of a data directory, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("worker_blobs.py")), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None, "pipes"
        try:
            yield running.stdout.readline().strip()
        finally:
            running.stdin.close()


def fetch_from_peers(urls: Sequence[str], payloads: Mapping[PayloadId, int], folder: Path) -> None:
    """Ours as nodes of a swarm do it: links, tokens, TLS."""
    store = BlobStore(folder / "blobs", writable=True)
    book = SourceBook(folder / "bad-sources.json", lambda: 1_700_000_000)
    wanted = [Wanted(*each) for each in payloads.items()]

    async def run() -> None:
        async with RelayNode() as node:
            sources: list[Source] = []
            for url in urls:
                link = await node.dial(url)
                token = (await link.request(token_kind, {}, seconds=5)).fields["token"]
                sources.append(Source(blobs_url(url), None, token, link.peer.certificate))
            await fetch(store, wanted, sources, book)

    asyncio.run(run())


def check(nodes: Sequence[BenchedNode], payloads: Mapping[PayloadId, int], folder: Path, theirs: BlobStore) -> None:
    """Both give the bytes that were stored; and the nodes have verified them once, so that it is not timed."""
    for node in nodes:
        raw_transfer(node, payloads, folder / "raw")
    verified_fetch(nodes, payloads, folder / "checked")
    ours = BlobStore(folder / "checked/blobs")
    with (folder / "raw").open("rb") as raw:
        for payload, length in payloads.items():
            expected = theirs.path(payload).read_bytes()
            assert expected == ours.path(payload).read_bytes() == raw.read(length)
    shutil.rmtree(folder / "checked")


def main() -> None:
    page = Page("fetch", "Verified fetch from three nodes", __doc__.partition("\n\n")[2].strip())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        payloads = make_nodes(folder)
        total = sum(payloads.values())
        nodes = [stack.enter_context(node_up(folder / str(number))) for number in range(3)]
        peers = [stack.enter_context(peer_port(folder / str(number))) for number in range(3)]
        check(nodes, payloads, folder, BlobStore(folder / "0/blobs"))
        data = memoryview(os.urandom(4 * MIB))

        def clean() -> None:
            for path in (folder / "ours", folder / "written", memory / "raw", memory / "ours", folder / "peers"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            os.sync()  # nobody pays for the files of the one before

        seconds = interleaved(
            RUNS,
            lambda: verified_fetch(nodes, payloads, folder / "ours"),
            lambda: raw_transfer(nodes[0], payloads, memory / "raw"),
            lambda: durable_write(payloads, folder / "written", data),
            lambda: verified_fetch(nodes, payloads, memory / "ours"),
            lambda: fetch_from_peers(peers, payloads, folder / "peers"),
            before=clean,
        )
        clean()
    ours, raw, written, in_memory, encrypted = (total / percentile(each, 0.5) / 1e9 for each in seconds)
    page.row(f"{len(payloads)} payloads of {LENGTH // MIB} MiB, fetched, verified, durable", f"{ours:.2f} GB/s")
    page.row("one raw transfer from one of those nodes into tmpfs", f"{raw:.2f} GB/s")
    page.row("a durable write of as many bytes", f"{written:.2f} GB/s")
    page.row("the same fetch into tmpfs, as the raw transfer", f"{in_memory:.2f} GB/s")
    page.row("the same fetch from three peer ports (TLS), durable", f"{encrypted:.2f} GB/s")
    page.row("fetch into tmpfs ÷ raw transfer into tmpfs", f"{in_memory / raw:.2f}")
    page.row("by peer ports ÷ by HTTP, both durable", f"{encrypted / ours:.2f}")
    page.row("fetch ÷ the bound in force", f"{ours / min(raw, written):.2f}", "≥ 0.7")
    page.write()


if __name__ == "__main__":
    main()
