"""Which payloads a node needs, and for what: every version of its models, its datasets, the state it promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from blyan.chain.chains import Chains
from blyan.model.manifest import read_manifest
from blyan.node.data_directory import Ground
from blyan.node.holdings import HeldModel, read_held
from blyan.primitives.errors import Fault, IntegrityFault, NotFound
from blyan.primitives.ids import PayloadId
from blyan.storage.blob_store import BlobStore


def payloads_in_use(ground: Ground) -> dict[PayloadId, str]:
    """Payload → what needs it. A damaged or absent manifest is a fault: guessing would let its blocks be swept."""
    used: dict[PayloadId, str] = {}
    for manifest, name in _manifests(ground.chains):
        used[manifest] = f"{name} manifest"
        for payload, why in _blocks(ground.store, manifest, name):
            used.setdefault(payload, why)
    for payload, why in _others(ground.chains):
        used.setdefault(payload, why)
    for manifest, held in read_held(ground.folder).items():
        used.setdefault(manifest, f"{held.name} manifest, of the swarm")
        for payload, why in _blocks(ground.store, manifest, held.name):
            used.setdefault(payload, why)
    return used


def unmet_needs(chains: Chains, store: BlobStore, held: Mapping[PayloadId, HeldModel]) -> dict[PayloadId, str]:
    """Payload → a sentence, for each that these chains need and that is not in `store`; nothing is hashed for it.

    What is `held` elsewhere on purpose is not needed here. Of a manifest that cannot be read, that alone is said:
    nobody knows which blocks it names.
    """
    needed, unmet = dict(_others(chains)), dict[PayloadId, str]()
    for manifest, name in _manifests(chains):
        try:
            needed.update(_wanted(store, manifest, name, held.get(manifest)))
        except Fault as reason:
            unmet[manifest] = f"{name} manifest: {reason.message}"
    for payload, why in needed.items():
        try:
            store.size(payload)
        except (NotFound, IntegrityFault) as reason:
            unmet.setdefault(payload, f"{why}: {reason.message}")
    return unmet


def _manifests(chains: Chains) -> Iterator[tuple[PayloadId, str]]:
    for name, versions in chains.state.models.items():
        yield from ((version.manifest, f"{name} {version.version}") for version in versions)


def _blocks(store: BlobStore, manifest: PayloadId, name: str) -> Iterator[tuple[PayloadId, str]]:
    for part, block in read_manifest(store, manifest).blocks.items():
        yield block.payload, f"{name} {part}"


def _wanted(
    store: BlobStore, manifest: PayloadId, name: str, held: HeldModel | None
) -> Iterator[tuple[PayloadId, str]]:
    """The blocks of a model that are to be here."""
    for part, block in read_manifest(store, manifest).blocks.items():
        if held is None or not held.may_lack(part):
            yield block.payload, f"{name} {part}"


def _others(chains: Chains) -> Iterator[tuple[PayloadId, str]]:
    for name, published in chains.state.datasets.items():
        yield from ((dataset.payload, f"dataset {name}") for dataset in published)
    if chains.joint.state is not None:
        yield chains.joint.state.payload, "state of the chains"
