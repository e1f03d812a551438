"""A receiver in its own process, to be killed in the middle: fetches payloads into a store and says what came.

`blob_receiver.py FOLDER URL,URL PAYLOAD:LENGTH,…` prints a line with the bytes so far after each piece, then `done`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from blyan.network.fetching import fetch
from blyan.network.items import Wanted
from blyan.network.sources import Source, SourceBook
from blyan.primitives.ids import payload_id
from blyan.storage.blob_store import BlobStore


def main(folder: Path, urls: str, payloads: str) -> None:
    """Fetch, then say so."""
    store = BlobStore(folder / "blobs", writable=True)
    wanted = [Wanted(payload_id(each.partition(":")[0]), int(each.partition(":")[2])) for each in payloads.split(",")]
    came = 0

    def progress(_payload: str, count: int) -> None:
        nonlocal came
        came += count
        print(came, flush=True)

    book = SourceBook(folder / "bad-sources.json", lambda: 1_700_000_000)
    asyncio.run(fetch(store, wanted, [Source(url) for url in urls.split(",")], book, progress=progress))
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
