"""Which payloads a node needs, and for what: every version of its models, its datasets, the state it promises."""

from __future__ import annotations

from blyan.model.manifest import read_manifest
from blyan.node.data_directory import Ground
from blyan.primitives.ids import PayloadId


def payloads_in_use(ground: Ground) -> dict[PayloadId, str]:
    """Payload → what needs it. A damaged or absent manifest is a fault: guessing would let its blocks be swept."""
    used: dict[PayloadId, str] = {}
    for name, versions in ground.chains.state.models.items():
        for version in versions:
            used[version.manifest] = f"{name} {version.version} manifest"
            for part, block in read_manifest(ground.store, version.manifest).blocks.items():
                used.setdefault(block.payload, f"{name} {version.version} {part}")
    for name, published in ground.chains.state.datasets.items():
        for dataset in published:
            used.setdefault(dataset.payload, f"dataset {name}")
    if ground.chains.joint.state is not None:
        used.setdefault(ground.chains.joint.state.payload, "state of the chains")
    return used
