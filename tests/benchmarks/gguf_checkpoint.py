"""A Qwen3-MoE checkpoint in fp32 as GGUF: `gguf_checkpoint.py FOLDER FILE.gguf TYPE`, in llama.cpp's environment.

TYPE is f32, bf16, q8_0 or q4_0, as llama.cpp's own converter stores it: matrices in that type, norms and gates in f32.
`q8_0+bf16` and `q4_0+bf16` leave embeddings and output matrix in bf16, as Blyan's own int8 and int4 do.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

QUANTIZED = {"f32": "F32", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
ATTENTION = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
}


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """Every fp32 tensor of the folder's safetensors files, mapped."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        (length,) = struct.unpack("<Q", raw[:8].tobytes())
        for name, place in json.loads(raw[8 : 8 + length].tobytes()).items():
            if name != "__metadata__":
                assert place["dtype"] == "F32", f"{name}: expected F32, found {place['dtype']}"
                begin, end = (8 + length + offset for offset in place["data_offsets"])
                found[name] = raw[begin:end].view(np.float32).reshape(place["shape"])
    return found


def renamed(config: dict, tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors by GGUF's names, the experts of a layer stacked."""
    yield "token_embd.weight", tensors["model.embed_tokens.weight"]
    yield "output_norm.weight", tensors["model.norm.weight"]
    if not config.get("tie_word_embeddings", False):
        yield "output.weight", tensors["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in ATTENTION.items():
            yield f"blk.{layer}.{ours}.weight", tensors[f"model.layers.{layer}.{theirs}.weight"]
        for which in ("gate", "up", "down"):
            experts = [
                tensors[f"model.layers.{layer}.mlp.experts.{expert}.{which}_proj.weight"]
                for expert in range(config["num_experts"])
            ]
            yield f"blk.{layer}.ffn_{which}_exps.weight", np.stack(experts)


def head(writer: gguf.GGUFWriter, config: dict) -> None:
    """Sizes, and that there is no vocabulary."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def main() -> None:
    folder, target, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("num_experts", config.get("num_local_experts"))
    assert config.get("norm_topk_prob", True), "llama.cpp normalises the shares of a Qwen3-MoE"
    matrices, _, outer = kind.partition("+")
    writer = gguf.GGUFWriter(target.with_suffix(".part"), "qwen3moe")
    head(writer, config)
    for name, tensor in renamed(config, tensors_of(folder)):
        if tensor.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
            continue
        whole = outer if outer and name in ("token_embd.weight", "output.weight") else matrices
        stored = gguf.GGMLQuantizationType[QUANTIZED[whole]]
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(tensor), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.with_suffix(".part").rename(target)


if __name__ == "__main__":
    main()
