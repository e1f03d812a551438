"""What a model says where a request says nothing: in its manifest, and for a request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blyan.model.manifest import Manifest, parse_manifest
from blyan.model.request_defaults import RequestDefaults, Said, nothing_said
from blyan.primitives import canonical
from blyan.primitives.errors import InvalidInput

VECTOR = Path(__file__).parent.parent / "vectors" / "manifest.json"


def manifest() -> Manifest:
    return parse_manifest(json.loads(VECTOR.read_text())["valid"][0]["bytes"].encode())


FULL = RequestDefaults(
    system="Be brief. 간단히.",
    messages=(Said("user", "1+1?"), Said("assistant", "2")),
    stop=("<end>", "\nUser:"),
    seed=0,
    tokens_max=0,
    context_max=64,
    min_p=0.05,
    frequency_penalty=-0.5,
    presence_penalty=0.5,
    repetition_penalty=1.1,
    template="{{ .Prompt }}",
    license=("MIT", "text"),
    parent="base 1.0.0",
)


def test_they_stand_in_the_manifest_and_one_that_says_nothing_is_the_manifest_of_before() -> None:
    """Read back field by field; a zero that was said is not the same as nothing."""
    assert b"defaults" not in manifest().encode()
    said = replace(manifest(), defaults=FULL)
    assert parse_manifest(said.encode()) == said
    assert parse_manifest(said.encode()).encode() == said.encode()
    seeded = replace(manifest(), defaults=RequestDefaults(seed=0))
    assert parse_manifest(seeded.encode()).defaults.seed == 0


@pytest.mark.parametrize(
    "change",
    [
        {},
        None,
        [],
        {"system": ""},
        {"seed": None},
        {"seed": True},
        {"seed": "1"},
        {"stop": ["x", 1]},
        {"stop": [""]},
        {"min_p": "2.0"},
        {"tokens_max": -1},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [["user", "x"]]},
        {"more": 1},
        {"license": "MIT"},
        {"system": "x" * ((1 << 20) + 1)},
    ],
)
def test_malformed_ones_are_refused(change: Any) -> None:
    """Also those that say a default, for one record has one encoding."""
    value = canonical.decode_object(manifest().encode(), bytes_max=100_000)
    with pytest.raises(InvalidInput, match="expected"):
        parse_manifest(canonical.encode({**value, "defaults": change}))


USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "mine"}
BROUGHT = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


def test_a_system_message_of_the_request_goes_before_the_models_and_stays_first() -> None:
    """Then what the model brings, then the request; what goes on from tokens has it already."""
    ours = {"role": "system", "content": FULL.system}
    assert FULL.conversation([USER]) == [ours, *BROUGHT, USER]
    assert FULL.conversation([SYSTEM, USER]) == [SYSTEM, *BROUGHT, USER]
    assert FULL.conversation([USER], continued=True) == [ours, USER]
    assert nothing_said.conversation([USER, SYSTEM]) == [USER, SYSTEM]


def test_lengths_are_the_requests_then_the_models_and_never_more_than_there_is_room() -> None:
    """What only the request says is left for the context check to refuse."""
    assert nothing_said.tokens_limit(None, 10, 100) is None
    assert nothing_said.tokens_limit(500, 10, 100) == 500
    assert RequestDefaults(tokens_max=20).tokens_limit(None, 10, 100) == 20
    assert RequestDefaults(tokens_max=20).tokens_limit(None, 95, 100) == 5
    assert RequestDefaults(tokens_max=20).tokens_limit(30, 10, 100) == 30
    assert RequestDefaults(context_max=50).tokens_limit(None, 10, 100) == 40
    assert RequestDefaults(context_max=50).tokens_limit(30, 45, 100) == 5
    assert RequestDefaults(context_max=50).tokens_limit(30, 60, 100) == 0
    assert RequestDefaults(context_max=500).tokens_limit(None, 10, 100) == 90
