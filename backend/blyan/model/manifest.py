"""The model manifest: what a model is made of, as one canonical payload that the meta chain names.

Architecture, every part → payload id, tokenizer, generation and request defaults, origin. See docs/spec/manifest.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, cast

from blyan.chain.entries import version_pattern
from blyan.model.config import ModelConfig
from blyan.model.parts import parts_of
from blyan.model.quantization import Quantization
from blyan.model.record import encode_record, parse_record
from blyan.model.request_defaults import RequestDefaults, Said, nothing_said
from blyan.model.rope_scaling import RopeScaling
from blyan.model.sampling import Sampling
from blyan.primitives import canonical, limits
from blyan.primitives.errors import InvalidInput, UnsupportedModel
from blyan.primitives.ids import PayloadId, payload_id
from blyan.primitives.model_name import model_name_pattern
from blyan.storage.blob_store import BlobStore

media: Final = "application/vnd.blyan.manifest+json"
_format: Final = "blyan/manifest/1"
_optional: Final = frozenset({"quantization", "defaults", "generation_extras", "license_link"})
license_link_pattern: Final = re.compile(r"[!-~]{1,256}")
_nested: Final = {"RopeScaling | None": RopeScaling}


@dataclass(frozen=True, slots=True)
class BlockReference:
    """One stored block of a model."""

    payload: PayloadId
    length: int  # bytes


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a request gets when it does not say otherwise (Hugging Face `generation_config.json`)."""

    eos: tuple[int, ...] = ()  # token ids that end an answer
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit

    def __post_init__(self) -> None:
        Sampling(self.temperature, self.top_p, self.top_k)  # the same ranges as a request's


@dataclass(frozen=True, slots=True)
class Manifest:
    """One model at one version. A value that exists has exactly the parts that its architecture needs."""

    name: str
    version: str
    config: ModelConfig
    dtype: str  # of all weights, a safetensors dtype name
    parts: Mapping[str, BlockReference]
    tokenizer: BlockReference | None
    generation: GenerationDefaults
    license: str
    source: str
    quantization: Quantization | None = None  # None: every tensor is stored as it came
    defaults: RequestDefaults = nothing_said
    generation_extras: str = ""  # what else the checkpoint says of generation, kept for export (`extras_text`)
    license_link: str = ""  # where the licence's text is, as the model card says it

    def __post_init__(self) -> None:
        expected = {part.name for part in parts_of(self.config)}
        if set(self.parts) != expected:
            missing, extra = sorted(expected - set(self.parts))[:4], sorted(set(self.parts) - expected)[:4]
            raise UnsupportedModel(f"manifest of {self.name}: missing parts {missing}, unexpected parts {extra}")

    def encode(self) -> bytes:
        """The canonical bytes, which are the payload."""
        stored: dict[str, canonical.Canonical] = {}
        if self.quantization is not None:
            stored["quantization"] = encode_record(self.quantization, sparse=True)
        if self.defaults != nothing_said:
            stored["defaults"] = encode_record(self.defaults, sparse=True)
        if self.generation_extras:
            stored["generation_extras"] = self.generation_extras
        if self.license_link:
            stored["license_link"] = self.license_link
        return canonical.encode(
            {
                **stored,
                "format": _format,
                "name": self.name,
                "version": self.version,
                "architecture": encode_record(self.config, sparse=True),
                "dtype": self.dtype,
                "parts": {name: _block(part) for name, part in self.parts.items()},
                "tokenizer": _block(self.tokenizer) if self.tokenizer else None,
                "generation": encode_record(self.generation),
                "license": self.license,
                "source": self.source,
            }
        )

    @property
    def blocks(self) -> dict[str, BlockReference]:
        """Every block by part name, the tokenizer included."""
        return {**self.parts, **({"tokenizer": self.tokenizer} if self.tokenizer else {})}


