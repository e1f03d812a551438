"""`config.json`: what changes nothing passes, what is refused is named as the checkpoint names it."""

import re
from typing import Any

import pytest

from blyan.model.hf_config import asked_in_vain, config_from_hf
from blyan.primitives.errors import UnsupportedModel

SMALL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
}
# the generic fields that transformers 4 wrote into every config.json, and what trainers add
GENERIC: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "_commit_hash": "0" * 40,
    "add_cross_attention": False,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "layer_types": ["full_attention"] * 2,
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "prefix": None,
    "pretraining_tp": 1,
    "problem_type": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict": True,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "top_k": 50,
    "top_p": 1.0,
    "torchscript": False,
    "typical_p": 1.0,
    "unsloth_fixed": True,
    "unsloth_version": "2025.1.5",
    "use_bfloat16": False,
}


def test_generic_fields_that_change_nothing_pass() -> None:
    """All together, as files of transformers 4 have them; nothing is said about them."""
    assert config_from_hf(SMALL | GENERIC) == config_from_hf(SMALL)
    assert list(asked_in_vain(SMALL | GENERIC)) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("add_cross_attention", True),
        ("auto_map", {"AutoModelForCausalLM": "modeling_x.X"}),
        ("is_encoder_decoder", True),
        ("layer_types", ["full_attention", "linear_attention"]),
        ("per_layer_config", {"0": {}}),
        ("prefix", "Once upon a time"),
        ("pretraining_tp", 2),
        ("pruned_heads", {"0": [1]}),
        ("task_specific_params", {"text-generation": {"do_sample": True}}),
        ("num_local_experts", 5),
    ],
)
def test_the_same_fields_with_values_that_could_change_something_are_refused(field: str, value: Any) -> None:
    """By name and value."""
    with pytest.raises(UnsupportedModel, match=f"^{field}: expected .*found "):
        config_from_hf(SMALL | {field: value})


def test_generation_fields_in_config_json_are_said_where_they_ask_for_something() -> None:
    """transformers reads them there no more."""
    said = list(asked_in_vain(SMALL | {"max_length": 4096, "temperature": 0.6, "top_p": None}))
    assert [sentence.split(" is ")[0] for sentence in said] == [
        "config.json: max_length '4096'",
        "config.json: temperature '0.6'",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: expected a divisor of the 4 heads, found 3"),
        ({"num_experts": 0}, "num_experts: expected an integer from 1 to 4096, found 0"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok: expected at most the 4 experts, found 5"),
        ({"head_dim": 15}, "head_dim: expected an even number (rotary halves), found 15"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size: expected an integer from 1 to"),
        ({"rms_norm_eps": 2}, "rms_norm_eps: expected between 0 and 1, found 2.0"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 1e9}},
            "rope_scaling.beta_fast: expected a number from 0.001 to 1e+06, found 1000000000.0",
        ),
        (
            {"model_type": "mixtral", "num_experts": 0},
            "num_experts: expected an integer from 1 to 4096, found 0",
        ),
        (
            {"model_type": "mixtral", "num_local_experts": 0, "num_experts": 0},
            "num_local_experts: expected an integer from 1 to 4096, found 0",
        ),
    ],
)
def test_a_refusal_names_the_field_of_the_checkpoint(changes: dict[str, Any], message: str) -> None:
    """And not this engine's name for it."""
    with pytest.raises(UnsupportedModel, match=f"^{re.escape(message)}"):
        config_from_hf(SMALL | changes)


def test_null_key_value_heads_of_mixtral_are_as_many_as_heads() -> None:
    """As `transformers` has it; left out they are 8."""
    mixtral = {"model_type": "mixtral", "hidden_size": 64, "num_attention_heads": 16}
    assert config_from_hf(mixtral | {"num_key_value_heads": None}).kv_heads == 16
    assert config_from_hf(mixtral).kv_heads == 8
