"""A receiver that is killed in the middle goes on where it stopped."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

import blob_receiver
from blob_sources import BlobSource, payload_of, serving
from blyan.primitives.limits import MIB, subtile_bytes
from blyan.storage import partial
from blyan.storage.blob_store import BlobStore

DATA = {payload_of(data): data for data in (random.Random(4).randbytes(40 * MIB), random.Random(5).randbytes(3 * MIB))}


def receiver(folder: Path, *urls: str) -> subprocess.Popen[str]:
    wanted = ",".join(f"{payload}:{len(data)}" for payload, data in DATA.items())
    command = [sys.executable, blob_receiver.__file__, str(folder), ",".join(urls), wanted]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def came(process: subprocess.Popen[str], until: int) -> list[str]:
    """The lines it says until so many bytes came, or to its end."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] != "done" and int(lines[-1]) >= until:
            break
    return lines


def durable_bytes(folder: Path) -> int:
    """What the store has wholly or in part, all of it verified again."""
    store = BlobStore(folder / "blobs", writable=True)
    count = sum(store.size(payload) for payload in store.payloads())
    for payload in store.unfinished():
        store.verify_unfinished(payload)
        have = partial.read_have(store.folder / "partial" / f"{payload}.have", payload, None)
        count += int.from_bytes(have, "little").bit_count() * subtile_bytes
    return count


@pytest.mark.slow
async def test_a_killed_receiver_does_not_download_again_what_it_had(tmp_path: Path) -> None:
    """SIGKILL, twice, at moments of its own; but for what came within the last seconds, nothing is asked for twice."""
    total = sum(map(len, DATA.values()))
    sources = [BlobSource(DATA, bytes_per_second=MIB / 2) for _ in range(2)]
    async with serving(*sources):
        urls = [source.url for source in sources]
        kept = 0
        for _ in range(2):
            with receiver(tmp_path, *urls) as process:
                await asyncio.to_thread(came, process, kept + 14 * MIB)
                process.kill()
            before, kept = kept, durable_bytes(tmp_path)
            assert kept >= before
        served = sum(source.bytes_served for source in sources)
        for source in sources:
            source.bytes_per_second = 0
        with receiver(tmp_path, *urls) as process:
            assert (await asyncio.to_thread(came, process, 2 * total))[-1] == "done"
    assert kept >= 12 * MIB
    again = sum(source.bytes_served for source in sources) - served
    assert again <= total - kept + MIB, "what a source still wrote to a dead receiver counts too"
    store = BlobStore(tmp_path / "blobs")
    assert all(bytes(store.verify(payload).mapping) == data for payload, data in DATA.items())
