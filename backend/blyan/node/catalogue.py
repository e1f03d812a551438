"""The models of this node's chain with their verified manifests. Imports no tensor code, so that listing is quick."""

from __future__ import annotations

from collections.abc import Mapping

from blyan.chain.state import ModelVersion
from blyan.model.manifest import Manifest, read_manifest
from blyan.node.data_directory import Ground


def manifests_of(ground: Ground) -> Mapping[str, tuple[ModelVersion, Manifest]]:
    """The newest version of each model by name; `BlockCorrupt` if a manifest is damaged."""
    found: dict[str, tuple[ModelVersion, Manifest]] = {}
    for name in sorted(ground.chains.state.models):
        version = ground.chains.state.current(name)
        assert version is not None, "listed in the state"
        found[name] = (version, read_manifest(ground.store, version.manifest))
    return found