def parse_manifest(raw: bytes) -> Manifest:
    """Parse a manifest payload; `InvalidInput` (or `UnsupportedModel`) says what was expected."""
    value = canonical.decode_object(raw, bytes_max=limits.manifest_bytes_max)
    expected = {f.name for f in fields(Manifest)} - {"config", *_optional} | {"format", "architecture"}
    if set(value) - _optional != expected or value["format"] != _format:
        raise InvalidInput(f"manifest: expected format {_format} with fields {sorted(expected)}, found {sorted(value)}")
    parts = value["parts"]
    if not isinstance(parts, dict) or len(cast("dict[str, Any]", parts)) > limits.manifest_parts_max:
        raise InvalidInput(f"manifest parts: expected an object of at most {limits.manifest_parts_max}")
    return Manifest(
        name=_text(value["name"], model_name_pattern, "name"),
        version=_text(value["version"], version_pattern, "version"),
        config=parse_record(ModelConfig, value["architecture"], "manifest architecture", sparse=True, nested=_nested),
        dtype=_text(value["dtype"], re.compile("F32|F16|BF16"), "dtype"),
        parts={name: _parse_block(part, name) for name, part in cast("dict[str, Any]", parts).items()},
        tokenizer=None if value["tokenizer"] is None else _parse_block(value["tokenizer"], "tokenizer"),
        generation=parse_record(GenerationDefaults, value["generation"], "manifest generation"),
        license=_text(value["license"], re.compile(r"[ -~]{0,128}"), "license"),
        source=_text(value["source"], re.compile(r"[ -~]{0,256}"), "source"),
        quantization=_parse_quantization(value),
        defaults=_parse_defaults(value),
        generation_extras=_parse_extras(value),
        license_link=_text(value["license_link"], license_link_pattern, "license_link")
        if "license_link" in value
        else "",
    )


def _parse_quantization(value: Mapping[str, object]) -> Quantization | None:
    if "quantization" not in value:
        return None
    return parse_record(Quantization, value["quantization"], "manifest quantization", sparse=True)


def _parse_defaults(value: Mapping[str, object]) -> RequestDefaults:
    if "defaults" not in value:
        return nothing_said
    given = value["defaults"]
    said = parse_record(RequestDefaults, given, "manifest defaults", sparse=True, nested={"Said": Said})
    if said == nothing_said:
        raise InvalidInput("manifest defaults: expected them left out where they say nothing, found an empty record")
    return said


def extras_text(extras: Mapping[str, Any]) -> str:
    """Fields of a `generation_config.json` as a manifest carries them; `InvalidInput` for too many.

    They may hold floats, which canonical values cannot: a text of JSON in one spelling, empty for no fields.
    """
    text = json.dumps(extras, allow_nan=False, separators=(",", ":"), sort_keys=True) if extras else ""
    if len(text) > limits.generation_extras_bytes_max:
        raise InvalidInput(f"expected at most {limits.generation_extras_bytes_max} bytes of fields, found {len(text)}")
    return text


def parse_extras(text: str) -> dict[str, Any]:
    """The fields that `extras_text` wrote; `InvalidInput` for any other text."""
    try:
        extras = json.loads(text) if text else {}
        same = isinstance(extras, dict) and extras_text(cast("dict[str, Any]", extras)) == text
    except (ValueError, RecursionError):
        same = False
        extras = {}
    if not same:
        raise InvalidInput(f"manifest generation_extras: expected an object of JSON, found {text[:80]!r}")
    return cast("dict[str, Any]", extras)


def _parse_extras(value: Mapping[str, object]) -> str:
    if "generation_extras" not in value:
        return ""
    text = value["generation_extras"]
    if not isinstance(text, str) or not 0 < len(text) <= limits.generation_extras_bytes_max:
        raise InvalidInput(f"manifest generation_extras: expected text, found {str(text)[:80]!r}")
    parse_extras(text)
    return text


def read_manifest(store: BlobStore, manifest_id: PayloadId) -> Manifest:
    """The verified, parsed manifest of that payload id."""
    return parse_manifest(store.read(manifest_id, bytes_max=limits.manifest_bytes_max))


def _block(block: BlockReference) -> dict[str, canonical.Canonical]:
    return {"payload": block.payload, "bytes": block.length}


def _parse_block(value: object, what: str) -> BlockReference:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {"payload", "bytes"}:
        raise InvalidInput(f"manifest part {what[:80]}: expected fields ['bytes', 'payload']")
    given = cast("dict[str, Any]", value)
    length = given["bytes"]
    if type(length) is not int or not 0 < length <= limits.payload_bytes_max:
        raise InvalidInput(
            f"manifest part {what[:80]}: expected 1 to {limits.payload_bytes_max} bytes, found {length!r}"
        )
    return BlockReference(payload_id(given["payload"]), length)


def _text(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(f"manifest {what}: expected {pattern.pattern}, found {str(value)[:80]!r}")
    return value
