"""Two fetches of one payload at once, of two threads or two processes: it comes once, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from blob_sources import BlobSource, payload_of, serving
from blyan.network.fetching import fetch
from blyan.network.items import Wanted
from blyan.network.sources import Source, SourceBook
from blyan.primitives.limits import MIB
from blyan.storage import durable
from blyan.storage.blob_store import BlobStore
from relays import until

DATA = random.Random(2).randbytes(6 * MIB + 777)
PAYLOAD = payload_of(DATA)
SLOW = 8.0 * MIB  # bytes a second of each answer
TWICE = 1.25 * len(DATA)  # more than this was asked for twice


class Fetching:
    """One who wants the payload in a folder, and how much of it came."""

    def __init__(self, folder: Path, source: BlobSource) -> None:
        self.store = BlobStore(folder / "blobs")
        self.book = SourceBook(folder / "bad-sources.json", lambda: 1_700_000_000)
        self.url, self.came = source.url, 0

    def progress(self, _payload: str, count: int) -> None:
        self.came += count

    async def __call__(self) -> None:
        wanted = [Wanted(PAYLOAD, len(DATA))]
        await fetch(self.store, wanted, [Source(self.url)], self.book, progress=self.progress)

    def in_a_thread(self) -> asyncio.Future[None]:
        """With a loop of its own, as a pull has it."""
        return asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(self())))

    async def until(self, count: int) -> None:
        await until(lambda: self.came >= count)

    @property
    def whole(self) -> bool:
        return bytes(self.store.verify(PAYLOAD).mapping) == DATA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BlobStore(tmp_path / "blobs", writable=True)
    return tmp_path


async def test_two_threads_fetch_a_payload_once(folder: Path) -> None:
    """Both have it in the end, and hear of all of it."""
    async with serving(BlobSource({PAYLOAD: DATA}, bytes_per_second=SLOW)) as (source,):
        both = [Fetching(folder, source) for _ in range(2)]
        await asyncio.wait_for(asyncio.gather(*(each.in_a_thread() for each in both)), 15)
        assert source.bytes_served < TWICE
    assert all(each.whole and each.came == len(DATA) for each in both)
    assert not list((folder / "blobs" / "partial").iterdir())


async def test_who_waits_goes_on_where_the_other_stopped(folder: Path) -> None:
    """Cancelled in the middle."""
    async with serving(BlobSource({PAYLOAD: DATA}, bytes_per_second=SLOW)) as (source,):
        first, second = Fetching(folder, source), Fetching(folder, source)
        task = asyncio.create_task(first())
        await first.until(1)
        waiting = asyncio.create_task(second())
        await first.until(3 * MIB)
        assert not second.came
        task.cancel()
        await asyncio.wait_for(waiting, 15)
        assert source.bytes_served < TWICE
    assert second.whole


async def test_two_processes_fetch_a_payload_once_though_one_is_killed(folder: Path) -> None:
    """What the killed one had synced is not fetched again."""
    async with serving(BlobSource({PAYLOAD: DATA}, bytes_per_second=SLOW / 4)) as (source,):
        command = [sys.executable, str(Path(__file__).parents[1] / "blob_receiver.py"), str(folder), source.url]
        other = await asyncio.create_subprocess_exec(*command, f"{PAYLOAD}:{len(DATA)}", stdout=subprocess.PIPE)
        assert other.stdout is not None
        while int(await asyncio.wait_for(other.stdout.readline(), 15)) < 2 * MIB:
            pass
        ours = Fetching(folder, source)
        waiting = asyncio.create_task(ours())
        await until(lambda: len(source.asked_index) > 1)
        assert not ours.came
        other.kill()
        await other.wait()
        source.bytes_per_second = 0.0
        await asyncio.wait_for(waiting, 15)
    assert ours.whole


def test_a_file_that_was_renamed_or_removed_meanwhile_is_nobodys(tmp_path: Path) -> None:
    """Who opens it next has a new one; who has it is alone with it."""
    path = tmp_path / "file"
    first = durable.open_alone(path)
    with pytest.raises(BlockingIOError):
        durable.open_alone(path)
    path.rename(tmp_path / "elsewhere")
    second = durable.open_alone(path)
    durable.remove(path)
    third = durable.open_alone(path)
    assert len({first, second, third}) == 3
