"""The models of this node's chain: manifests, verified and held against the chain. No tensor code, so it is quick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blyan.chain.state import ModelVersion, State
from blyan.model.manifest import Manifest, read_manifest
from blyan.node.data_directory import Ground
from blyan.primitives.errors import IntegrityFault, NotFound
from blyan.primitives.nearest import did_you_mean


def manifests_of(ground: Ground) -> Mapping[str, tuple[ModelVersion, Manifest]]:
    """The newest version of each model by name; `IntegrityFault` if one is not what the chain says."""
    versions = (held[-1] for _, held in sorted(ground.chains.state.models.items()))
    return {version.name: (version, manifest_of(ground, version)) for version in versions}


def manifest_of(ground: Ground, version: ModelVersion) -> Manifest:
    """The verified manifest of one version, every block of which the parameter chain names where the version says."""
    manifest = read_manifest(ground.store, version.manifest)
    check_against_chain(ground.chains.state, version, manifest)
    return manifest


def no_such_model(name: str, known: Iterable[str]) -> NotFound:
    """What to raise for a name that no model has, with the nearest that one has."""
    names = sorted(known)
    if not names:
        return NotFound(
            f"model {name[:128]!r}: expected a model here, found none",
            hint="`blyan init` gives a new node the built-in model, `blyan model pull` and `blyan model import` others",
        )
    return NotFound(
        f"model {name[:128]!r}: expected one of {', '.join(names)}, found no such model{did_you_mean(name, names)}",
        hint="`blyan model list` shows what this node has",
    )


def check_against_chain(state: State, version: ModelVersion, manifest: Manifest) -> None:
    """Raise `IntegrityFault` unless entry and manifest agree and each block stands among the entries built upon."""
    said = [version.name, version.version, version.family]
    found = [manifest.name, manifest.version, manifest.config.family]
    for ours, theirs in ((version.license, manifest.license), (version.source, manifest.source)):
        if ours:  # entries of before say neither
            said.append(ours)
            found.append(theirs)
    if said != found:
        raise IntegrityFault(f"manifest {version.manifest}: expected {said} as the chain says, found {found}")
    for part, block in manifest.blocks.items():
        index = state.first_named(version.name, part, block.payload)
        if index is None or index >= version.parameter_size:
            raise IntegrityFault(
                f"{version.name} {version.version} {part}: expected an entry for block {block.payload} among the first "
                f"{version.parameter_size} of the parameter chain, found none",
                detail={"model": version.name, "part": part, "payload": block.payload},
            )
