"""Payloads from several sources at once into the store, subtile by subtile, each verified before it is written.

What came stays for the next try, also after a kill (`storage/partial`). Who is asked for what is decided in
`network/pieces`, and carried out in `network/receiving`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from blyan.network.items import Wanted
from blyan.network.landing import is_missing
from blyan.network.pieces import PieceTable, absent, no_index, not_said
from blyan.network.receiving import FetchPolicy, Progress, Receiving, SourceReport
from blyan.network.sources import Source, SourceBook
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, PeerFault
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore

_said_sources_max: Final = 8
_said_payloads_max: Final = 64


def nothing(_payload: PayloadId, _count: int) -> None:
    """Progress that nobody wants to hear of."""


async def fetch(
    store: BlobStore,
    wanted: Iterable[Wanted],
    sources: Sequence[Source],
    book: SourceBook,
    *,
    progress: Progress = nothing,
    policy: FetchPolicy | None = None,
    told: Callable[[tuple[SourceReport, ...]], None] = lambda _: None,
) -> tuple[SourceReport, ...]:
    """Make the store hold these payloads; the reports are in the order of the sources.

    What another fetch takes in, of this process or another one, is waited for, and taken over where that one stops.
    `progress` gets each payload's bytes as they are verified, those that are here already at once; it may raise to
    stop. Whoever cancels finds what came kept. In the end `PeerFault`, or `NotFound` where every source says that it
    has it not, names a payload that could not be had and what was wrong with each source; the others are here by then.
    `StorageFull`, `IntegrityFault` of the own disk end it at once. `told` gets the reports however it ends.
    """
    if not sources or len(sources) > limits.sources_max:
        raise InvalidInput(f"fetch: expected 1 to {limits.sources_max} sources, found {len(sources)}")
    lengths: dict[PayloadId, int] = {}
    for each in wanted:
        if lengths.setdefault(each.payload, each.length) != each.length or len(lengths) > limits.fetched_payloads_max:
            raise InvalidInput(f"fetch: expected payloads of one length each, and not too many, at {each.payload}")
    missing: list[Wanted] = []
    for each in await asyncio.to_thread(_missing, store, lengths):
        if each[1]:
            missing.append(each[0])
        else:
            progress(each[0].payload, each[0].length)
    run = Receiving(store, missing, sources, book, progress, policy or FetchPolicy())
    if missing:
        try:
            await run.run()
        finally:
            told(tuple(run.reports))
        _want_all(run.table, sources)
    return tuple(run.reports)


def _missing(store: BlobStore, lengths: dict[PayloadId, int]) -> list[tuple[Wanted, bool]]:
    """Each payload, and whether it is to be fetched."""
    return [(Wanted(payload, length), is_missing(store, payload, length)) for payload, length in lengths.items()]


def _want_all(table: PieceTable, sources: Sequence[Source]) -> None:
    """`PeerFault` or `NotFound` if a payload could not be had."""
    failed = [item for item in table.items if item.stage == "failed"]
    if not failed:
        return
    item, payload = failed[0], failed[0].wanted.payload
    whys = [table.why(number, item) for number in range(len(sources))]
    detail = {
        "payload": payload,
        "payloads": [str(each.wanted.payload) for each in failed[:_said_payloads_max]],
        "sources": [source.name for source in sources],
    }
    said = [f"{source.name}: {why}" for source, why in zip(sources, whys, strict=True)]
    rest = f"; and {len(said) - _said_sources_max} more" if len(said) > _said_sources_max else ""
    text = f"payload {payload}: expected a source that gives it, found {'; '.join(said[:_said_sources_max])}{rest}"
    if len(failed) > 1:
        text += f" (and {len(failed) - 1} more payloads that nobody gave)"
    kind = NotFound if all(why in (absent, not_said, no_index) for why in whys) else PeerFault
    raise kind(text, detail=detail)
