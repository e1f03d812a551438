"""A Hugging Face checkpoint onto the chains: its parts become blocks, perhaps quantised, then `publish` has the word.

Parts are read, hashed and written some at a time by a few threads, so that waiting for the disk and hashing overlap and
memory holds no more than those. What is durable stands in a journal: an import that was killed goes on where it
stopped. Nothing is visible before the model entry.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Final, TypeAlias

from blyan.model.hf_import import HfCheckpoint
from blyan.model.manifest import BlockReference, Manifest
from blyan.model.parts import Part, parts_of
from blyan.model.record import encode_record
from blyan.model.request_defaults import RequestDefaults
from blyan.model.stored_tensors import stored_layout
from blyan.node.import_journal import ImportJournal
from blyan.node.publish import Published, publish
from blyan.node.quantizing import QuantizationRequest, Quantizer
from blyan.node.writer import WritableGround
from blyan.primitives import canonical
from blyan.primitives.errors import IntegrityFault, NotFound
from blyan.primitives.model_name import parse_model_name
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore

Progress: TypeAlias = Callable[[int, int], None]  # bytes of the checkpoint done, bytes in all

_first_version: Final = "1.0.0"
_parts_at_once: Final = 3
_large_bytes: Final = 32 << 20  # of one tensor


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    published: Published
    manifest: Manifest
    resumed: int  # parts that an earlier, interrupted import had stored


def import_checkpoint(
    ground: WritableGround,
    checkpoint: HfCheckpoint,
    name: str,
    progress: Progress,
    request: QuantizationRequest | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
    finish: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Imported:
    """Cut a checked Hugging Face checkpoint into blocks and publish it under `name`; `say` gets what goes on.

    `finish` has the last word on the manifest before it is published.
    """
    name = parse_model_name(name, "model name")
    with ImportJournal(ground.folder, name, _subject(checkpoint, request)) as journal:
        journal.keep(lambda block: _held(ground.store, block))
        resumed = len(journal.done)
        manifest = finish(store_checkpoint(ground.store, checkpoint, name, progress, request, say, journal))
        published = publish(ground, manifest)
        journal.remove()
    return Imported(published, manifest, resumed)


def store_checkpoint(
    store: BlobStore,
    checkpoint: HfCheckpoint,
    name: str,
    progress: Progress,
    request: QuantizationRequest | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
    journal: ImportJournal | None = None,
) -> Manifest:
    """Parts and tokenizer as blocks. The manifest that names them is not stored yet."""
    name = parse_model_name(name, "model name")
    config = checkpoint.config
    plan = request.plan if request is not None else None
    quantizer = None if request is None else Quantizer(checkpoint, request, say)
    dtype = "BF16" if plan is not None and plan.scheme == "bf16" else checkpoint.dtype

    def encoded(part: Part) -> Iterator[bytes | memoryview]:
        layout = stored_layout(part, tensor_block.dtypes[dtype], plan)
        read = quantizer.part(part) if quantizer is not None else partial(checkpoint.tensor, part)
        return tensor_block.encode_lazily(layout, read)

    blocks = _store_parts(store, checkpoint, encoded, progress, journal)
    tokenizer_block = None
    if checkpoint.tokenizer is not None:
        stored = store.put([checkpoint.tokenizer])
        tokenizer_block = BlockReference(stored.payload, stored.length)
    manifest = Manifest(
        name=name,
        version=_first_version,
        config=config,
        dtype=dtype,
        parts=blocks,
        tokenizer=tokenizer_block,
        generation=checkpoint.generation,
        license=checkpoint.license.identifier,
        source=f"huggingface:{_printable(checkpoint.folder.resolve().name)}",
        quantization=plan,
        defaults=checkpoint.requests,
        generation_extras=checkpoint.generation_extras,
        license_link=checkpoint.license.link,
    )
    if quantizer is None:
        return manifest
    say("measuring: the text through the model as it is stored")
    return replace(manifest, quantization=quantizer.measured(store, manifest))


def write_bundle(
    checkpoint: HfCheckpoint, name: str, spdx: str, source: str, folder: Path, requests: RequestDefaults
) -> Manifest:
    """Make the folder that `install_bundle` reads: `manifest.json`, and `blobs/<payload id>` without indexes."""
    blobs = folder / "blobs"
    if blobs.exists():
        shutil.rmtree(blobs)
    blobs.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        store = BlobStore(Path(scratch), writable=True)
        manifest = store_checkpoint(store, checkpoint, name, lambda _done, _total: None)
        manifest = replace(manifest, license=spdx, source=source, defaults=requests)
        for block in manifest.blocks.values():
            shutil.copyfile(store.path(block.payload), blobs / block.payload)
    (folder / "manifest.json").write_bytes(manifest.encode())
    return manifest


def _store_parts(
    store: BlobStore,
    checkpoint: HfCheckpoint,
    encoded: Callable[[Part], Iterator[bytes | memoryview]],
    progress: Progress,
    journal: ImportJournal | None,
) -> dict[str, BlockReference]:
    """The block of every part, those that the journal knows and the store holds as they are."""
    item = tensor_block.dtypes[checkpoint.dtype].itemsize
    parts = list(parts_of(checkpoint.config))
    sizes = {part.name: item * sum(prod(shape) for shape in part.shapes.values()) for part in parts}
    total, done = sum(sizes.values()), 0
    known = {} if journal is None else dict(journal.done)

    def put(part: Part) -> BlockReference:
        stored = store.put(encoded(part))
        return BlockReference(stored.payload, stored.length)

    blocks: dict[str, BlockReference] = {}
    missing = [part for part in parts if part.name not in known]
    large = {part.name for part in parts if item * max(map(prod, part.shapes.values())) > _large_bytes}
    with _ahead(put, missing, large) as stored:
        for part in parts:
            if part.name in known:
                blocks[part.name] = known[part.name]
            else:
                blocks[part.name] = next(stored)
                if journal is not None:
                    journal.record(part.name, blocks[part.name])
            done += sizes[part.name]
            progress(done, total)
    return blocks


@contextmanager
def _ahead(
    put: Callable[[Part], BlockReference], parts: Iterable[Part], large: Collection[str]
) -> Generator[Generator[BlockReference, None, None], None, None]:
    """Results of `put` in the order of parts, a few computed ahead; leaving early drops what has not begun.

    A part with a large tensor is computed alone, so that memory holds no more than one of them.
    """
    with ThreadPoolExecutor(_parts_at_once, "blyan-import") as pool:
        waiting: list[Future[BlockReference]] = []

        def results() -> Generator[BlockReference, None, None]:
            for part in parts:
                alone = part.name in large
                while waiting and (alone or len(waiting) >= _parts_at_once):
                    yield waiting.pop(0).result()
                waiting.append(pool.submit(put, part))
                if alone:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

        try:
            yield results()
        finally:
            for each in waiting:
                each.cancel()


def _held(store: BlobStore, block: BlockReference) -> bool:
    """Whether a block is here and nothing is known against it, as after an unclean end, when new ones are hashed."""
    try:
        return store.size(block.payload) == block.length and store.state(block.payload)[0] != "corrupt"
    except (NotFound, IntegrityFault):
        return False


def _subject(checkpoint: HfCheckpoint, request: QuantizationRequest | None) -> dict[str, canonical.Canonical]:
    """What makes two imports the same: the files, as they are now, and what is done to them."""
    shards: dict[str, canonical.Canonical] = {}
    for file in sorted(checkpoint.files):
        found = (checkpoint.folder / file).stat()
        shards[file] = [found.st_dev, found.st_ino, found.st_size, str(found.st_mtime_ns), str(found.st_ctime_ns)]
    return {
        "folder": str(checkpoint.folder.resolve()).encode("ascii", "backslashreplace").decode(),
        "shards": shards,
        "architecture": encode_record(checkpoint.config, sparse=True),
        "quantization": None if request is None else encode_record(request.plan, sparse=True),
        "text": None if request is None else request.text_digest,
        "tokenizer": None if checkpoint.tokenizer is None else hashlib.sha256(checkpoint.tokenizer).hexdigest(),
    }


def _printable(text: str) -> str:
    """As a manifest and an entry have it."""
    return "".join(character if " " <= character <= "~" and character not in '"\\' else "?" for character in text)[:200]
