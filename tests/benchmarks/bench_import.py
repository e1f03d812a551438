"""Importing a 2 GB checkpoint, against copying the same bytes and syncing them once.

Back of the envelope: the bytes are read once and written once, which is what a copy does; hashing costs a quarter of a
second a gigabyte beside that, and every block is synced by itself, so that a disk that takes milliseconds to sync
decides. Memory: one part at a time, and pages of the mapped shards, which the kernel takes back when it needs them.
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
with writing(Path(sys.argv[2])) as ground:
    import_checkpoint(ground, read_checkpoint(Path(sys.argv[1])), "bench", progress)
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


def main() -> None:
    runs = 1 if SMOKE else 3
    tests = str(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make(folder / "hf")
        seconds: list[float] = []
        peer: list[float] = []
        rss = private = 0
        for turn in range(runs):
            peer.append(copied(folder / "hf", folder / f"copy{turn}"))
            shutil.rmtree(folder / f"copy{turn}")
            done = subprocess.run(
                [sys.executable, "-c", IMPORT, folder / "hf", folder / f"data{turn}", tests],
                capture_output=True,
                check=True,
                text=True,
            )
            found = re.fullmatch(r"([\d.]+) (\d+) (-?\d+)\n", done.stdout)
            assert found is not None, done.stdout
            seconds.append(float(found[1]))
            rss, private = max(rss, int(found[2])), max(private, int(found[3]))
            shutil.rmtree(folder / f"data{turn}")
        page = Page("import", "Importing a checkpoint", __doc__.partition("\n\n")[2].strip())
        best, bare = min(seconds), min(peer)
        page.row(
            f"import of {size / 1e9:.2f} GB, bf16, each expert its own block",
            f"{best:.1f} s, {size / best / 1e9:.2f} GB/s",
        )
        page.row("plain copy of the same bytes, synced", f"{bare:.1f} s, {size / bare / 1e9:.2f} GB/s")
        page.row("import ÷ copy", f"{best / bare:.2f} ×")
        page.row("peak resident memory above interpreter and torch, mapped pages included", f"{rss / 1024:.0f} MB")
        page.row("peak private memory above that", f"{private / 1024:.0f} MB")
        page.write()


if __name__ == "__main__":
    main()
