"""A receiver that is killed in the middle goes on where it stopped."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import blob_receiver
from blob_sources import BlobSource, payload_of, serving
from blyan.primitives.limits import MIB, subtile_bytes
from blyan.storage import partial
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import subtile_count

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


def durable(folder: Path) -> dict[str, set[int]]:
    """The subtiles of each payload that the store has, all of them verified again."""
    store = BlobStore(folder / "blobs", writable=True)
    found = {str(payload): set(range(subtile_count(store.size(payload)))) for payload in store.payloads()}
    for payload in store.unfinished():
        store.verify_unfinished(payload)
        have = partial.read_have(store.folder / "partial" / f"{payload}.have", payload, None)
        bits = int.from_bytes(have, "little")
        found[str(payload)] = {number for number in range(bits.bit_length()) if bits >> number & 1}
    return found


def asked_of(sources: Sequence[BlobSource]) -> dict[str, set[int]]:
    """The subtiles of each payload that sources were asked for; from now on they count anew."""
    found: dict[str, set[int]] = {payload: set() for payload in DATA}
    for source in sources:
        for payload, begin, end in source.asked:
            found[payload].update(range(begin // subtile_bytes, -(-end // subtile_bytes)))
        source.asked.clear()
    return found


@pytest.mark.slow
async def test_a_killed_receiver_does_not_download_again_what_it_had(tmp_path: Path) -> None:
    """SIGKILL, twice, at moments of its own; what had become durable by then is not asked for again."""
    total = sum(map(len, DATA.values()))
    sources = [BlobSource(DATA, bytes_per_second=MIB / 2) for _ in range(2)]
    async with serving(*sources):
        urls = [source.url for source in sources]
        kept: dict[str, set[int]] = {payload: set() for payload in DATA}
        for _ in range(2):
            with receiver(tmp_path, *urls) as process:
                await asyncio.to_thread(came, process, _bytes_of(kept) + 14 * MIB)
                process.kill()
            assert not any(kept[payload] & numbers for payload, numbers in asked_of(sources).items())
            before, kept = kept, {**kept, **durable(tmp_path)}
            assert all(before[payload] <= kept[payload] for payload in DATA)
        for source in sources:
            source.bytes_per_second = 0
        with receiver(tmp_path, *urls) as process:
            assert (await asyncio.to_thread(came, process, 2 * total))[-1] == "done"
    assert _bytes_of(kept) >= 12 * MIB
    asked = asked_of(sources)
    assert not any(kept[payload] & asked[payload] for payload in DATA)
    for payload, data in DATA.items():
        assert kept[payload] | asked[payload] == set(range(subtile_count(len(data))))
    store = BlobStore(tmp_path / "blobs")
    assert all(bytes(store.verify(payload).mapping) == data for payload, data in DATA.items())


def _bytes_of(subtiles: Mapping[str, set[int]]) -> int:
    return sum(map(len, subtiles.values())) * subtile_bytes
