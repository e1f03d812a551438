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
from blyan.model.hf_export import hf_config
from blyan.model.manifest import GenerationDefaults


def write_hf_directory(folder: Path, config: ModelConfig, tokenizer: str, parameters: Mapping[str, Tensor]) -> None:
    """config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: Tokenizer.from_str(tokenizer).token_to_id(token) for token in special_tokens}
    end_ids = [ids[turn_end], ids[end_of_text]]
    assert end_ids[0] is not None, "a special token of this tokenizer"
    _write_json(
        folder / "config.json",
        hf_config(config, "F32", GenerationDefaults(eos=(end_ids[0],))) | {"pad_token_id": ids[end_of_text]},
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
