"""Reading a Hugging Face checkpoint directory: configuration, tokenizer, weights part by part.

`read_checkpoint` looks at everything (fields, names, shapes, dtypes) before a caller writes anything; `part_tensors`
then reads one part at a time through `safetensors`. No pickle, no code, no network. Unsupported: refused with the
field's name and value.
"""

from __future__ import annotations

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
from blyan.model.hf_config import config_from_hf, integer, number, want
from blyan.model.hf_files import read_json
from blyan.model.hf_tokenizer import tokenizer_payload
from blyan.model.manifest import GenerationDefaults
from blyan.model.parts import Part, parts_of
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, UnsupportedModel

_shard_name = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")
_recomputed = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")

# YAML: plain or quoted, alone or as the first of a list in brackets or of one with dashes
_license_said = re.compile(
    r"""^license:[ \t]*(?:(?P<bracket>\[\s*)|\n[ \t]*-[ \t]+)?(?P<quote>["']?)"""
    r"""(?P<id>[A-Za-z0-9][A-Za-z0-9.+-]{0,63})(?P=quote)(?(bracket)\s*[,\]]|(?:[ \t]+\#.*)?$)""",
    re.MULTILINE,
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
    raw = read_json(folder / "config.json", limits.config_json_bytes_max)
    config = config_from_hf(raw)
    generation_path = folder / "generation_config.json"
    generation_raw = read_json(generation_path, limits.config_json_bytes_max) if generation_path.is_file() else {}
    generation = _generation(generation_raw, raw, config)
    payload = tokenizer_payload(folder)
    if payload is not None:
        tokenizer_module.parse_payload(payload, config.vocab_size)
    files, dtype = _check_tensors(folder, config)
    return HfCheckpoint(folder, config, dtype, payload, generation, _license(folder), files)


def _generation(
    generation: Mapping[str, Any], config_raw: Mapping[str, Any], config: ModelConfig
) -> GenerationDefaults:
    eos: Any = generation.get("eos_token_id", config_raw.get("eos_token_id"))
    tokens = cast("list[Any]", [] if eos is None else eos if isinstance(eos, list) else [eos])
    for token in tokens:
        want(type(token) is int and 0 <= token < config.vocab_size, "eos_token_id", token, "token ids of the model")
    greedy = generation.get("do_sample") is False
    try:
        return GenerationDefaults(
            eos=tuple(tokens),
            temperature=0.0 if greedy else number(generation, "temperature", 1.0),
            top_p=number(generation, "top_p", 1.0),
            top_k=integer(generation, "top_k", 0),
        )
    except InvalidInput as reason:
        raise UnsupportedModel(f"generation_config.json: {reason.message}") from None


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
    """`model.safetensors` where it is, as `transformers` has it: an index beside it is one that was left behind."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    index_path = folder / "model.safetensors.index.json"
    if not index_path.is_file():
        raise NotFound(f"checkpoint: expected {folder / 'model.safetensors'} or an index of shards, found neither")
    weight_map: Any = read_json(index_path, limits.index_json_bytes_max).get("weight_map")
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
    """The SPDX id in the front matter of the model card, if there is one; the first where it lists several."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > limits.config_json_bytes_max:
        return ""
    lines = [line.rstrip() for line in card.read_text("utf-8-sig", "replace").split("\n")]
    if lines[0] != "---" or "---" not in lines[1:]:
        return ""
    said = _license_said.search("\n".join(lines[1 : lines.index("---", 1)]))
    return said["id"] if said else ""
