"""Writes a trained model as an ordinary Hugging Face directory, the form that the product's own import reads.

Weights are safetensors; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from blyan.learning.tokenizer_training import chat_template, end_of_text, special_tokens, turn_end
from blyan.model.config import ModelConfig


def write_hf_directory(folder: Path, config: ModelConfig, tokenizer: str, parameters: Mapping[str, Tensor]) -> None:
    """config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: Tokenizer.from_str(tokenizer).token_to_id(token) for token in special_tokens}
    end_ids = [ids[turn_end], ids[end_of_text]]
    _write_json(
        folder / "config.json",
        {**_architecture(config), "eos_token_id": ids[turn_end], "pad_token_id": ids[end_of_text]},
    )
    _write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": end_ids, "pad_token_id": ids[end_of_text]},
    )
    _write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(number): _added_token(token) for token, number in ids.items()},
            "chat_template": chat_template,
            "clean_up_tokenization_spaces": False,
            "eos_token": turn_end,
            "model_max_length": config.context_length,
            "pad_token": end_of_text,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    save_file(dict(parameters), str(folder / "model.safetensors"), metadata={"format": "pt"})


def _architecture(config: ModelConfig) -> dict[str, object]:
    """The keys of transformers' `Qwen3MoeConfig`."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "initializer_range": 0.02,
        "intermediate_size": config.dense_intermediate,
        "max_position_embeddings": config.context_length,
        "mlp_only_layers": [layer for layer in range(config.layers) if layer not in config.moe_layers],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": config.expert_intermediate,
        "norm_topk_prob": config.normalise_top_k,
        "num_attention_heads": config.heads,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "output_router_logits": False,
        "rms_norm_eps": config.rms_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "router_aux_loss_coef": 0.01,
        "sliding_window": None,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def _added_token(token: str) -> dict[str, object]:
    return {
        "content": token,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
