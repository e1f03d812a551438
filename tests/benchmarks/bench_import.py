"""Importing a 2 GB checkpoint, against copying the same bytes and syncing them once.

Back of the envelope: the bytes are read once and written once, which is what a copy does; hashing costs a quarter of a
second a gigabyte beside that, and every block is synced by itself, so that a disk that takes milliseconds to sync
decides. Memory: a few parts at a time, and pages of the mapped shards, which the kernel takes back when it needs them.
Quantising reads everything once or twice more (the text through the model as it came, for int4 first to see which
inputs are large), computes every scale, and reads what it stored.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import SMOKE, Page
from safetensors.torch import save_file

from blyan.model.hf_config import config_from_hf
from blyan.model.parts import parts_of

CONFIG = {
    "model_type": "qwen3_moe",
    "vocab_size": 32_000,
    "hidden_size": 256 if SMOKE else 1_024,
    "intermediate_size": 512,
    "num_hidden_layers": 2 if SMOKE else 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "moe_intermediate_size": 128 if SMOKE else 640,
    "num_experts": 4 if SMOKE else 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 2_048,
}

IMPORT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
from blyan.model.hf_import import read_checkpoint
from blyan.node.importing import import_checkpoint
from blyan.node.quantizing import QuantizationRequest
from nodes import writing
def private():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Private_Dirty"))
def high_water():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
open("/proc/self/clear_refs", "w").write("5")  # resets VmHWM; ru_maxrss would begin at what our parent had
before, rss = private(), high_water()
peak = before
def progress(done, total):
    global peak
    peak = max(peak, private())
began = time.perf_counter()
request = QuantizationRequest.of(sys.argv[4], now=time.monotonic) if sys.argv[4] else None
with writing(Path(sys.argv[2])) as ground:
    import_checkpoint(ground, read_checkpoint(Path(sys.argv[1])), "bench", progress, request)
print(time.perf_counter() - began, high_water() - rss, peak - before)
"""


def make(folder: Path) -> int:
    """A random checkpoint in shards of one layer; its bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    config = config_from_hf(CONFIG)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for part in parts_of(config):
        shard = f"model-{part.layer if part.layer is not None else 'outer'}.safetensors"
        for name, shape in part.shapes.items():
            shards.setdefault(shard, {})[part.checkpoint_name(name)] = torch.randn(shape, dtype=torch.bfloat16)
    weight_map: dict[str, str] = {}
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard)
        weight_map |= dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def copied(source: Path, target: Path) -> float:
    """Seconds of a plain copy, synced once at the end of each file."""
    began = time.perf_counter()
    target.mkdir()
    for path in source.glob("*.safetensors"):
        with path.open("rb") as read, (target / path.name).open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            os.fsync(write.fileno())
    return time.perf_counter() - began


def imported(folder: Path, scheme: str) -> tuple[float, int, int]:
    """Seconds of one import in a process of its own, and its peaks of resident and private memory, in KiB."""
    tests = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, folder / "hf", folder / "data", tests, scheme],
        capture_output=True,
        check=True,
        text=True,
    )
    shutil.rmtree(folder / "data")
    found = re.fullmatch(r"([\d.]+) (\d+) (-?\d+)\n", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]), int(found[2]), int(found[3])


def main() -> None:
    page = Page("import", "Importing a checkpoint", __doc__.partition("\n\n")[2].strip())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make(folder / "hf")
        results: list[tuple[float, int, int]] = []
        peer: list[float] = []
        for turn in range(1 if SMOKE else 3):
            peer.append(copied(folder / "hf", folder / f"copy{turn}"))
            shutil.rmtree(folder / f"copy{turn}")
            results.append(imported(folder, ""))
        best, bare = min(seconds for seconds, _, _ in results), min(peer)
        page.row(
            f"import of {size / 1e9:.2f} GB, bf16, each expert its own block",
            f"{best:.1f} s, {size / best / 1e9:.2f} GB/s",
        )
        page.row("plain copy of the same bytes, synced", f"{bare:.1f} s, {size / bare / 1e9:.2f} GB/s")
        page.row("import ÷ copy", f"{best / bare:.2f} ×")
        memory(page, "", max(rss for _, rss, _ in results), max(private for _, _, private in results))
        for scheme in ("int8", "int4"):
            seconds, rss, private = imported(folder, scheme)
            page.row(f"quantising to {scheme}", f"{seconds:.1f} s, {size / seconds / 1e9:.3f} GB/s")
            page.row(f"{scheme} ÷ copy", f"{seconds / bare:.1f} ×")
            memory(page, f"{scheme}: ", rss, private)
    page.write()


def memory(page: Page, prefix: str, rss: int, private: int) -> None:
    """Rows of what a run held beyond interpreter and torch."""
    page.row(
        f"{prefix}peak resident memory above interpreter and torch, mapped pages included",
        f"{rss / 1024:.0f} MB",
        "< 600 MB",
    )
    page.row(f"{prefix}peak private memory above that", f"{private / 1024:.0f} MB")


if __name__ == "__main__":
    main()
