"""The fields of a `config.json`: which a family has, what they are where they are left out, and which change nothing.

The defaults are those of the `transformers` configuration classes; tests hold every one to them. Everything that is
in no table here could change what is computed, and is refused (`hf_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# fields that do not change what is computed at inference, or that other files say better
ignored: Final = frozenset(
    "architectures attention_dropout bos_token_id dtype eos_token_id initializer_range output_router_logits "
    "pad_token_id router_aux_loss_coef router_z_loss_coef router_jitter_noise torch_dtype transformers_version "
    "use_cache _name_or_path name_or_path id2label label2id num_labels return_dict output_attentions "
    "output_hidden_states problem_type chunk_size_feed_forward _commit_hash "
    "_attn_implementation _attn_implementation_autoset _attn_implementation_internal attn_implementation "
    "_experts_implementation _experts_implementation_internal experts_implementation decoder_start_token_id "
    "sep_token_id finetuning_task gradient_checkpointing is_decoder tf_legacy_loss tokenizer_class torchscript "
    "unsloth_fixed unsloth_version use_bfloat16".split()
)
read: Final = frozenset(
    "head_dim hidden_size intermediate_size layer_types max_position_embeddings model_type num_attention_heads "
    "num_experts_per_tok num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters rope_scaling rope_theta "
    "tie_word_embeddings vocab_size partial_rotary_factor original_max_position_embeddings".split()
)
# fields that may only say what this engine computes anyway
fixed: Final[Mapping[str, tuple[object, ...]]] = {
    "add_cross_attention": (False, None),
    "auto_map": (None, {}),
    "cross_attention_hidden_size": (None,),
    "hidden_act": ("silu",),
    "is_encoder_decoder": (False, None),
    "mlp_bias": (False, None),
    "prefix": (None, ""),
    "pretraining_tp": (1, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "task_specific_params": (None, {}),
    "tie_encoder_decoder": (False, None),
}


@dataclass(frozen=True, slots=True)
class FamilyFields:
    """How one family's `config.json` says it."""

    experts: tuple[str, ...]  # names of the number of experts; `transformers` takes them for one field
    expert_width: str
    attention_bias: str | None
    defaults: Mapping[str, Any]  # None: what it is then stands in `hf_config`
    fixed: Mapping[str, tuple[object, ...]]
    ignored: frozenset[str] = frozenset()
    nullable: frozenset[str] = frozenset()  # fields with a default that may be null
    always_normalised: bool = False
    eos: int | None = None  # where neither config.json nor a generation_config.json says one

    @property
    def known(self) -> frozenset[str]:
        """Every name that is read, ignored on purpose, or held to a value."""
        return ignored | read | fixed.keys() | self.ignored | self.fixed.keys() | self.defaults.keys() | {*self.experts}


_qwen_moe: Final = {
    "vocab_size": 151_936,
    "hidden_size": 2_048,
    "num_hidden_layers": 24,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4_096,
    "decoder_sparse_step": 1,
    "norm_topk_prob": False,
    "mlp_only_layers": None,
}

families: Final[Mapping[str, FamilyFields]] = {
    "mixtral": FamilyFields(
        experts=("num_local_experts", "num_experts"),
        expert_width="intermediate_size",
        attention_bias=None,
        defaults={
            "vocab_size": 32_000,
            "hidden_size": 4_096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": None,
            "hidden_act": "silu",
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "sliding_window": None,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
        },
        fixed={"attention_bias": (False, None), "norm_topk_prob": (True, None)},
        nullable=frozenset({"num_key_value_heads"}),
        always_normalised=True,
        eos=2,
    ),
    "qwen2_moe": FamilyFields(
        experts=("num_experts",),
        expert_width="moe_intermediate_size",
        attention_bias="qkv_bias",
        defaults={
            **_qwen_moe,
            "intermediate_size": 5_632,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "max_window_layers": 28,
            "moe_intermediate_size": 1_408,
            "shared_expert_intermediate_size": 5_632,
            "num_experts_per_tok": 4,
            "num_experts": 60,
            "qkv_bias": True,
            "layer_types": None,
        },
        fixed={},
        nullable=frozenset({"sliding_window"}),
    ),
    "qwen3_moe": FamilyFields(
        experts=("num_experts", "num_local_experts"),
        expert_width="moe_intermediate_size",
        attention_bias="attention_bias",
        defaults={
            **_qwen_moe,
            "intermediate_size": 6_144,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
            "num_experts": 128,
            "attention_bias": False,
        },
        fixed={"qkv_bias": (False, None), "use_qk_norm": (True, None), "shared_expert_intermediate_size": (0, None)},
        ignored=frozenset({"max_window_layers"}),  # of its predecessor; this family's window is for all layers
        nullable=frozenset({"sliding_window"}),
    ),
    "olmoe": FamilyFields(
        experts=("num_experts", "num_local_experts"),
        expert_width="intermediate_size",
        attention_bias="attention_bias",
        defaults={
            "vocab_size": 50_304,
            "hidden_size": 2_048,
            "intermediate_size": 2_048,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": None,
            "hidden_act": "silu",
            "max_position_embeddings": 4_096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "clip_qkv": None,
            "num_experts_per_tok": 8,
            "num_experts": 64,
            "norm_topk_prob": False,
        },
        fixed={"sliding_window": (None,), "use_sliding_window": (False, None)},
        eos=50_279,
    ),
}

# what `config.json` (until transformers 5) and `generation_config.json` may ask of generation, and the values by which
# they ask for nothing; null always does
asks_for_nothing: Final[Mapping[str, tuple[object, ...]]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "do_sample": (False,),
    "dola_layers": (),
    "early_stopping": (False,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "length_penalty": (1,),
    "max_length": (20,),
    "max_new_tokens": (),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_p": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "repetition_penalty": (1,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "temperature": (1,),
    "token_healing": (False,),
    "top_h": (),
    "top_k": (50,),
    "top_p": (1,),
    "typical_p": (1,),
    "watermarking_config": (),
}
# how an answer is computed or returned, which no answer shows
of_the_machinery: Final = frozenset(
    "assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight assistant_lookbehind cache_config "
    "cache_implementation compile_config continuous_batching_config disable_compile is_assistant low_memory "
    "max_cache_len max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule output_attentions "
    "output_hidden_states output_logits output_scores prefill_chunk_size prompt_lookup_num_tokens "
    "return_dict_in_generate speculation_type target_lookbehind transformers_version use_cache use_mtp "
    "_from_model_config _commit_hash".split()
)


def asks(name: str, value: object) -> bool:
    """Whether a generation field of that name and value asks for something that answers would show."""
    return value is not None and not any(
        value == harmless and isinstance(value, bool) == isinstance(harmless, bool)
        for harmless in asks_for_nothing.get(name, ())
    )
