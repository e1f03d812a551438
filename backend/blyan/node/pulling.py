"""A model that a configured directory or peer has, onto this node's own chains.

A directory holds checkpoint folders, which are imported as by `blyan model import`. Of a peer, everything is verified:
what its sequencer signed, the manifest and each block by payload id; bytes come from all peers and mirrors at once.
Then the model is published here, by our key, with the peer's as its source. Steps: (1) blocks into the store, each
wholly verified, (2) those of `node/publish`. Killed or left in the middle, a pull goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from blyan.model import tokenizer as tokenizer_module
from blyan.model.hf_import import read_checkpoint
from blyan.model.manifest import Manifest, parse_manifest
from blyan.network.client import PeerClient
from blyan.network.fetching import FetchPolicy, fetch, nothing
from blyan.network.items import Wanted
from blyan.network.peers import Peer, parse_peer
from blyan.network.receiving import Progress
from blyan.network.remote_chain import remote_model
from blyan.network.sources import Source, SourceBook, peer_source, source_url
from blyan.node.config import ModelsConfig
from blyan.node.importing import import_checkpoint
from blyan.node.model_changes import want_writer
from blyan.node.publish import Published, publish
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, InvalidInput, NotFound, PeerFault
from blyan.primitives.ids import PayloadId
from blyan.primitives.model_name import parse_model_name
from blyan.storage.blob_store import BlobStore

Status: TypeAlias = dict[str, Any]
book_name: Final = "bad-sources.json"  # in the data directory
_source_chars_max: Final = 256


def pull_model(
    ground: WritableGround,
    configured: ModelsConfig,
    name: str,
    say: Callable[[Status], None],
    now: UnixSeconds,
    asked: Sequence[Peer] = (),
    *,
    rate: int = 0,
) -> Published:
    """Import or fetch a model by its name; the first directory or peer that has it is taken, or the first of `asked`.

    `say` gets statuses as Ollama words them, and may raise a fault to stop. `rate`: bytes a second that are fetched at
    most, 0 without limit. `NotFound` says what to configure, or
    where was looked; `PeerFault` names who was not reached or answered wrongly. Runs an event loop of its own: not for
    a thread that has one.
    """
    want_writer(ground)
    name = parse_model_name(name, "model")
    say({"status": "pulling manifest"})
    directories = () if asked else configured.directories
    for directory in directories:
        folder = Path(directory) / name
        if (folder / "config.json").is_file():
            return _imported(ground, folder, name, say)
    peers = list(asked) or [parse_peer(text) for text in configured.peers]
    if not directories and not peers:
        raise NotFound(
            f"model {name}: expected a directory or a peer to pull it from, found none configured",
            hint="set models.directories or models.peers in node.toml, or name a node: pull --from URL --trust KEY",
        )
    sources = [peer_source(peer.url) for peer in peers] + [Source(source_url(url, "")) for url in configured.mirrors]
    book = SourceBook(ground.folder / book_name, now)
    failed: Fault | None = None
    for peer in peers:
        first = peer_source(peer.url)
        others = [each for each in dict.fromkeys(sources) if each != first]
        bytes_of = _BytesOf(ground.store, [first, *others], book, FetchPolicy(rate=rate))
        try:
            return asyncio.run(_fetched(ground, peer, name, say, bytes_of))
        except NotFound:
            continue
        except PeerFault as fault:  # another peer may have it whole
            failed = failed or fault
    if failed is not None:
        raise failed
    places = ", ".join([*directories, *(peer.url for peer in peers)])
    raise NotFound(f"model {name}: expected it in one of {places}, found it in none")


@dataclass(frozen=True, slots=True)
class _BytesOf:
    """Where the bytes of one pull come from and go."""

    store: BlobStore
    sources: Sequence[Source]
    book: SourceBook
    policy: FetchPolicy

    async def want(self, wanted: Sequence[Wanted], progress: Progress = nothing) -> None:
        """Fetch what the model needs: that nobody has it is the sources' fault."""
        try:
            await fetch(self.store, wanted, self.sources, self.book, progress=progress, policy=self.policy)
        except NotFound as reason:
            raise PeerFault(reason.message, detail=reason.detail) from None


def _imported(ground: WritableGround, folder: Path, name: str, say: Callable[[Status], None]) -> Published:
    def progress(done: int, total: int) -> None:
        say({"status": f"pulling {name}", "total": total, "completed": done})

    published = import_checkpoint(ground, read_checkpoint(folder), name, progress).published
    say({"status": "writing manifest"})
    return published


async def _fetched(
    ground: WritableGround, peer: Peer, name: str, say: Callable[[Status], None], bytes_of: _BytesOf
) -> Published:
    async with PeerClient(peer) as client:
        found = await remote_model(client, name)
        store, reference = ground.store, found.manifest
        if reference.length > limits.manifest_bytes_max:
            raise client.fault(f"/blobs/{reference.payload}", "expected a manifest", f"{reference.length} bytes")
        await bytes_of.want([Wanted(reference.payload, reference.length)])
        manifest = _manifest(client, store.read(reference.payload, bytes_max=limits.manifest_bytes_max))
        said = (found.body.name, found.body.version, found.body.family)
        if (manifest.name, manifest.version, manifest.config.family) != said:
            raise client.fault(f"/blobs/{reference.payload}", f"expected the manifest of {said}", f"{manifest.name}")
        blocks = {block.payload: block.length for block in manifest.blocks.values()}
        await bytes_of.want([Wanted(*each) for each in blocks.items()], _statuses_of(blocks, say))
    say({"status": "verifying sha256 digest"})
    _want_tokenizer(client, store, manifest)
    say({"status": "writing manifest"})
    source = f"blyan:{peer.sequencer} {manifest.source}".strip()[:_source_chars_max]
    return publish(ground, replace(manifest, source=source))


def _statuses_of(blocks: Mapping[PayloadId, int], say: Callable[[Status], None]) -> Progress:
    done: dict[PayloadId, int] = {}

    def progress(payload: PayloadId, count: int) -> None:
        done[payload] = done.get(payload, 0) + count
        status = {"status": f"pulling {payload[:12]}", "digest": f"sha256:{payload}", "total": blocks[payload]}
        say({**status, "completed": done[payload]})

    return progress


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
