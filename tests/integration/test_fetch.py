"""Fetching from several sources at once over real sockets: those that lie, stall, break off, lack things."""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from blob_sources import BlobSource, payload_of, serving, source_process
from blyan.network.fetching import fetch
from blyan.network.items import Wanted
from blyan.network.receiving import FetchPolicy, SourceReport
from blyan.network.sources import Source, SourceBook
from blyan.primitives.errors import InvalidInput, NotFound, PeerFault, StorageFull
from blyan.primitives.limits import KIB, MIB, bad_source_seconds, subtile_bytes
from blyan.storage.blob_store import BlobStore
from blyan.storage.space import SpaceLimits

SMALL = random.Random(1).randbytes(70_000)  # one subtile: needs no index
LARGE = random.Random(2).randbytes(9 * MIB + 777)
OTHER = random.Random(3).randbytes(5 * MIB)
ALL = {payload_of(data): data for data in (SMALL, LARGE, OTHER)}
SMALL_ID, LARGE_ID, OTHER_ID = ALL
NOW = 1_700_000_000
QUICK = FetchPolicy(stall_seconds=1.0)


class Receiver:
    """A store, and what is remembered beside it."""

    def __init__(self, folder: Path, now: int = NOW, limit: SpaceLimits | None = None) -> None:
        self.store = BlobStore(folder / "blobs", writable=True, limit=limit)
        self.book = SourceBook(folder / "bad-sources.json", lambda: now)
        self.came: dict[str, int] = {}
        self._until: tuple[int, asyncio.Event] = (0, asyncio.Event())

    def progress(self, payload: str, count: int) -> None:
        self.came[payload] = self.came.get(payload, 0) + count
        if sum(self.came.values()) >= self._until[0]:
            self._until[1].set()

    async def until(self, count: int) -> None:
        """Wait until so many bytes came."""
        self._until = count, asyncio.Event()
        self.progress("", 0)
        await self._until[1].wait()
        self.came.pop("")

    async def fetch(
        self, *sources: BlobSource | str, payloads: Sequence[str] = tuple(ALL), policy: FetchPolicy = QUICK
    ) -> tuple[SourceReport, ...]:
        wanted = [Wanted(payload, len(ALL[payload])) for payload in payloads]
        urls = [each if isinstance(each, str) else each.url for each in sources]
        made = [Source(url) for url in urls]
        return await fetch(self.store, wanted, made, self.book, progress=self.progress, policy=policy)

    def has(self, *payloads: str) -> bool:
        return all(bytes(self.store.verify(payload).mapping) == ALL[payload] for payload in payloads)


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path)


async def test_several_sources_share_the_work(receiver: Receiver) -> None:
    """Every byte is asked for once, each source gives some, and progress says when what is here."""
    async with serving(*(BlobSource(ALL, bytes_per_second=20 * MIB) for _ in range(3))) as sources:
        reports = await receiver.fetch(*sources)
    assert receiver.has(*ALL)
    assert receiver.came == {payload: len(data) for payload, data in ALL.items()}
    assert sum(report.bytes for report in reports) == sum(map(len, ALL.values()))
    assert all(report.bytes > MIB and not report.failures for report in reports), reports
    assert sum(source.bytes_served for source in sources) < 1.3 * sum(map(len, ALL.values()))
    assert list(receiver.store.unfinished()) == []


async def test_what_is_here_is_not_asked_for(receiver: Receiver) -> None:
    """A second fetch asks nobody, and says at once that all is here."""
    async with serving(BlobSource(ALL)) as (source,):
        await receiver.fetch(source)
        source.asked.clear()
        receiver.came.clear()
        await receiver.fetch(source)
    assert source.asked == []
    assert receiver.came == {payload: len(data) for payload, data in ALL.items()}


