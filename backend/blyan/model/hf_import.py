"""Reading a Hugging Face checkpoint directory: configuration, tokenizer, weights part by part.

`read_checkpoint` looks at everything (fields, names, shapes, dtypes) before a caller writes anything; `part_tensors`
then reads one part at a time through `safetensors`. No pickle, no code, no network. Unsupported: refused with the
field's name and value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
from safetensors import SafetensorError
from torch import Tensor

from blyan.model import tokenizer as tokenizer_module
from blyan.model.config import ModelConfig
from blyan.model.manifest import GenerationDefaults
from blyan.model.parts import Part, parts_of
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, UnsupportedModel

_shard_name = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")
_recomputed = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")

# fields that do not change what is computed at inference, or that other files say better
_ignored_fields = frozenset(
    "architectures attention_dropout bos_token_id dtype eos_token_id initializer_range max_window_layers "
    "output_router_logits pad_token_id router_aux_loss_coef router_z_loss_coef torch_dtype transformers_version "
    "use_cache _name_or_path id2label label2id return_dict output_attentions output_hidden_states problem_type "
    "chunk_size_feed_forward is_encoder_decoder sliding_window".split()
)
# fields that may only say what this engine computes anyway
_fixed_fields: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
    "qkv_bias": (False, None),
    "use_qk_norm": (True, None),
    "shared_expert_intermediate_size": (0, None),
}
_read_fields = frozenset(
    "attention_bias decoder_sparse_step head_dim hidden_size intermediate_size max_position_embeddings "
    "mlp_only_layers model_type moe_intermediate_size norm_topk_prob num_attention_heads num_experts "
    "num_experts_per_tok num_hidden_layers num_key_value_heads num_local_experts rms_norm_eps rope_parameters "
    "rope_scaling rope_theta tie_word_embeddings vocab_size".split()
)


@dataclass(frozen=True, slots=True)
class HfCheckpoint:
    """A checkpoint directory that passed every check short of reading its weights."""

    folder: Path
    config: ModelConfig
    dtype: str
    tokenizer: bytes | None  # a tokenizer payload
    generation: GenerationDefaults
    license: str
    files: Mapping[str, str]  # checkpoint tensor name → shard file name

    def part_tensors(self, part: Part) -> dict[str, Tensor]:
        """Read one part's tensors."""
        found: dict[str, Tensor] = {}
        names = {tensor: part.checkpoint_name(tensor) for tensor in part.shapes}
        for file in sorted({self.files[name] for name in names.values()}):
            with _opened(self.folder / file) as shard:
                found |= {tensor: shard.get_tensor(name) for tensor, name in names.items() if self.files[name] == file}
        return found


