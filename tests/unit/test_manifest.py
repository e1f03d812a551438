"""Manifests: exactly what a model is made of, in bytes that never change."""

import dataclasses
import math
from typing import Any

import pytest

from blyan.model.config import ModelConfig
from blyan.model.manifest import BlockReference, GenerationDefaults, Manifest, parse_manifest
from blyan.model.parts import part_position, parts_of
from blyan.primitives import canonical
from blyan.primitives.errors import InvalidInput, UnsupportedModel
from blyan.primitives.ids import PayloadId

CONFIG = ModelConfig(
    family="qwen3_moe",
    vocab_size=32,
    hidden=8,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=4,
    dense_intermediate=16,
    expert_intermediate=12,
    experts=3,
    experts_per_token=2,
    normalise_top_k=True,
    moe_layers=(1,),
    attention_bias=False,
    tied_embeddings=True,
    rms_eps=1e-6,
    rope_theta=10000.0,
    context_length=64,
)
BLOCK = BlockReference(PayloadId("ab" * 32), 4096)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "m",
        "version": "1.0.0",
        "config": CONFIG,
        "dtype": "F32",
        "parts": {part.name: BLOCK for part in parts_of(CONFIG)},
        "tokenizer": BLOCK,
        "generation": GenerationDefaults(eos=(1, 2), temperature=0.6, top_p=0.95, top_k=20),
        "license": "Apache-2.0",
        "source": "test",
    }
    return Manifest(**(values | changes))


def test_a_manifest_round_trips_and_its_bytes_never_change() -> None:
    """Frozen vector: the payload id of a known manifest; floats are decimal strings."""
    from blyan.storage.tile import index_of

    raw = manifest().encode()
    assert parse_manifest(raw) == manifest()
    assert b'"rms_eps":"1e-06"' in raw
    assert index_of(raw).payload_id == "560845c18c66c67dee70ecea37b01cdf2a29768e34a175b4984aaf5cd953bb86"


def test_the_parts_are_those_that_the_architecture_needs() -> None:
    """A dense layer has no experts; each routed layer has all of them."""
    names = [part.name for part in parts_of(CONFIG)]
    assert names == ["embed", "layer.0", "layer.1", *(f"layer.1.expert.{n}" for n in range(3)), "head"]
    assert [part_position(name) for name in names[2:4]] == [(1, None), (1, 0)]
    with pytest.raises(UnsupportedModel):
        part_position("layer.01")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_other_parts_are_refused(change: str) -> None:
    """A model that lacks a block does not exist as a value."""
    parts = {part.name: BLOCK for part in parts_of(CONFIG)}
    parts = {k: v for k, v in parts.items() if k != "head"} if change == "missing" else parts | {"layer.9": BLOCK}
    with pytest.raises(UnsupportedModel, match="parts"):
        manifest(parts=parts)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "blyan/manifest/2"},
        {"more": 1},
        {"name": "../m"},
        {"version": "1.0"},
        {"dtype": "I8"},
        {"parts": []},
        {"parts": {"embed": {"payload": "xy", "bytes": 1}}},
        {"tokenizer": {"payload": "ab" * 32, "bytes": 0}},
        {"generation": {}},
        {"architecture": {}},
        {"license": "é"},
    ],
)
def test_malformed_manifests_are_refused(change: dict[str, Any]) -> None:
    """Each differs from a good one in one field."""
    value = canonical.decode_object(manifest().encode(), bytes_max=10_000)
    with pytest.raises(InvalidInput, match="expected"):
        parse_manifest(canonical.encode({**value, **change}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", 0),
        ("layers", True),
        ("layers", 1 << 40),
        ("kv_heads", 3),
        ("kv_heads", 0),
        ("head_dim", 5),
        ("experts_per_token", 4),
        ("moe_layers", (2,)),
        ("moe_layers", (1, 1)),
        ("experts", 4096),
        ("rms_eps", 0.0),
        ("rope_theta", float("nan")),
        ("family", "dense"),
    ],
)
def test_an_architecture_that_cannot_be_computed_is_no_value(field: str, value: Any) -> None:
    """The field and what was found are in the message."""
    big = dataclasses.replace(CONFIG, layers=100, moe_layers=tuple(range(100)))
    with pytest.raises(UnsupportedModel, match="expected"):
        dataclasses.replace(big if field == "experts" else CONFIG, **{field: value})


def test_parameters_are_counted_as_stored() -> None:
    """Tied embeddings once; active ones with two of three experts."""
    stored = sum(math.prod(shape) for part in parts_of(CONFIG) for shape in part.shapes.values())
    assert CONFIG.parameters == stored
    assert CONFIG.active_parameters == stored - CONFIG.expert_parameters


def test_what_a_manifest_may_leave_out_is_read_again_and_checked() -> None:
    """Generation fields that are carried, and the link of the licence; neither where there is none."""
    full = manifest(generation_extras='{"min_p":0.1,"pad_token_id":3}', license_link="https://example.org/L")
    assert parse_manifest(full.encode()) == full
    assert not {b"generation_extras", b"license_link"} & set(manifest().encode().split(b'"'))
    for found, changed in (
        (b'"https://example.org/L"', b'"two words"'),
        (b'"https://example.org/L"', b'""'),
        (b'"{\\"min_p\\":0.1,\\"pad_token_id\\":3}"', b'""'),
        (b'"{\\"min_p\\":0.1,\\"pad_token_id\\":3}"', b'"{}"'),
        (b'\\"min_p\\":0.1,', b'\\"min_p\\":0.1, '),
    ):
        raw = full.encode()
        assert found in raw
        with pytest.raises(InvalidInput):
            parse_manifest(raw.replace(found, changed))
