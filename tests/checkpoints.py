"""Random checkpoints of every family as `transformers` saves them, and a small byte-level tokenizer for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Awkward on purpose: no size is a power of two, and one layer has no experts.
AWKWARD: dict[str, Any] = {
    "vocab_size": 517,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 20,
    "moe_intermediate_size": 52,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "mlp_only_layers": [0],
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "eos_token_id": None,
    "bos_token_id": None,
    "initializer_range": 0.08,
}


# What the other families say differently; None takes a field away.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "mixtral": {
        "num_experts": None,
        "num_local_experts": 7,
        "moe_intermediate_size": None,
        "intermediate_size": 52,
        "norm_topk_prob": None,
        "mlp_only_layers": None,
    },
    "qwen2_moe": {"head_dim": None, "shared_expert_intermediate_size": 44},
    "olmoe": {"head_dim": None, "moe_intermediate_size": None, "intermediate_size": 52, "mlp_only_layers": None},
}


def save_random_checkpoint(
    folder: Path,
    *,
    family: str = "qwen3_moe",
    seed: int = 0,
    scale: float = 4.0,
    dtype: str = "float32",
    **changes: Any,
):
    """Save a random checkpoint and return the `transformers` model; matrices are scaled so that outputs vary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    said = {name: value for name, value in (AWKWARD | FAMILIES[family]).items() if value is not None or "token" in name}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(said | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name and model.config.tie_word_embeddings:
                continue  # a loud tied embedding would drown the layers, and the model would only repeat itself
            if parameter.dim() > 1:
                parameter.mul_(scale)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if dtype == "float32":
        return model
    # `to` has rounded the rotary frequencies too, which nobody who loads the checkpoint would
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def save_byte_tokenizer(folder: Path, *, template: str | None = CHAT_TEMPLATE) -> None:
    """A byte-level tokenizer of 256 bytes and four special tokens, as tokenizer.json and tokenizer_config.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", **({"chat_template": template} if template else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
