"""Vectors of model entries that say licence and source, and of the states that hold them."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from blyan.chain import snapshot
from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, ModelBody, PayloadReference
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of

KEY = Key.from_seed(bytes(range(32)))
TIME = 1_700_000_000
ORIGINS = (("", ""), ("Apache-2.0", "huggingface:Qwen3-30B-A3B"), ("LicenseRef-x", ""), ("", "a: b/c (d)"))


def origin_vectors() -> Any:
    """One model in four versions: what its entries say of where it is from, and the state afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = BlobStore(folder / "blobs", writable=True)
        chains = Chains(folder / "chain", KEY.public, store)
        genesis = chains.start(KEY, lambda: TIME)
        block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
        part = chains.append(ExpertBody("m", 0, 0), (genesis,), block, KEY, lambda: TIME)
        manifest = replace(block, media="application/vnd.blyan.manifest+json")
        for number, (license_id, source) in enumerate(ORIGINS):
            body = ModelBody("m", f"1.{number}.0", "qwen3_moe", 1, part, license_id, source)
            chains.append(body, (part,), manifest, KEY, lambda: TIME)
        chains.publish(KEY)
        raw = snapshot.encode(chains.state)
        return {
            "public": KEY.public,
            "entries": [each.decode() for each in chains.logs["meta"].entries(0, 1 + len(ORIGINS))],
            "snapshot": raw.hex(),
            "state_root": index_of(raw).payload_id,
        }
