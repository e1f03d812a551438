"""The models that benchmarks compute with: random ones of the sizes that the targets name, and the built-in one.

They are made once and kept in $BLYAN_BENCH_CACHE (default: `blyan-bench` in the temporary folder): checkpoints as
`transformers` saves them, and a data directory with every type in which a model is measured, imported as
`blyan model import --quantize` does. int8 and int4 are made of the bf16 checkpoint: what is not quantised (embeddings,
output matrix, norms) stays bf16. Without a tokenizer: prompts are token ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, SMOKE

sys.path.insert(0, str(ROOT / "tests"))

from blyan.model.config import ModelConfig
from blyan.model.loading import LoadedModel, load_model
from blyan.model.manifest import Manifest, read_manifest
from blyan.model.parts import parts_of
from blyan.model.stored_tensors import stored_bytes, stored_layout
from blyan.node import builtin
from blyan.node.quantizing import QuantizationRequest
from blyan.primitives.ids import PayloadId
from blyan.storage import tensor_block
from blyan.storage.blob_store import BlobStore
from checkpoints import save_random_checkpoint
from nodes import command, import_into, install_builtin

CACHE = Path(os.environ.get("BLYAN_BENCH_CACHE") or Path(tempfile.gettempdir()) / "blyan-bench")
TYPES = ("fp32", "bf16", "int8", "int4")
CONTEXT = 4_096

_common: dict[str, Any] = {
    "intermediate_size": 1_024,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "max_position_embeddings": CONTEXT,
}
RANDOM: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 32_000,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "moe_intermediate_size": 512,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    "200m": {
        "vocab_size": 16_000,
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "moe_intermediate_size": 384,
        "num_experts": 32,
        "num_experts_per_tok": 4,
    },
    "smoke": {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "moe_intermediate_size": 96,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
}
BUILT_IN = "built-in"


@dataclass(frozen=True)
class Reference:
    """One model in several types."""

    name: str
    folder: Path  # checkpoints `fp32` and `bf16`, and `data`
    manifests: dict[str, PayloadId]  # by type

    @property
    def data_dir(self) -> Path:
        """A node's data directory in which `model(type)` stands for every type."""
        return self.folder / "data"

    def twin(self) -> Path:
        """Another data directory of the same content, for a second node beside the first; its blobs are hard links."""
        found = self.folder / "twin"
        shutil.rmtree(found, ignore_errors=True)
        shutil.copytree(self.data_dir, found, ignore=shutil.ignore_patterns("blobs", "LOCK"))
        shutil.copytree(self.data_dir / "blobs", found / "blobs", copy_function=os.link)
        return found

    def model(self, kind: str) -> str:
        """The name by which a node serves the type."""
        return f"{self.name}-{kind}"

    def manifest(self, kind: str) -> Manifest:
        """What the type is made of."""
        return read_manifest(BlobStore(self.data_dir / "blobs"), self.manifests[kind])

    def loaded(self, kind: str) -> LoadedModel:
        """Ready to compute in this process; the data directory is only read."""
        return load_model(BlobStore(self.data_dir / "blobs"), self.manifests[kind])

    def prompt(self, count: int, seed: int) -> list[int]:
        """Random token ids that no two seeds share, so that no prefix is met again."""
        vocab = self.manifest("fp32").config.vocab_size
        return torch.randint(3, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def chosen(default: Iterable[str] = ("tiny", "200m", BUILT_IN)) -> list[str]:
    """The models to measure: `MODELS=tiny,built-in` names some."""
    named = os.environ.get("MODELS")
    return named.split(",") if named else ["smoke"] if SMOKE else list(default)


def reference(name: str, types: tuple[str, ...] = TYPES) -> Reference:
    """A model in these types, made if it is not there as this code would make it."""
    folder = CACHE / f"{name}-{_sources_digest()}"
    done = folder / "manifests.json"
    known = json.loads(done.read_text()) if done.exists() else {}
    found = Reference(name, folder, known)
    if missing := [kind for kind in types if kind not in known]:
        print(f"making {name} in {', '.join(missing)} ({folder})", flush=True)
        if not known:
            for old in CACHE.glob(f"{name}-*"):
                shutil.rmtree(old)
            folder.mkdir(parents=True)
            _save_checkpoints(name, folder)
        for kind in missing:
            request = QuantizationRequest.of(kind, now=time.monotonic) if kind in ("int8", "int4") else None
            source = folder / ("fp32" if kind == "fp32" else "bf16")
            known[kind] = import_into(found.data_dir, source, found.model(kind), request).model.manifest
            done.write_text(json.dumps(known))
    return found


def parameters(config: ModelConfig) -> tuple[int, int]:
    """How many there are, and how many one token meets."""
    counted = [(part, sum(prod(shape) for shape in part.shapes.values())) for part in parts_of(config)]
    routed = sum(size for part, size in counted if part.expert is not None)
    embedding = config.vocab_size * config.hidden
    total = sum(size for _, size in counted)
    looked_up = 0 if config.tied_embeddings else embedding - config.hidden
    return total, total - looked_up - routed + routed * config.experts_per_token // config.experts


def bytes_per_token(manifest: Manifest, positions: int) -> int:
    """What one decoded token reads: every weight it meets as it is stored, and keys and values of the positions."""
    config, dtype = manifest.config, tensor_block.dtypes[manifest.dtype]
    read = 0.0
    for part in parts_of(config):
        size = stored_bytes(stored_layout(part, dtype, manifest.quantization))
        if part.expert is not None:
            read += size * config.experts_per_token / config.experts
        elif part.name != "embed" or config.tied_embeddings:
            read += size
        else:
            read += config.hidden * dtype.itemsize
    return round(read) + positions * 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize


def _save_checkpoints(name: str, folder: Path) -> None:
    if name == BUILT_IN:
        with tempfile.TemporaryDirectory() as scratch:
            install_builtin(Path(scratch) / "data")
            done = command("model", "export", builtin.name, folder / "fp32", data_dir=Path(scratch) / "data")
            assert done.returncode == 0, done.stderr
    else:
        save_random_checkpoint(folder / "fp32", scale=3.0, **_common, **RANDOM[name])
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "fp32", dtype=torch.float32)
    model.to(torch.bfloat16).save_pretrained(folder / "bf16")


def _sources_digest() -> str:
    """Of everything that decides what is made: this file, the checkpoints', and the code that imports."""
    package = ROOT / "backend/blyan"
    files = [Path(__file__), ROOT / "tests/checkpoints.py", package / "builtin/manifest.json"]
    for storey in ("chain", "model", "node", "storage"):
        files += sorted((package / storey).glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
