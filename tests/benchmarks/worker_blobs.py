"""A peer port that gives the blobs of a data directory, in a process of its own: `FOLDER`; it writes where it is."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from blyan.storage.blob_store import BlobStore
from relays import RelayNode


async def main(folder: Path) -> None:
    """Until the input ends."""
    async with RelayNode(store=BlobStore(folder / "blobs")) as node:
        print(node.url, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
