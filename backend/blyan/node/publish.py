"""A model onto the chains: one function owns the order.

Steps, each durable before the next: (1) every block in the blob store, (2) signed entries of the parameter chain,
(3) the manifest in the blob store, (4) the signed model entry of the meta chain. A crash leaves blocks or entries that
no model names, which the next run of the same import uses; never a model that lacks a block.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
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
    name_pattern,
)
from blyan.chain.proofs import range_root
from blyan.chain.sequencer import Draft
from blyan.chain.state import ModelVersion
from blyan.chain.validity import version_key
from blyan.model import manifest as manifest_module
from blyan.model import tokenizer as tokenizer_module
from blyan.model.hf_import import HfCheckpoint
from blyan.model.manifest import BlockReference, Manifest, parse_manifest
from blyan.model.parts import part_position, parts_of
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import EntryId
from blyan.storage import durable, tensor_block
from blyan.storage.blob_store import BlobStore
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


def import_checkpoint(
    ground: WritableGround, checkpoint: HfCheckpoint, name: str, progress: Callable[[int, int], None]
) -> Published:
    """Cut a checked Hugging Face checkpoint into blocks and publish it under `name`."""
    return publish(ground, store_checkpoint(ground.store, checkpoint, name, progress))


def store_checkpoint(
    store: BlobStore, checkpoint: HfCheckpoint, name: str, progress: Callable[[int, int], None]
) -> Manifest:
    """Step 1 for a checkpoint: parts and tokenizer as blocks. The manifest that names them is not stored yet."""
    if not name_pattern.fullmatch(name):
        raise InvalidInput(f"model name: expected {name_pattern.pattern}, found {name[:80]!r}")
    parts = list(parts_of(checkpoint.config))
    blocks: dict[str, BlockReference] = {}
    for done, part in enumerate(parts):
        stored = store.put(tensor_block.encode(checkpoint.part_tensors(part)))
        blocks[part.name] = BlockReference(stored.payload, stored.length)
        progress(done + 1, len(parts))
    tokenizer = None
    if checkpoint.tokenizer is not None:
        stored = store.put([checkpoint.tokenizer])
        tokenizer = BlockReference(stored.payload, stored.length)
    return Manifest(
        name=name,
        version=_first_version,
        config=checkpoint.config,
        dtype=checkpoint.dtype,
        parts=blocks,
        tokenizer=tokenizer,
        generation=checkpoint.generation,
        license=checkpoint.license,
        source=f"huggingface:{_printable(checkpoint.folder.resolve().name)}",
    )


def write_bundle(checkpoint: HfCheckpoint, name: str, spdx: str, source: str, folder: Path) -> Manifest:
    """Make the folder that `install_bundle` reads: `manifest.json`, and `blobs/<payload id>` without indexes."""
    blobs = folder / "blobs"
    if blobs.exists():
        shutil.rmtree(blobs)
    blobs.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        store = BlobStore(Path(scratch), writable=True)
        manifest = store_checkpoint(store, checkpoint, name, lambda _done, _total: None)
        manifest = replace(manifest, license=spdx, source=source)
        for block in manifest.blocks.values():
            shutil.copyfile(store.path(block.payload), blobs / block.payload)
    (folder / "manifest.json").write_bytes(manifest.encode())
    return manifest


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
    length = sum(block.length for block in manifest.blocks.values())
    current = state.current(manifest.name)
    if current is not None:
        same = replace(manifest, version=current.version).encode()
        if index_of(same).payload_id == current.manifest:
            ground.store.put([same])  # repairs a damaged manifest as putting the blocks again did them
            return Published(current, len(manifest.blocks), length, changed=False)
        if version_key(manifest.version) <= version_key(current.version):
            manifest = replace(manifest, version=_next_minor(current.version))
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
    body = ModelBody(manifest.name, manifest.version, manifest.config.family, size, root)
    reference = PayloadReference(stored.payload, stored.length, manifest_module.media)
    ground.sequencer.submit([Draft(body, (parent,), reference)]).result()
    version = state.current(manifest.name)
    assert version is not None, "just published"
    return Published(version, len(manifest.blocks), length, changed=True)


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


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:200]
