"""Whatever sources do, a fetch ends in exact bytes or in a clear fault."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blob_sources import BlobSource, payload_of, serving
from blyan.network.fetching import fetch
from blyan.network.items import Wanted
from blyan.network.receiving import FetchPolicy
from blyan.network.sources import Source, SourceBook
from blyan.primitives.errors import NotFound, PeerFault
from blyan.primitives.limits import KIB, MIB, subtile_bytes
from blyan.storage.blob_store import BlobStore

LENGTHS = (1, subtile_bytes, subtile_bytes + 1, 9 * subtile_bytes - 5)
ALL = {payload_of(data): data for data in (random.Random(length).randbytes(length) for length in LENGTHS)}
QUICK = FetchPolicy(stall_seconds=0.3, piece_seconds_max=2.0)

honest = BlobSource(ALL)
kinds = st.sampled_from(
    [
        honest,
        replace(honest, flips={payload: [len(data) - 1] for payload, data in ALL.items()}),
        replace(honest, indexes={payload: bytes(32 * 9) for payload in ALL}),
        replace(honest, without_index=True),
        replace(honest, ranges=False),
        replace(honest, lacks=frozenset(list(ALL)[::2])),
        replace(honest, stall_after=100 * KIB),
        replace(honest, break_after=300 * KIB),
        replace(honest, bytes_per_second=8 * MIB),
        replace(honest, extra=3),
        replace(honest, longer=1),
        replace(honest, status=503, headers={"Retry-After": "0"}),
        replace(honest, redirect="http://127.0.0.1:9"),
    ]
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(kinds, min_size=1, max_size=4))
def test_any_sources_end_in_exact_bytes_or_a_clear_fault(sources: list[BlobSource]) -> None:
    """With an honest one among them all is had; what is stored is always what its id says."""
    asyncio.run(end_of(sources))


async def end_of(sources: list[BlobSource]) -> None:
    fresh = [replace(each, asked=[], asked_index=[]) for each in sources]
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder) / "blobs", writable=True)
        book = SourceBook(Path(folder) / "book", lambda: 1_700_000_000)
        wanted = [Wanted(payload, len(data)) for payload, data in ALL.items()]
        fault = None
        async with serving(*fresh), asyncio.timeout(60):
            try:
                await fetch(store, wanted, [Source(each.url) for each in fresh], book, policy=QUICK)
            except (PeerFault, NotFound) as reason:
                fault = reason
        here = {payload: bytes(store.verify(payload).mapping) for payload in store.payloads()}
        assert all(ALL[payload] == data for payload, data in here.items())
        if honest in sources:
            assert fault is None
        if fault is None:
            assert here == ALL
        else:
            assert str(fault.detail["payload"]) in fault.message
            assert str(fault.detail["payload"]) not in here
            assert all(each.url in fault.message for each in fresh)
