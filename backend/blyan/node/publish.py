"""A model onto the chains, once its blocks are in the store: one function owns the order.

Steps, each durable before the next: (1) every block in the blob store, (2) signed entries of the parameter chain,
(3) the manifest in the blob store, (4) the signed model entry of the meta chain. A crash leaves blocks or entries that
no model names, which the next run of the same import uses; never a model that lacks a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from blyan.chain.entries import (
    Body,
    ChainName,
    ExpertBody,
    ModelBody,
    PayloadReference,
    TokenizerBody,
    TrunkBody,
    model_license_pattern,
    source_pattern,
)
from blyan.chain.proofs import range_root
from blyan.chain.sequencer import Draft
from blyan.chain.state import ModelVersion
from blyan.chain.validity import version_key
from blyan.model import manifest as manifest_module
from blyan.model import tokenizer as tokenizer_module
from blyan.model.manifest import Manifest, parse_manifest, read_manifest
from blyan.model.parts import part_position
from blyan.node.data_directory import Ground
from blyan.node.holdings import read_held
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.errors import IntegrityFault, NotFound, Unavailable
from blyan.primitives.ids import EntryId, PayloadId
from blyan.storage import durable
from blyan.storage.tile import index_of

block_media = "application/vnd.blyan.tensorblock"
_first_version = "1.0.0"


@dataclass(frozen=True, slots=True)
class Published:
    """What came of it."""

    model: ModelVersion
    blocks: int
    length: int  # bytes of all blocks
    changed: bool  # False: this very model was on the chain already


def install_bundle(ground: WritableGround, folder: Path) -> Published:
    """Publish a model that is shipped as `manifest.json` and its blocks, each named by its payload id."""
    raw = durable.read_limited(folder / "manifest.json", limits.manifest_bytes_max)
    manifest = parse_manifest(raw)
    for block in manifest.blocks.values():
        data = durable.read_limited(folder / "blobs" / block.payload, block.length)
        ground.store.put([data], expected=block.payload)
    return publish(ground, manifest)


def publish(ground: WritableGround, manifest: Manifest) -> Published:
    """Steps 2 to 4 for a manifest whose blocks are stored; the version rises if the name is taken by another model."""
    parse_manifest(manifest.encode())  # what nobody could read back must not reach a chain
    state = ground.chains.state
    current = state.current(manifest.name)
    if current is not None:
        same = _as_measured_then(ground, current, replace(manifest, version=current.version)).encode()
        if index_of(same).payload_id == current.manifest:
            ground.store.put([same])  # repairs a damaged manifest as putting the blocks again did them
            length = sum(block.length for block in manifest.blocks.values())
            return Published(current, len(manifest.blocks), length, changed=False)
    newest_version = state.newest_version(manifest.name)  # also of a name that was retired
    if newest_version is not None and version_key(manifest.version) <= version_key(newest_version):
        manifest = replace(manifest, version=_next_minor(newest_version))
    return _published(ground, manifest)


def _published(ground: WritableGround, manifest: Manifest) -> Published:
    """Steps 2 to 4."""
    state = ground.chains.state
    tip = ground.chains.newest("meta")
    drafts: list[Draft] = []
    for part, block in manifest.blocks.items():
        if state.newest_block(manifest.name, part) != block.payload:
            body, media = _entry_body(manifest.name, part)
            drafts.append(Draft(body, (tip,), PayloadReference(block.payload, block.length, media)))
    newest = None
    for begin in range(0, len(drafts), limits.submit_drafts_max):
        newest = ground.sequencer.submit(drafts[begin : begin + limits.submit_drafts_max]).result()[-1]
    stored = ground.store.put([manifest.encode()])
    parent, size, root = _parameters(ground, newest)
    license_id = manifest.license if model_license_pattern.fullmatch(manifest.license) else ""
    source = manifest.source if source_pattern.fullmatch(manifest.source) else ""  # others cannot stand in an entry
    body = ModelBody(manifest.name, manifest.version, manifest.config.family, size, root, license_id, source)
    reference = PayloadReference(stored.payload, stored.length, manifest_module.media)
    ground.sequencer.submit([Draft(body, (parent,), reference)]).result()
    version = state.current(manifest.name)
    assert version is not None, "just published"
    length = sum(block.length for block in manifest.blocks.values())
    return Published(version, len(manifest.blocks), length, changed=True)


def publish_held(ground: WritableGround, manifest: Manifest) -> None:
    """A model of the swarm onto this node's chains, unchanged: peers know it by its manifest, which has its name.

    `Unavailable` as `is_wanted`; nothing happens where this version, or a newer one, is there.
    """
    if is_wanted(ground, manifest, index_of(manifest.encode()).payload_id):
        parse_manifest(manifest.encode())
        _published(ground, manifest)


def is_wanted(ground: Ground, manifest: Manifest, manifest_id: PayloadId) -> bool:
    """Whether a model of the swarm is to be published here: a newer version takes the place of one of the swarm's.

    `Unavailable` if the name has a model of this node's own, or had one: a member of the swarm does not replace what
    people ask for by its name.
    """
    state = ground.chains.state
    current = state.current(manifest.name)
    if current is None and not state.withdrawn(manifest.name):
        return True
    if current is not None:
        if current.manifest == manifest_id:
            return False
        rises = version_key(manifest.version) > version_key(current.version)
        older = version_key(manifest.version) < version_key(current.version)
        if (rises or older) and current.manifest in read_held(ground.folder):
            return rises
    found = "another model" if current is not None else "that it was removed"
    raise Unavailable(
        f"model {manifest.name} {manifest.version} of the swarm: expected nothing of this name here before, or an "
        f"older version of the swarm's, found {found}",
        hint="a node with a new --data-dir takes it",
    )


def _as_measured_then(ground: WritableGround, current: ModelVersion, manifest: Manifest) -> Manifest:
    """The manifest with the measurements of the version that is there: two of the same model never time the same."""
    if manifest.quantization is None:
        return manifest
    try:
        then = read_manifest(ground.store, current.manifest).quantization
    except (IntegrityFault, NotFound):
        return manifest
    ours = manifest.quantization
    same = then is not None and (then.plan, then.text) == (ours.plan, ours.text)
    return replace(manifest, quantization=then) if same else manifest


def _parameters(ground: WritableGround, newest: EntryId | None) -> tuple[EntryId, int, str]:
    """What a model builds on: the newest entry about its parts, and the parameter chain up to that one."""
    chain: ChainName = "parameter"
    parent = newest or ground.chains.newest(chain)
    position = ground.chains.state.position(parent)
    assert position is not None and position[0] == chain, "a promised parameter entry"
    size = position[1] + 1
    return parent, size, range_root(ground.chains.state.parameter_subtrees.node, 0, size).hex()


def _entry_body(model: str, part: str) -> tuple[Body, str]:
    if part == "tokenizer":
        return TokenizerBody(model), tokenizer_module.media
    layer, expert = part_position(part)
    if layer is not None and expert is not None:
        return ExpertBody(model, layer, expert), block_media
    return TrunkBody(model, part), block_media


def _next_minor(version: str) -> str:
    major, minor, _ = version_key(version)
    return f"{major}.{minor + 1}.0"