async def test_a_source_that_lies_is_dropped_for_that_payload_and_remembered(tmp_path: Path) -> None:
    """A flipped byte: the others make up for it; after a restart it is not asked for that payload for some hours."""
    liar = BlobSource(ALL, flips={LARGE_ID: range(5, len(LARGE), subtile_bytes)})
    async with serving(liar, BlobSource(ALL, bytes_per_second=8 * MIB)) as (_, honest):
        first = Receiver(tmp_path)
        reports = await first.fetch(liar, honest)
        assert first.has(*ALL)
        assert reports[0].bad == [LARGE_ID]
        assert reports[0].bytes > 0, "what it gave that is right was kept"
        liar.asked.clear()
        liar.asked_index.clear()
        for now, asked in ((NOW + 60, False), (NOW + bad_source_seconds + 60, True)):
            again = Receiver(tmp_path / str(now), now)
            again.book = SourceBook(tmp_path / "bad-sources.json", lambda now=now: now)
            with pytest.raises(PeerFault, match=f"{LARGE_ID}.*wrong bytes: subtile [0-9]+ of") as refused:
                await again.fetch(liar)
            assert ("remembered" in refused.value.message) is not asked
            assert (LARGE_ID in {payload for payload, _, _ in liar.asked}) is asked
            assert again.has(SMALL_ID, OTHER_ID), "it lied about one payload: others are taken of it"


async def test_a_tile_index_that_lies_is_refused(receiver: Receiver) -> None:
    """The payload id tells; another source's is taken."""
    liar = BlobSource(ALL, indexes={LARGE_ID: bytes(32 * 37), OTHER_ID: b"short"})
    async with serving(liar, BlobSource(ALL, bytes_per_second=50 * MIB)) as (_, honest):
        with pytest.raises(PeerFault, match="wrong tile index: expected one of payload"):
            await receiver.fetch(liar, payloads=[LARGE_ID])
        with pytest.raises(PeerFault, match="tile index: expected 640 bytes, found 5"):
            await receiver.fetch(liar, payloads=[OTHER_ID])
        await receiver.fetch(liar, honest)
    assert receiver.has(*ALL)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            BlobSource(ALL, redirect="http://127.0.0.1:9/blobs"),
            "expected status 200 or 206 and no encoding, found status 302",
        ),
        (BlobSource(ALL, status=403), "found status 403"),
        (BlobSource(ALL, headers={"Content-Encoding": "gzip"}), "found encoding 'gzip'"),
        (BlobSource(ALL, extra=1), "expected one Content-Length, found another framing"),
        (BlobSource(ALL, longer=1), f"expected {MIB} bytes, found {MIB + 1}"),
    ],
    ids=["redirect", "status", "encoding", "chunked and longer", "longer"],
)
async def test_an_answer_that_is_not_what_was_asked_for_is_refused(
    source: BlobSource, said: str, receiver: Receiver
) -> None:
    """Alone it is named with what was wrong; beside another source nothing is lost."""
    async with serving(source, BlobSource(ALL)) as (_, honest):
        with pytest.raises(PeerFault) as refused:
            await receiver.fetch(source, payloads=[LARGE_ID])
        assert said in refused.value.message
        assert LARGE_ID in refused.value.message
        assert refused.value.detail["sources"] == [source.url]
        await receiver.fetch(source, honest)
    assert receiver.has(*ALL)
    if source.redirect:
        assert source.asked == []


async def test_a_source_that_stalls_in_the_middle_does_not_hold_the_end(receiver: Receiver) -> None:
    """Its pieces are taken over before it is given up: far quicker than the stall is found."""
    silent = BlobSource(ALL, stall_after=300 * KIB)
    began = time.monotonic()
    async with serving(silent, BlobSource(ALL)) as (_, honest):
        await receiver.fetch(silent, honest, policy=FetchPolicy(stall_seconds=30.0))
    assert time.monotonic() - began < 5
    assert receiver.has(*ALL)


async def test_a_source_that_only_stalls_is_given_up_and_named(receiver: Receiver) -> None:
    """What came wholly before it fell silent is kept for the next try."""
    silent = BlobSource(ALL, stall_after=subtile_bytes + 1)
    async with serving(silent, BlobSource(ALL)) as (_, honest):
        policy = FetchPolicy(stall_seconds=0.1)
        task = asyncio.create_task(receiver.fetch(silent, payloads=[OTHER_ID], policy=policy))
        await receiver.until(4 * subtile_bytes)
        silent.stall_after = 5
        with pytest.raises(PeerFault, match=r"expected the rest of the answer, found silence for 0\.1 s in 4 attempts"):
            await task
        kept = receiver.came[OTHER_ID]
        await receiver.fetch(honest, payloads=[OTHER_ID])
    assert receiver.has(OTHER_ID)
    assert honest.bytes_served <= len(OTHER) - kept


