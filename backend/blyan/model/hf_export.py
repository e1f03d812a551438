"""A model as an ordinary Hugging Face directory that `transformers` loads: configuration, tokenizer, weights in shards.

Weights go out bit for bit as they are stored; of a quantised model they are multiplied out first (`weights`), and the
caller says so. How the directory appears is in `hf_target`. What this leaves out: fields of the original `config.json`
that change nothing (`hf_config` ignores them at import).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from torch import Tensor, uint8

from blyan.model.config import ModelConfig
from blyan.model.hf_target import export_folder
from blyan.model.manifest import GenerationDefaults
from blyan.model.parts import Part, parts_of
from blyan.model.rope_scaling import RopeScaling
from blyan.model.tokenizer import TokenizerFields
from blyan.primitives import limits
from blyan.storage import tensor_block

PartTensors: TypeAlias = Callable[[Part], Mapping[str, Tensor]]

_shard_bytes_max: Final = 4 * limits.GIB
_architectures: Final = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
}
_torch_names: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def export_directory(
    folder: Path,
    config: ModelConfig,
    dtype: str,
    generation: GenerationDefaults,
    extras: Mapping[str, Any],
    tokenizer: TokenizerFields | None,
    card: str,
    part_tensors: PartTensors,
    progress: Callable[[int, int], None],
) -> int:
    """Write the directory, which must be absent or empty (`export_folder`); return the bytes of its weights.

    `extras` are fields of generation_config.json beside the defaults, as the checkpoint had them; `card` is README.md.
    """
    with export_folder(folder) as scratch:
        _write_json(scratch / "config.json", hf_config(config, dtype, generation, extras))
        _write_json(scratch / "generation_config.json", dict(extras) | _generation(generation))
        if tokenizer is not None:
            _write_tokenizer(scratch, tokenizer, config.context_length)
        if card:
            (scratch / "README.md").write_text(card, encoding="utf-8")
        return _write_weights(scratch, config, part_tensors, progress)


def hf_config(
    config: ModelConfig, dtype: str, generation: GenerationDefaults, extras: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `config.json` that `hf_config.config_from_hf` reads as this very configuration."""
    said: dict[str, Any] = {
        "architectures": [_architectures[config.family]],
        "bos_token_id": (extras or {}).get("bos_token_id"),
        "dtype": _torch_names[dtype],
        "eos_token_id": _one_or_all(generation.eos),
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "intermediate_size": config.dense_intermediate,
        "max_position_embeddings": _trained_context(config),
        "model_type": config.family,
        "num_attention_heads": config.heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": (extras or {}).get("pad_token_id"),
        "rms_norm_eps": config.rms_eps,
        "rope_parameters": _rope(config),
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": _torch_names[dtype],
        "vocab_size": config.vocab_size,
    }
    return said | _FAMILY_FIELDS[config.family](config)


def _mixtral(config: ModelConfig) -> dict[str, Any]:
    return {
        "head_dim": config.head_dim,
        "intermediate_size": config.expert_intermediate,
        "num_local_experts": config.experts,
        "sliding_window": config.window or None,
    }


def _olmoe(config: ModelConfig) -> dict[str, Any]:
    return {
        "attention_bias": config.attention_bias,
        "clip_qkv": config.clip_qkv or None,
        "intermediate_size": config.expert_intermediate,
        "norm_topk_prob": config.normalise_top_k,
        "num_experts": config.experts,
    }


def _qwen_moe(config: ModelConfig) -> dict[str, Any]:
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(config.layers) if layer not in config.moe_layers],
        "moe_intermediate_size": config.expert_intermediate,
        "norm_topk_prob": config.normalise_top_k,
        "num_experts": config.experts,
        "sliding_window": config.window or None,
        "use_sliding_window": bool(config.window),
    }


def _qwen2_moe(config: ModelConfig) -> dict[str, Any]:
    kinds = ["sliding_attention" if n in config.window_layers else "full_attention" for n in range(config.layers)]
    return _qwen_moe(config) | {
        "layer_types": kinds,
        "qkv_bias": config.attention_bias,
        "shared_expert_intermediate_size": config.shared_intermediate,
        "sliding_window": config.window or 4096,
    }


