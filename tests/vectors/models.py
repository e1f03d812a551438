"""Vectors of what changes which models a node offers."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from blyan.chain import snapshot
from blyan.chain.chains import Chains
from blyan.chain.entries import ExpertBody, ModelBody, ParameterBody, PayloadReference, RetirementBody
from blyan.model.manifest import parse_manifest
from blyan.model.request_defaults import RequestDefaults, Said
from blyan.primitives.ids import PayloadId
from blyan.primitives.keys import Key
from blyan.storage.blob_store import BlobStore
from blyan.storage.tile import index_of

KEY = Key.from_seed(bytes(range(32)))
TIME = 1_700_000_000


def retirement_vectors() -> Any:
    """The entry that withdraws a model, and the state of a network where one was withdrawn."""
    return _after_model(RetirementBody("m", "1.2.3"))


def price_vectors() -> Any:
    """The entry that sets a price, and the state of a network where one is set."""
    return _after_model(ParameterBody("price", "m", "USD 15000000 60000000"))


def _after_model(body: RetirementBody | ParameterBody) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = BlobStore(folder / "blobs", writable=True)
        chains = Chains(folder / "chain", KEY.public, store)
        genesis = chains.start(KEY, lambda: TIME)
        block = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
        part = chains.append(ExpertBody("m", 0, 0), (genesis,), block, KEY, lambda: TIME)
        manifest = replace(block, media="application/vnd.blyan.manifest+json")
        model = chains.append(ModelBody("m", "1.2.3", "qwen3_moe", 1, part), (part,), manifest, KEY, lambda: TIME)
        chains.append(body, (model,), None, KEY, lambda: TIME)
        chains.publish(KEY)
        raw = snapshot.encode(chains.state)
        return {
            "public": KEY.public,
            "entries": [each.decode() for each in chains.logs["meta"].entries(0, 3)],
            "snapshot": raw.hex(),
            "state_root": index_of(raw).payload_id,
        }


def request_defaults_vectors() -> Any:
    """The first manifest of manifest.json with everything that a Modelfile can say, and with one thing."""
    held = json.loads((Path(__file__).parent / "manifest.json").read_text())
    plain = parse_manifest(held["valid"][0]["bytes"].encode())
    full = RequestDefaults(
        system="Be brief. 간단히.",
        messages=(Said("user", "1+1?"), Said("assistant", "2")),
        stop=("<end>", "\nUser:"),
        seed=0,
        tokens_max=0,
        context_max=64,
        min_p=0.05,
        frequency_penalty=-0.5,
        presence_penalty=0.5,
        repetition_penalty=1.1,
        template="{{ .Prompt }}",
        license=("MIT", "text"),
        parent="base 1.0.0",
    )
    raws = [replace(plain, defaults=each).encode() for each in (full, RequestDefaults(seed=0))]
    return [{"bytes": raw.decode(), "payload": index_of(raw).payload_id} for raw in raws]