async def test_a_slow_source_does_little_and_does_not_hold_the_end(receiver: Receiver) -> None:
    """The last pieces are asked of a second source."""
    slow = BlobSource(ALL, bytes_per_second=50 * KIB)
    began = time.monotonic()
    async with serving(slow, BlobSource(ALL, bytes_per_second=20 * MIB)) as (_, fast):
        reports = await receiver.fetch(slow, fast)
    assert time.monotonic() - began < 6, "at the slow one's speed one piece would take twenty"
    assert receiver.has(*ALL)
    assert reports[0].bytes < reports[1].bytes / 10
    assert reports[0].failures == 0


async def test_a_connection_that_breaks_is_made_again(receiver: Receiver) -> None:
    """And what came before is not asked for twice."""
    async with serving(BlobSource({LARGE_ID: LARGE}, break_after=2 * MIB)) as (source,):
        task = asyncio.create_task(receiver.fetch(source, payloads=[LARGE_ID]))
        await receiver.until(3 * MIB)
        source.break_after = None
        await task
    assert receiver.has(LARGE_ID)
    assert source.bytes_served < len(LARGE) + MIB


async def test_a_source_process_that_is_killed_is_made_up_for(receiver: Receiver, tmp_path: Path) -> None:
    """SIGKILL in the middle of its answers."""
    folder = tmp_path / "served"
    folder.mkdir()
    for payload, data in ALL.items():
        (folder / payload).write_bytes(data)
    with source_process(folder, 3 * MIB) as doomed, source_process(folder, 3 * MIB) as other:
        task = asyncio.create_task(receiver.fetch(doomed.url, other.url))
        await receiver.until(2 * MIB)
        doomed.kill()
        reports = await task
    assert receiver.has(*ALL)
    assert reports[0].bytes > 0
    assert reports[0].failures > 0


async def test_sources_that_lack_payloads_are_asked_for_what_they_have(receiver: Receiver) -> None:
    """Nobody has all, together they do; what is rare is not left for the end."""
    first = BlobSource(ALL, lacks=frozenset({LARGE_ID}))
    second = BlobSource(ALL, lacks=frozenset({OTHER_ID, SMALL_ID}))
    async with serving(first, second):
        await receiver.fetch(first, second)
        assert receiver.has(*ALL)
        with pytest.raises(NotFound, match="no tile index of it") as missing:
            await Receiver(receiver.store.folder.parent / "new").fetch(first)
    assert missing.value.detail["payload"] == LARGE_ID


async def test_what_can_be_had_is_fetched_though_something_cannot(receiver: Receiver) -> None:
    """The error says for each source what was wrong; nothing is lost."""
    liar = BlobSource(ALL, flips={LARGE_ID: [1], SMALL_ID: [1]})
    refusing = BlobSource(ALL, status=403)
    async with serving(liar, refusing):
        with pytest.raises(PeerFault) as refused:
            await receiver.fetch(liar, refusing)
    assert f"{liar.url}: wrong bytes" in refused.value.message
    assert f"{refusing.url}: " in refused.value.message
    assert "and 1 more" in refused.value.message
    assert receiver.has(OTHER_ID)


