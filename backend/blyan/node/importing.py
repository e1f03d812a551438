"""A Hugging Face checkpoint onto the chains: its parts become blocks, perhaps quantised, then `publish` has the word.

Parts are read, hashed and written some at a time by a few threads, so that waiting for the disk and hashing overlap and
memory holds no more than those. What is durable stands in a journal: an import that was killed goes on where it
stopped. Nothing is visible before the model entry.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final, Self, TypeAlias

from torch import Tensor

from blyan.chain.entries import name_pattern
from blyan.model import calibration
from blyan.model.calibration import Halves, Pass
from blyan.model.hf_import import HfCheckpoint
from blyan.model.manifest import BlockReference, Manifest
from blyan.model.parts import Part, parts_of
from blyan.model.quantization import Quantization
from blyan.model.quantize import quantize_part
from blyan.model.record import encode_record
from blyan.model.tokenizer import parse_payload
from blyan.model.weights import ModelWeights
from blyan.node.import_journal import ImportJournal
from blyan.node.publish import Published, publish
from blyan.node.writer import WritableGround
from blyan.primitives import canonical, limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.storage import durable, tensor_block
from blyan.storage.blob_store import BlobStore

Progress: TypeAlias = Callable[[int, int], None]  # bytes of the checkpoint done, bytes in all

_first_version: Final = "1.0.0"
_parts_at_once: Final = 3
_micro: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    published: Published
    manifest: Manifest
    resumed: int  # parts that an earlier, interrupted import had stored


@dataclass(frozen=True, slots=True)
class QuantizationRequest:
    """What to do to the matrices, and the text to calibrate with and to measure on."""

    plan: Quantization
    text: str
    now: Monotonic

    @classmethod
    def of(
        cls, scheme: str, *, now: Monotonic, group: int = 64, method: str | None = None, text: Path | None = None
    ) -> Self:
        """The request for a scheme; `InvalidInput` for a text that is none, `UnsupportedModel` for what does not go."""
        grouped = scheme == "int4"
        plan = Quantization(scheme, group if grouped else 0, method or ("search" if grouped else "round"))
        return cls(plan, _calibration_text(text), now)


def import_checkpoint(
    ground: WritableGround,
    checkpoint: HfCheckpoint,
    name: str,
    progress: Progress,
    request: QuantizationRequest | None = None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Imported:
    """Cut a checked Hugging Face checkpoint into blocks and publish it under `name`; `say` gets what goes on."""
    _want_name(name)
    with ImportJournal(ground.folder, name, _subject(checkpoint, request)) as journal:
        journal.keep(lambda block: _held(ground.store, block))
        resumed = len(journal.done)
        manifest = store_checkpoint(ground.store, checkpoint, name, progress, request, say, journal)
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
    _want_name(name)
    config = checkpoint.config
    plan = request.plan if request is not None else None
    halves = None
    mean_squares: calibration.MeanSquares = {}
    if request is not None:
        tokenizer = None if checkpoint.tokenizer is None else parse_payload(checkpoint.tokenizer, config.vocab_size)
        halves = calibration.halves_of(request.text, tokenizer, config)
        if request.plan.method == "search":
            say("calibrating: which inputs of each matrix are large")
            passed = calibration.run(config, checkpoint.part_tensors, halves.calibration, request.now, watch=True)
            mean_squares = passed.mean_squares

    def tensors_of(part: Part) -> dict[str, Tensor]:
        tensors = checkpoint.part_tensors(part)
        return tensors if plan is None else quantize_part(part, tensors, plan, mean_squares.get(part.name, {}))

    blocks = _store_parts(store, checkpoint, tensors_of, progress, journal)
    tokenizer_block = None
    if checkpoint.tokenizer is not None:
        stored = store.put([checkpoint.tokenizer])
        tokenizer_block = BlockReference(stored.payload, stored.length)
    manifest = Manifest(
        name=name,
        version=_first_version,
        config=config,
        dtype="BF16" if plan is not None and plan.scheme == "bf16" else checkpoint.dtype,
        parts=blocks,
        tokenizer=tokenizer_block,
        generation=checkpoint.generation,
        license=checkpoint.license,
        source=f"huggingface:{_printable(checkpoint.folder.resolve().name)}",
        quantization=plan,
    )
    if request is None or halves is None:
        return manifest
    say("measuring: the text through the model as it came, and as it is stored")
    return replace(manifest, quantization=_measured(store, checkpoint, manifest, request, halves))


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


def _store_parts(
    store: BlobStore,
    checkpoint: HfCheckpoint,
    tensors_of: Callable[[Part], Mapping[str, Tensor]],
    progress: Progress,
    journal: ImportJournal | None,
) -> dict[str, BlockReference]:
    """The block of every part, those that the journal knows and the store holds as they are."""
    item = tensor_block.dtypes[checkpoint.dtype].itemsize
    parts = list(parts_of(checkpoint.config))
    sizes = {part.name: item * sum(_elements(shape) for shape in part.shapes.values()) for part in parts}
    total, done = sum(sizes.values()), 0
    known = {} if journal is None else dict(journal.done)

    def put(part: Part) -> BlockReference:
        stored = store.put(tensor_block.encode(tensors_of(part)))
        return BlockReference(stored.payload, stored.length)

    blocks: dict[str, BlockReference] = {}
    missing = [part for part in parts if part.name not in known]
    with _ahead(put, missing) as stored:
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
    put: Callable[[Part], BlockReference], parts: Iterable[Part]
) -> Generator[Generator[BlockReference, None, None], None, None]:
    """Results of `put` in the order of parts, a few computed ahead; leaving early drops what has not begun."""
    with ThreadPoolExecutor(_parts_at_once, "blyan-import") as pool:
        waiting: list[Future[BlockReference]] = []

        def results() -> Generator[BlockReference, None, None]:
            for part in parts:
                waiting.append(pool.submit(put, part))
                if len(waiting) > _parts_at_once:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

        try:
            yield results()
        finally:
            for each in waiting:
                each.cancel()


def _held(store: BlobStore, block: BlockReference) -> bool:
    try:
        return store.size(block.payload) == block.length
    except NotFound:
        return False


def _measured(
    store: BlobStore, checkpoint: HfCheckpoint, manifest: Manifest, request: QuantizationRequest, halves: Halves
) -> Quantization:
    """The plan with what it cost: loss and speed of the stored model beside those of the checkpoint."""
    config, tokens = checkpoint.config, halves.held_out
    weights = ModelWeights(manifest, store)
    before = calibration.run(config, checkpoint.part_tensors, tokens, request.now)
    after = calibration.run(config, lambda part: weights.part(part.name), tokens, request.now)
    cost = calibration.compare(config, tokens, before, after)
    digest = hashlib.sha256(request.text.encode()).hexdigest()

    def speed(passed: Pass) -> int:
        return round(tokens.shape[1] / passed.seconds)

    return replace(
        request.plan,
        text=digest if checkpoint.tokenizer is not None else "random",
        tokens=tokens.shape[1],
        loss_before=round(cost.before * _micro),
        loss_after=round(cost.after * _micro),
        divergence=round(cost.divergence * _micro),
        speed_before=speed(before),
        speed_after=speed(after),
    )


def _subject(checkpoint: HfCheckpoint, request: QuantizationRequest | None) -> dict[str, canonical.Canonical]:
    """What makes two imports the same: the files, as they are now, and what is done to them."""
    shards: dict[str, canonical.Canonical] = {}
    for file in sorted(set(checkpoint.files.values())):
        found = (checkpoint.folder / file).stat()
        shards[file] = [found.st_dev, found.st_ino, found.st_size, str(found.st_mtime_ns), str(found.st_ctime_ns)]
    return {
        "folder": str(checkpoint.folder.resolve()).encode("ascii", "backslashreplace").decode(),
        "shards": shards,
        "architecture": encode_record(checkpoint.config, sparse=True),
        "quantization": None if request is None else encode_record(request.plan, sparse=True),
        "text": None if request is None else hashlib.sha256(request.text.encode()).hexdigest(),
    }


def _calibration_text(path: Path | None) -> str:
    if path is None:
        return resources.files("blyan.model").joinpath("calibration.txt").read_text("utf-8")
    try:
        return durable.read_limited(path, limits.calibration_text_bytes_max).decode("utf-8")
    except (OSError, ValueError) as reason:
        raise InvalidInput(f"calibration text: expected a file of UTF-8 text, found {reason}") from None


def _want_name(name: str) -> None:
    if not name_pattern.fullmatch(name):
        raise InvalidInput(f"model name: expected {name_pattern.pattern}, found {name[:80]!r}")


def _elements(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _printable(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:200]
