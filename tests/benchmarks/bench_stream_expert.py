"""One call of an expert that is streamed from the disk, verified, against reading the file and against mapped weights.

Page cache dropped before each. Back of the envelope: an expert is read once and each byte takes part in one
multiplication per token, so the disk is the bound: bytes over the read speed measured in the same run, with plain
`pread`s of a tile into one buffer. Processor time of 400 MB is 70 ms of BLAKE3 (5.8 GB/s), 30 of copying out of the
page cache and 40 of products (10 GB/s), each on one core, beside what the kernel takes to fill the page cache: two
threads read and hash, one multiplies, so that two cores need 80 ms of the 170 in which a disk of 2.4 GB/s gives the
bytes. Mapped, the same bytes come by page faults, with 128 KiB read ahead, and nothing is verified.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from harness import SMOKE, Page, both, drop_cache, interleaved, percentile
from torch import Tensor

from blyan.model.eager_step import EagerStepper
from blyan.model.expert_memory import ExpertMemory
from blyan.model.expert_rows import ExpertLayout
from blyan.model.experts import swiglu
from blyan.model.stepping import KVPages, Run
from blyan.model.weights import ModelWeights
from blyan.primitives import limits
from blyan.primitives.ids import PayloadId
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore
from blyan.storage.mapping import map_private
from blyan.storage.row_stream import Ring
from stored_models import SMALL, store_random_model

TOKENS = 4
STREAMS = 8


def main() -> None:
    hidden, inner = (512, 3_000) if SMOKE else (4_096, 16_384)
    torch.manual_seed(0)
    page = Page("stream_expert", "An expert larger than memory, streamed", __doc__.partition("\n\n")[2].strip())
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        store = BlobStore(Path(folder), writable=True)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
            layout = {f"{each}.weight": (dtype, shape) for each, shape in shapes.items()}
            rows = torch.randn(64, max(hidden, inner)).to(dtype) / hidden**0.5

            def repeated(each: str, layout=layout, rows=rows) -> Tensor:
                out, width = layout[each][1]
                return rows[:, :width].repeat(-(-out // len(rows)), 1)[:out]

            payload = store.put(tensor_block.encode_lazily(layout, repeated)).payload
            measure(page, store, payload, name, torch.randn(TOKENS, hidden).to(dtype))
        share(page, store)
    page.write()


def share(page: Page, store: BlobStore) -> None:
    """Tokens a second of several streams over a budget of nothing, against one: an expert is read once a step."""
    width, inner = (64, 300) if SMOKE else (1_024, 4_096)
    config = replace(SMALL, hidden=width, expert_intermediate=inner, layers=2, moe_layers=(0, 1), experts=8)
    manifest = store_random_model(store, config, dtype="BF16")
    memory = ExpertMemory(0, time.perf_counter)
    stepper = EagerStepper(ModelWeights(manifest, store, memory), config, KVPages(config, torch.bfloat16, STREAMS))
    runs = [Run((7 * number + 1,), 0, (number,), scored=1) for number in range(STREAMS)]
    read = [0, 0]

    def step(at: int, some: list[Run]) -> None:
        before = memory.ring.bytes_read
        stepper.step(some)
        read[at] = memory.ring.bytes_read - before

    one, all_ = interleaved(2 if SMOKE else 9, lambda: step(0, runs[:1]), lambda: step(1, runs))
    memory.close()
    alone, together = 1 / percentile(one, 0.5), STREAMS / percentile(all_, 0.5)
    kept = f"{config.experts_per_token} of {config.experts} experts a token, none in memory"
    page.row(f"{kept}: one stream / {STREAMS} streams", f"{alone:.1f} / {together:.1f} tokens/s")
    page.row(
        f"{STREAMS} streams ÷ one", f"{together / alone:.1f} ×", f"{STREAMS * read[0] / read[1]:.1f} × by bytes read"
    )


def measure(page: Page, store: BlobStore, payload: PayloadId, name: str, hidden: Tensor) -> None:
    """The rows of one weight type."""
    path, size = store.path(payload), store.size(payload)
    ring = Ring(time.perf_counter)

    def streamed(keep_cached: bool = False) -> Tensor:
        with store.reading(payload) as reader:
            head = memoryview(bytearray(limits.subtile_bytes))
            reader.read(head, 0)
            layout = ExpertLayout(tensor_block.parse_layout(head, reader.length))
            with ring.stream(reader, layout.groups, keep_cached=keep_cached) as blocks:
                [output] = layout.answer_streamed(blocks, [hidden])
                return output

    def mapped() -> Tensor:
        with path.open("rb") as file:
            mapping = map_private(file.fileno(), size)
        places = tensor_block.parse_layout(memoryview(mapping), size)
        return swiglu(tensor_block.views(places, memoryview(mapping)), "", hidden)

    def raw() -> None:
        buffer = memoryview(bytearray(limits.tile_bytes))
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for begin in range(0, size, len(buffer)):
            os.preadv(handle, [buffer], begin)
        os.close(handle)

    expected, found = mapped(), streamed()
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= (1e-6 if hidden.dtype == torch.float32 else 2**-8), f"streamed as mapped: {error}"
    runs = 2 if SMOKE else 9
    mine, plain, bare = interleaved(runs, streamed, mapped, raw, before=lambda: drop_cache(path))
    ring.wait_seconds = 0.0
    warm, warm_plain = interleaved(runs, lambda: streamed(True), mapped)
    half = percentile(bare, 0.5)
    said = f"{name}, {size / 1e6:.0f} MB, {TOKENS} tokens"
    page.row(f"{said}: cold, streamed and verified", speed(mine, size))
    page.row("the bound: cold, `pread` of the same file alone", speed(bare, size))
    page.row("share of the bound, p50", f"{half / percentile(mine, 0.5):.0%}", "100 % if all overlaps")
    page.row("cold, mapped and computed, unverified", speed(plain, size))
    page.row("streamed ÷ mapped, cold, p50", f"{percentile(mine, 0.5) / percentile(plain, 0.5):.2f}")
    page.row("in the page cache: streamed and verified / mapped", f"{speed(warm, size)} / {speed(warm_plain, size)}")
    page.row("of which waiting for bytes", f"{ring.wait_seconds / sum(warm):.0%}")
    page.row("buffers", f"{ring.buffer_bytes / limits.MIB:.1f} MiB", "whatever the expert's size")
    ring.close()


def speed(seconds: list[float], size: int) -> str:
    """p50 and p95, and bytes a second."""
    return f"{both(seconds)}, {size / percentile(seconds, 0.5) / 1e9:.2f} GB/s"


if __name__ == "__main__":
    main()