def read_checkpoint(folder: Path) -> HfCheckpoint:
    """Check a checkpoint directory; `NotFound` or `UnsupportedModel` says which file or field and what it holds."""
    if not (folder / "config.json").is_file():
        raise NotFound(f"checkpoint: expected {folder / 'config.json'}, found none")
    raw = _read_json(folder / "config.json", limits.config_json_bytes_max)
    config = config_from_hf(raw)
    generation_path = folder / "generation_config.json"
    generation_raw = _read_json(generation_path, limits.config_json_bytes_max) if generation_path.is_file() else {}
    generation = _generation(generation_raw, raw, config)
    payload = _tokenizer_payload(folder)
    if payload is not None:
        tokenizer_module.parse_payload(payload, config.vocab_size)
    files, dtype = _check_tensors(folder, config)
    return HfCheckpoint(folder, config, dtype, payload, generation, _license(folder), files)


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """The architecture that a Hugging Face `config.json` describes."""
    _want(raw.get("model_type") == "qwen3_moe", "model_type", raw.get("model_type"), "qwen3_moe")
    unknown = sorted(set(raw) - _ignored_fields - _fixed_fields.keys() - _read_fields)
    if unknown:
        raise UnsupportedModel(f"{unknown[0]}: expected a known field of qwen3_moe, found {raw[unknown[0]]!r}")
    for field, allowed in _fixed_fields.items():
        found = raw.get(field, allowed[0])
        same = any(found == value and type(found) is type(value) for value in allowed)
        _want(same, field, found, " or ".join(map(json.dumps, allowed)))
    layers = _integer(raw, "num_hidden_layers")
    if not 1 <= layers <= limits.layers_max:
        raise UnsupportedModel(f"num_hidden_layers: expected 1 to {limits.layers_max}, found {layers}")
    heads, hidden = _integer(raw, "num_attention_heads"), _integer(raw, "hidden_size")
    if raw.get("head_dim") is None:
        _want(heads > 0 and hidden % heads == 0, "num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
    return ModelConfig(
        family="qwen3_moe",
        vocab_size=_integer(raw, "vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_integer(raw, "num_key_value_heads", heads),
        head_dim=_integer(raw, "head_dim", hidden // heads if heads else 0),
        dense_intermediate=_integer(raw, "intermediate_size"),
        expert_intermediate=_integer(raw, "moe_intermediate_size"),
        experts=_integer(raw, "num_experts" if "num_experts" in raw else "num_local_experts"),
        experts_per_token=_integer(raw, "num_experts_per_tok"),
        normalise_top_k=_boolean(raw, "norm_topk_prob", False),
        moe_layers=_moe_layers(raw, layers),
        attention_bias=_boolean(raw, "attention_bias", False),
        tied_embeddings=_boolean(raw, "tie_word_embeddings", False),
        rms_eps=_number(raw, "rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(raw),
        context_length=_integer(raw, "max_position_embeddings", 32768),
    )


def _moe_layers(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    step = _integer(raw, "decoder_sparse_step", 1)
    _want(step >= 1, "decoder_sparse_step", step, "at least 1")
    dense: Any = raw.get("mlp_only_layers") or []
    _want(
        isinstance(dense, list) and all(type(layer) is int for layer in cast("list[Any]", dense)),
        "mlp_only_layers",
        dense,
        "a list of layer numbers",
    )
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)


def _rope_theta(raw: Mapping[str, Any]) -> float:
    scaling = raw.get("rope_scaling")
    plain = ({"rope_type": "default"}, {"type": "default"})
    _want(scaling is None or scaling in plain, "rope_scaling", scaling, "none")
    parameters = raw.get("rope_parameters")
    if parameters is None:
        return _number(raw, "rope_theta", 10_000.0)
    given = cast("dict[str, Any]", parameters) if isinstance(parameters, dict) else {}
    _want(
        set(given) <= {"rope_theta", "rope_type"} and given.get("rope_type", "default") == "default",
        "rope_parameters",
        parameters,
        "rope_type default and rope_theta alone",
    )
    return _number(given, "rope_theta", 10_000.0)


def _generation(
    generation: Mapping[str, Any], config_raw: Mapping[str, Any], config: ModelConfig
) -> GenerationDefaults:
    eos: Any = generation.get("eos_token_id", config_raw.get("eos_token_id"))
    tokens = cast("list[Any]", [] if eos is None else eos if isinstance(eos, list) else [eos])
    for token in tokens:
        _want(type(token) is int and 0 <= token < config.vocab_size, "eos_token_id", token, "token ids of the model")
    greedy = generation.get("do_sample") is False
    try:
        return GenerationDefaults(
            eos=tuple(tokens),
            temperature=0.0 if greedy else _number(generation, "temperature", 1.0),
            top_p=_number(generation, "top_p", 1.0),
            top_k=_integer(generation, "top_k", 0),
        )
    except InvalidInput as reason:
        raise UnsupportedModel(f"generation_config.json: {reason.message}") from None


def _tokenizer_payload(folder: Path) -> bytes | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    text = _read_text(path, limits.tokenizer_payload_bytes_max // 2)
    settings_path = folder / "tokenizer_config.json"
    settings = _read_json(settings_path, limits.config_json_bytes_max * 4) if settings_path.is_file() else {}
    template = settings.get("chat_template")
    template_path = folder / "chat_template.jinja"
    if template_path.is_file():
        template = _read_text(template_path, limits.chat_template_bytes_max)
    if isinstance(template, list):  # several named templates: the default one chats
        items = [cast("dict[str, Any]", item) for item in cast("list[Any]", template) if isinstance(item, dict)]
        template = next((item.get("template") for item in items if item.get("name") == "default"), None)
    _want(template is None or isinstance(template, str), "chat_template", template, "text")
    special: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value: Any = settings.get(name)
        content: Any = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            special[name] = content
    return tokenizer_module.encode_payload(text, template, special)


def _check_tensors(folder: Path, config: ModelConfig) -> tuple[dict[str, str], str]:
    """Compare names, shapes and dtypes of all shards with what the architecture needs; return files and the dtype."""
    expected = {
        part.checkpoint_name(tensor): shape for part in parts_of(config) for tensor, shape in part.shapes.items()
    }
    files: dict[str, str] = {}
    dtypes: dict[str, str] = {}
    for file in _shards(folder):
        with _opened(folder / file) as shard:
            for name in shard.keys():  # noqa: SIM118 - safe_open is no mapping
                if _recomputed.fullmatch(name) or (name == "lm_head.weight" and config.tied_embeddings):
                    continue
                piece = shard.get_slice(name)
                found = tuple(piece.get_shape())
                if name not in expected or name in files:
                    raise UnsupportedModel(f"tensor {name}: expected none of that name (twice), found one in {file}")
                if found != expected[name]:
                    raise UnsupportedModel(f"tensor {name}: expected shape {expected[name]}, found {found}")
                files[name] = file
                dtypes.setdefault(piece.get_dtype(), name)
    missing = sorted(set(expected) - set(files))
    if missing:
        raise UnsupportedModel(f"tensor {missing[0]}: expected one, found none ({len(missing)} missing)")
    if len(dtypes) != 1 or next(iter(dtypes)) not in ("F32", "F16", "BF16"):
        raise UnsupportedModel(f"dtype: expected F32, F16 or BF16 for all tensors, found {dtypes}")
    return files, next(iter(dtypes))


def _shards(folder: Path) -> list[str]:
    index_path = folder / "model.safetensors.index.json"
    if not index_path.is_file():
        if not (folder / "model.safetensors").is_file():
            raise NotFound(f"checkpoint: expected {folder / 'model.safetensors'} or an index of shards, found neither")
        return ["model.safetensors"]
    weight_map: Any = _read_json(index_path, limits.index_json_bytes_max).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UnsupportedModel(f"weight_map: expected an object, found {type(weight_map).__name__}")
    names = sorted({str(name) for name in cast("dict[str, Any]", weight_map).values()})
    if not 0 < len(names) <= limits.checkpoint_shards_max:
        raise UnsupportedModel(f"weight_map: expected 1 to {limits.checkpoint_shards_max} shards, found {len(names)}")
    for name in names:
        if not _shard_name.fullmatch(name) or ".." in name:
            raise UnsupportedModel(f"weight_map: expected plain .safetensors file names, found {name[:120]!r}")
        if not (folder / name).is_file():
            raise NotFound(f"checkpoint: expected shard {folder / name}, found none")
    return names


def _opened(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="pt")
    except (SafetensorError, OSError) as reason:
        raise UnsupportedModel(f"{path}: expected a safetensors file, found {reason}") from None


def _license(folder: Path) -> str:
    """The SPDX id in the front matter of the model card, if there is one."""
    card = folder / "README.md"
    if card.is_file() and card.stat().st_size <= limits.config_json_bytes_max:
        match = re.search(r"^license:\s*([A-Za-z0-9.+-]{1,64})\s*$", card.read_text("utf-8", "replace"), re.MULTILINE)
        if match:
            return match[1]
    return ""


def _read_text(path: Path, bytes_max: int) -> str:
    size = path.stat().st_size
    if size > bytes_max:
        raise InvalidInput(f"{path}: expected at most {bytes_max} bytes, found {size}")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as reason:
        raise InvalidInput(f"{path}: expected UTF-8, found {reason}") from None


def _read_json(path: Path, bytes_max: int) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path, bytes_max))
    except (ValueError, RecursionError) as reason:
        raise InvalidInput(f"{path}: expected JSON, found {reason}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: expected a JSON object, found {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _integer(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None and default is not None:
        return default
    _want(type(value) is int, name, value, "an integer")
    return cast("int", value)


def _number(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name)
    if value is None:
        return default
    _want(type(value) in (int, float), name, value, "a number")
    return float(cast("float", value))


def _boolean(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    value = raw.get(name)
    if value is None:
        return default
    _want(type(value) is bool, name, value, "true or false")
    return cast("bool", value)


def _want(holds: bool, field: str, found: object, expected: str) -> None:
    if not holds:
        raise UnsupportedModel(f"{field}: expected {expected}, found {str(found)[:200]!r}")
