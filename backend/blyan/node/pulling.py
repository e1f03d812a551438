"""A model that a configured directory or peer has, onto this node's own chains.

A directory holds checkpoint folders, which are imported as by `blyan model import`. Of a peer, everything is verified:
what its sequencer signed, the manifest and each block by payload id; then the model is published here, by our key, with
the peer's as its source. Steps: (1) blocks into the store, each wholly verified, (2) those of `node/publish`. Killed or
left in the middle, a pull goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from blyan.model import tokenizer as tokenizer_module
from blyan.model.hf_import import read_checkpoint
from blyan.model.manifest import Manifest, parse_manifest
from blyan.network.client import PeerClient
from blyan.network.fetching import fetch
from blyan.network.peers import Peer, parse_peer
from blyan.network.remote_chain import remote_model
from blyan.node.config import ModelsConfig
from blyan.node.importing import import_checkpoint
from blyan.node.model_changes import want_writer
from blyan.node.publish import Published, publish
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound, PeerFault
from blyan.primitives.ids import PayloadId
from blyan.primitives.model_name import parse_model_name
from blyan.storage.blob_store import BlobStore

Status: TypeAlias = dict[str, Any]
_fetched_at_once: Final = 4
_source_chars_max: Final = 256


def pull_model(ground: WritableGround, configured: ModelsConfig, name: str, say: Callable[[Status], None]) -> Published:
    """Import or fetch a model by its name; the first directory or peer that has it is taken.

    `say` gets statuses as Ollama words them, and may raise a fault to stop. `NotFound` says what to configure, or
    where was looked; `PeerFault` names the peer that was not reached or answered wrongly. Runs an event loop of its
    own: not for a thread that has one.
    """
    want_writer(ground)
    name = parse_model_name(name, "model")
    say({"status": "pulling manifest"})
    for directory in configured.directories:
        folder = Path(directory) / name
        if (folder / "config.json").is_file():
            return _imported(ground, folder, name, say)
    peers = [parse_peer(text) for text in configured.peers]
    if not configured.directories and not peers:
        raise NotFound(
            f"model {name}: expected a directory or a peer to pull it from, found none configured",
            hint="set models.directories or models.peers in node.toml",
        )
    failed: Fault | None = None
    for peer in peers:
        try:
            return asyncio.run(_fetched(ground, peer, name, say))
        except NotFound:
            continue
        except PeerFault as fault:  # another peer may have it whole
            failed = failed or fault
    if failed is not None:
        raise failed
    places = ", ".join([*configured.directories, *(peer.url for peer in peers)])
    raise NotFound(f"model {name}: expected it in one of {places}, found it in none")


def _imported(ground: WritableGround, folder: Path, name: str, say: Callable[[Status], None]) -> Published:
    def progress(done: int, total: int) -> None:
        say({"status": f"pulling {name}", "total": total, "completed": done})

    published = import_checkpoint(ground, read_checkpoint(folder), name, progress).published
    say({"status": "writing manifest"})
    return published


async def _fetched(ground: WritableGround, peer: Peer, name: str, say: Callable[[Status], None]) -> Published:
    async with PeerClient(peer) as client:
        found = await remote_model(client, name)
        store, reference = ground.store, found.manifest
        if reference.length > limits.manifest_bytes_max:
            raise client.fault(f"/blobs/{reference.payload}", "expected a manifest", f"{reference.length} bytes")
        await _want(client, store, reference.payload, reference.length, lambda _count: None)
        manifest = _manifest(client, store.read(reference.payload, bytes_max=limits.manifest_bytes_max))
        said = (found.body.name, found.body.version, found.body.family)
        if (manifest.name, manifest.version, manifest.config.family) != said:
            raise client.fault(f"/blobs/{reference.payload}", f"expected the manifest of {said}", f"{manifest.name}")
        await _fetch_blocks(client, store, manifest, say)
    say({"status": "verifying sha256 digest"})
    _want_tokenizer(client, store, manifest)
    say({"status": "writing manifest"})
    source = f"blyan:{peer.sequencer} {manifest.source}".strip()[:_source_chars_max]
    return publish(ground, replace(manifest, source=source))


async def _fetch_blocks(
    client: PeerClient, store: BlobStore, manifest: Manifest, say: Callable[[Status], None]
) -> None:
    """All blocks, some at a time."""
    blocks = {block.payload: block.length for block in manifest.blocks.values()}
    room = asyncio.Semaphore(_fetched_at_once)

    async def one(payload: PayloadId, length: int) -> None:
        async with room:
            status = {"status": f"pulling {payload[:12]}", "digest": f"sha256:{payload}", "total": length}
            done = 0

            def progress(count: int) -> None:
                nonlocal done
                done += count
                say({**status, "completed": done})

            await _want(client, store, payload, length, progress)

    try:
        async with asyncio.TaskGroup() as group:
            for payload, length in blocks.items():
                group.create_task(one(payload, length))
    except ExceptionGroup as several:
        raise _first(several.exceptions) from None


async def _want(
    client: PeerClient, store: BlobStore, payload: PayloadId, length: int, progress: Callable[[int], None]
) -> None:
    """Fetch what the model needs: that the peer has it not is the peer's fault."""
    try:
        await fetch(client, store, payload, length, progress)
    except NotFound:
        raise client.fault(f"/blobs/{payload}", "expected a payload of the model that it lists", "none") from None


def _first(faults: Sequence[Exception]) -> Exception:
    """One of several that came at once: a fault before a mistake of ours, which must not hide behind it."""
    return next((each for each in faults if not isinstance(each, Fault)), faults[0])


def _manifest(client: PeerClient, raw: bytes) -> Manifest:
    try:
        return parse_manifest(raw)
    except InvalidInput as reason:
        raise client.fault("", "expected a manifest that this version reads", reason.message) from None


def _want_tokenizer(client: PeerClient, store: BlobStore, manifest: Manifest) -> None:
    """A tokenizer that cannot be read is refused before the model is published."""
    if manifest.tokenizer is None:
        return
    try:
        raw = store.read(manifest.tokenizer.payload, bytes_max=limits.tokenizer_payload_bytes_max)
        tokenizer_module.parse_payload(raw, manifest.config.vocab_size)
    except InvalidInput as reason:
        raise client.fault("", "expected a tokenizer that this version reads", reason.message) from None