def _qwen3_moe(config: ModelConfig) -> dict[str, Any]:
    return _qwen_moe(config) | {"attention_bias": config.attention_bias, "head_dim": config.head_dim}


_FAMILY_FIELDS: Final[Mapping[str, Callable[[ModelConfig], dict[str, Any]]]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "olmoe": _olmoe,
}
assert _FAMILY_FIELDS.keys() == _architectures.keys()


def _trained_context(config: ModelConfig) -> int:
    """`max_position_embeddings`: linear and dynamic scaling start from it, ours says how far it was stretched."""
    scaling = config.rope_scaling
    stretched = scaling is not None and scaling.kind in ("linear", "dynamic")
    return scaling.original_context if scaling is not None and stretched else config.context_length


def _rope(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    said: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": scaling.kind if scaling else "default"}
    return said if scaling is None else said | _rope_scaling(scaling)


def _rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    original = {"original_max_position_embeddings": scaling.original_context}
    match scaling.kind:
        case "linear" | "dynamic":
            return {"factor": scaling.factor}
        case "proportional":
            return {"factor": scaling.factor, "partial_rotary_factor": scaling.rotated_share}
        case "longrope":
            return original | {
                "attention_factor": scaling.attention_factor,
                "short_factor": list(scaling.short_factor),
                "long_factor": list(scaling.long_factor),
            }
        case "llama3":
            return original | {
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
            }
        case _:
            return original | {
                "factor": scaling.factor,
                "attention_factor": scaling.attention_factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }


def _generation(generation: GenerationDefaults) -> dict[str, Any]:
    greedy = generation.temperature == 0.0
    sampling = {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": generation.top_k}
    return {"do_sample": not greedy, "eos_token_id": _one_or_all(generation.eos), **({} if greedy else sampling)}


def _one_or_all(eos: tuple[int, ...]) -> int | list[int] | None:
    return None if not eos else eos[0] if len(eos) == 1 else list(eos)


def _write_tokenizer(folder: Path, tokenizer: TokenizerFields, context: int) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer_json, encoding="utf-8")
    settings: dict[str, Any] = {
        **tokenizer.special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    _write_json(folder / "tokenizer_config.json", settings)


def _write_weights(
    folder: Path, config: ModelConfig, part_tensors: PartTensors, progress: Callable[[int, int], None]
) -> int:
    """`model.safetensors`, or shards of at most 4 GiB with their index; one part is in memory at a time."""
    parts = list(parts_of(config))
    shards: list[list[Part]] = [[]]
    room = _shard_bytes_max
    for part in parts:
        length = sum(tensor.nbytes for tensor in part_tensors(part).values())
        if length > room and shards[-1]:
            shards.append([])
            room = _shard_bytes_max
        shards[-1].append(part)
        room -= length
    several = len(shards) > 1
    weight_map: dict[str, str] = {}
    total = done = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if several else "model.safetensors"
        header, length = _shard_header(shard, part_tensors)
        weight_map |= dict.fromkeys(header.keys() - {"__metadata__"}, name)
        total += length
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        with (folder / name).open("xb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for part in shard:
                for tensor in part_tensors(part).values():
                    file.write(tensor.contiguous().view(-1).view(uint8).numpy().data)
                done += 1
                progress(done, len(parts))
    if several:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    return total


def _shard_header(shard: Sequence[Part], part_tensors: PartTensors) -> tuple[dict[str, Any], int]:
    """The safetensors header of these parts in this order, and the bytes of their data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for part in shard:
        for name, tensor in part_tensors(part).items():
            end = offset + tensor.nbytes
            described = {"shape": list(tensor.shape), "data_offsets": [offset, end]}
            header[part.checkpoint_name(name)] = {"dtype": tensor_block.dtype_names[tensor.dtype], **described}
            offset = end
    return header, offset


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