async def test_a_source_without_indexes_gives_bytes(receiver: Receiver) -> None:
    """Once another gave the index; alone it is enough for what is one subtile."""
    bare = BlobSource(ALL, without_index=True)
    async with serving(bare, BlobSource(ALL, bytes_per_second=2 * MIB)) as (_, other):
        reports = await receiver.fetch(bare, other)
        assert receiver.has(*ALL)
        assert reports[0].bytes > reports[1].bytes
        with pytest.raises(NotFound, match="no tile index of it"):
            await Receiver(receiver.store.folder.parent / "new").fetch(bare)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A copy of a node's `blobs/` behind Python's own server, which knows no ranges."""
    theirs = BlobStore(tmp_path / "mirror/blobs", writable=True)
    for data in ALL.values():
        theirs.put([data])
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(theirs.folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_plain_static_mirror_serves(receiver: Receiver, mirror: str) -> None:
    """Alone, and beside a node."""
    reports = await receiver.fetch(mirror)
    assert receiver.has(*ALL)
    assert reports[0].bytes == sum(map(len, ALL.values()))
    beside = Receiver(receiver.store.folder.parent / "beside")
    async with serving(BlobSource({SMALL_ID: SMALL})) as (node,):
        reports = await beside.fetch(mirror, node)
    assert beside.has(*ALL)
    assert reports[0].bytes >= len(LARGE) + len(OTHER)


@pytest.mark.parametrize("policy", [FetchPolicy(rate=4 * MIB), FetchPolicy(source_rate=2 * MIB)], ids=["all", "each"])
async def test_rates_are_kept(policy: FetchPolicy, receiver: Receiver) -> None:
    """5 MiB at 4 MiB/s, of two sources, take 1.25 s."""
    async with serving(BlobSource(ALL), BlobSource(ALL)) as sources:
        began = time.monotonic()
        await receiver.fetch(*sources, payloads=[OTHER_ID], policy=policy)
        seconds = time.monotonic() - began
    assert receiver.has(OTHER_ID)
    assert 1.0 <= seconds <= 2.0
    assert sum(source.bytes_served for source in sources) <= 1.1 * len(OTHER), "the rate is no reason to ask twice"


async def test_who_stops_finds_what_came(receiver: Receiver) -> None:
    """By cancelling, and by an error in `progress`."""
    async with serving(BlobSource(ALL, bytes_per_second=4 * MIB)) as (source,):
        task = asyncio.create_task(receiver.fetch(source, payloads=[LARGE_ID]))
        await receiver.until(2 * MIB)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = receiver.came[LARGE_ID]
        receiver.came.clear()

        def refuse(_payload: str, _count: int) -> None:
            raise InvalidInput("nobody listens")

        with pytest.raises(InvalidInput, match="nobody listens"):
            await fetch(
                receiver.store, [Wanted(LARGE_ID, len(LARGE))], [Source(source.url)], receiver.book, progress=refuse
            )
        source.bytes_per_second = source.bytes_served = 0
        await receiver.fetch(source, payloads=[LARGE_ID])
    assert receiver.has(LARGE_ID)
    assert source.bytes_served <= len(LARGE) - kept


async def test_a_full_disk_ends_it_at_once(tmp_path: Path) -> None:
    """It is nobody's fault but the moment's."""
    receiver = Receiver(tmp_path, limit=SpaceLimits(bytes_max=MIB))
    async with serving(BlobSource(ALL)) as (source,):
        with pytest.raises(StorageFull):
            await receiver.fetch(source)


async def test_what_cannot_be_asked_for_is_refused(receiver: Receiver) -> None:
    """Before anybody is asked."""
    with pytest.raises(InvalidInput, match="expected 1 to 128 sources"):
        await receiver.fetch()
    for wanted, said in (
        ([Wanted(SMALL_ID, 5), Wanted(SMALL_ID, 6)], "one length each"),
        ([Wanted(SMALL_ID, 0)], "expected 1 to"),
    ):
        with pytest.raises(InvalidInput, match=said):
            await fetch(receiver.store, wanted, [Source("http://127.0.0.1:9")], receiver.book)


async def test_many_small_payloads_come(receiver: Receiver) -> None:
    """More than are open at once."""
    many = {payload_of(data): data for data in (os.urandom(1 + number * 37) for number in range(120))}
    async with serving(BlobSource(many), BlobSource(many)) as sources:
        wanted = [Wanted(payload, len(data)) for payload, data in many.items()]
        await fetch(receiver.store, wanted, [Source(each.url) for each in sources], receiver.book)
    assert all(receiver.store.read(payload, bytes_max=MIB) == data for payload, data in many.items())
