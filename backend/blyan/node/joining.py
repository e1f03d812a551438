"""Taking over the chains of an archive: a node's own from before, or those of a network that it joins.

Steps: those of opening a data directory up to its key (`node/writer`), then those of `chain/archive`, which verifies
everything before it commits.
"""

from __future__ import annotations

from pathlib import Path

from blyan.chain.archive import ImportReport, import_archive
from blyan.node.config import NodeConfig
from blyan.node.writer import bring_to_schema, claimed
from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.ids import PublicKey
from blyan.storage.blob_store import BlobStore


def import_chains(
    config: NodeConfig, file: Path, trust: PublicKey | None, *, now: UnixSeconds, entropy: Entropy
) -> ImportReport:
    """Verify an archive and take its chains over; a new data directory gets a key of its own and reads them.

    `IntegrityFault`, `Denied` or `InvalidInput` as `import_archive`, and then the chains are as they were.
    """
    with claimed(config.data_dir) as claim:
        bring_to_schema(claim, config, entropy, now)
        store = BlobStore(config.data_dir / "blobs", writable=True, limit=config.storage.space)
        return import_archive(config.data_dir / "chain", store, file, trust)
