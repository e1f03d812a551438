"""A whole cold load, every byte verified, against `safetensors` loading the same files unverified.

Page cache dropped before each, no verification record. `load_file` of safetensors 0.8 maps a file and reads its header
only; so that both have the weights in memory at the end, it then reads one byte of every page. Back of the envelope:
1 GiB from this disk takes 0.5 to 1.2 s; hashing it takes 0.26 s on one thread and 0.13 s on two, which overlaps with
reading as long as the disk is slower. The rest is page faults.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from harness import SMOKE, Page, both, drop_cache, interleaved, percentile
from safetensors.torch import load_file

from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore

PAGE = 4_096


def main() -> None:
    blocks, side = (4, 512) if SMOKE else (100, 1_830)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        store = BlobStore(Path(folder), writable=True)
        payloads = [
            store.put(tensor_block.encode({f"w{n}": torch.randn(side, side // 2) for n in range(2)})).payload
            for _ in range(blocks)
        ]
        size = sum(store.size(payload) for payload in payloads)

        def ours() -> list[dict[str, torch.Tensor]]:
            fresh = BlobStore(Path(folder))
            found = []
            for payload in payloads:
                mapping = fresh.open(payload).mapping
                places = tensor_block.parse_layout(memoryview(mapping), len(mapping))
                found.append(tensor_block.views(places, memoryview(mapping)))
            return found

        def lazy() -> list[dict[str, torch.Tensor]]:
            return [load_file(store.path(payload)) for payload in payloads]

        def theirs() -> list[dict[str, torch.Tensor]]:
            found = lazy()
            for tensors in found:
                for tensor in tensors.values():
                    tensor.view(torch.uint8).reshape(-1)[::PAGE].sum()
            return found

        for mine, peer in zip(ours(), theirs(), strict=True):
            assert all(torch.equal(tensor, peer[name]) for name, tensor in mine.items())
        runs = 2 if SMOKE else 15
        mine, peer = interleaved(runs, ours, theirs, before=lambda: drop_cache(Path(folder)))
        warm_mine, warm_peer = interleaved(runs, ours, theirs)
        (mapped,) = interleaved(3, lazy, before=lambda: drop_cache(Path(folder)))
        page = Page("cold_load", "A whole cold load, verified", __doc__.partition("\n\n")[2].strip())
        page.row(f"cold, verified, {size / 1e9:.2f} GB in {blocks} blocks", both(mine))
        page.row("cold, `safetensors.torch.load_file` of the same files, every page read, unverified", both(peer))
        page.row("cold, `load_file` alone: headers and what the kernel reads ahead", both(mapped))
        page.row(
            "over safetensors, p50", f"{(percentile(mine, 0.5) / percentile(peer, 0.5) - 1) * 100:+.1f} %", "< +5 %"
        )
        page.row("over safetensors, fastest of each", f"{(min(mine) / min(peer) - 1) * 100:+.1f} %")
        page.row("warm, verified again / `load_file`, every page read", f"{both(warm_mine)} / {both(warm_peer)}")
        page.write()


if __name__ == "__main__":
    main()
