"""The header of a snapshot: read back as it was written, and refused by the name of the field that is not."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from blyan.chain import snapshot
from blyan.chain.entries import DatasetBody, Entry, ExpertBody, GenesisBody, ModelBody, PayloadReference
from blyan.chain.merkle import entry_id_of
from blyan.chain.parameters import Parameter
from blyan.chain.state import State
from blyan.primitives import canonical
from blyan.primitives.errors import IntegrityFault
from blyan.primitives.ids import EntryId, PayloadId
from blyan.primitives.keys import Key

KEY = Key.from_seed(bytes(range(32)))
BLOCK = PayloadReference(PayloadId("cd" * 32), 4096, "application/vnd.blyan.tensorblock")
MAGIC = b"blyan snapshot 1\n"


def state() -> State:
    """Two models, two datasets, three experts."""
    made = State()
    parents: tuple[EntryId, ...] = ()
    bodies = [GenesisBody(1), *(ExpertBody("m", 0, number) for number in range(3))]
    bodies += [ModelBody(name, "1.0.0", "f", 3, "ab" * 32) for name in ("b", "a")]
    bodies += [DatasetBody(name, "CC0-1.0", 5) for name in ("e", "d")]
    for number, body in enumerate(bodies):
        payload = None if isinstance(body, GenesisBody) else BLOCK
        entry = Entry(f"local-{KEY.public[:16]}", KEY.public, number, parents, body, payload, 7).signed(KEY)
        parents = (entry_id_of(entry.encode()),)
        made.apply(entry, parents[0])
    return made


RAW = snapshot.encode(state())
BEGIN = len(MAGIC) + 4
END = BEGIN + int.from_bytes(RAW[len(MAGIC) : BEGIN], "little")
HEADER: dict[str, Any] = dict(canonical.decode_object(RAW[BEGIN:END], bytes_max=1 << 20))


def with_header(header: dict[str, Any]) -> bytes:
    raw = canonical.encode(header)
    return MAGIC + len(raw).to_bytes(4, "little") + raw + RAW[END:]


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The header with another value at a path."""
    copy: Any = canonical.decode_object(RAW[BEGIN:END], bytes_max=1 << 20)
    at: Any = copy
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return copy


def test_what_was_written_is_read() -> None:
    """And written again, it is the same bytes."""
    assert snapshot.encode(snapshot.load(RAW)) == RAW == with_header(HEADER)
    assert snapshot.encode(snapshot.load(snapshot.encode(State()))) == snapshot.encode(State())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a field more": ({**HEADER, "more": 1}, "header"),
    "a field less": ({name: each for name, each in HEADER.items() if name != "former"}, "header"),
    "network of an object": ({**HEADER, "network": {"a": 1}}, "network"),
    "network of a number": ({**HEADER, "network": 5}, "network"),
    "network of capitals": ({**HEADER, "network": "LOCAL"}, "network"),
    "network and no sequencer": ({**HEADER, "sequencer": None}, "sequencer"),
    "sequencer that is no key": ({**HEADER, "sequencer": "ab"}, "sequencer"),
    "former of an object": ({**HEADER, "former": {"x": 1}}, "former"),
    "former of an empty object": ({**HEADER, "former": {}}, "former"),
    "former that is no key": ({**HEADER, "former": [5]}, "former"),
    "sizes and one more": (changed("sizes", "x", to=1), "sizes"),
    "sizes of a list": ({**HEADER, "sizes": []}, "sizes"),
    "sizes that are true": (changed("sizes", "meta", to=True), "sizes"),
    "sizes beyond a chain": (changed("sizes", "meta", to=1 << 52), "sizes"),
    "nonces of an object": ({**HEADER, "nonces": {}}, "nonces"),
    "nonces of two": ({**HEADER, "nonces": [["meta", KEY.public]]}, "nonces"),
    "nonces of another chain": (changed("nonces", 0, 0, to="other"), "nonces"),
    "nonces of text": (changed("nonces", 0, 2, to="1"), "nonces"),
    "nonces in another order": ({**HEADER, "nonces": HEADER["nonces"][::-1]}, "nonces"),
    "nonces twice": ({**HEADER, "nonces": HEADER["nonces"] + HEADER["nonces"][-1:]}, "nonces"),
    "models of an object": ({**HEADER, "models": {}}, "models"),
    "models of text": ({**HEADER, "models": "ab"}, "models"),
    "a model that is a list": ({**HEADER, "models": [[]]}, "models"),
    "a model with a number for a name": (changed("models", 0, "name", to=5), "name"),
    "a model with a list for a name": (changed("models", 0, "name", to=[1]), "name"),
    "a model with another version": (changed("models", 0, "version", to="1"), "version"),
    "a model with a negative time": (changed("models", 0, "time", to=-1), "time"),
    "a model with text for a size": (changed("models", 0, "parameter_size", to="3"), "parameter_size"),
    "a model with a short root": (changed("models", 0, "parameter_root", to="ab"), "parameter_root"),
    "a model with a short manifest": (changed("models", 0, "manifest", to="ab"), "manifest"),
    "a model with a field more": (changed("models", 0, "x", to=1), "models"),
    "models in another order": ({**HEADER, "models": HEADER["models"][::-1]}, "models"),
    "datasets of an object": ({**HEADER, "datasets": {}}, "datasets"),
    "a dataset of one field": ({**HEADER, "datasets": [{"name": "d"}]}, "datasets"),
    "a dataset with another license": (changed("datasets", 0, "license", to="a b"), "license"),
    "datasets in another order": ({**HEADER, "datasets": HEADER["datasets"][::-1]}, "datasets"),
    "sections of nothing": ({**HEADER, "sections": None}, "sections"),
    "sections of an object": ({**HEADER, "sections": {}}, "sections"),
    "sections of numbers": ({**HEADER, "sections": [[1, 2]]}, "sections"),
    "sections of one": ({**HEADER, "sections": [["positions"]]}, "sections"),
    "sections below nothing": (changed("sections", 0, 1, to=-1), "sections"),
    "sections of another name": (changed("sections", 0, 0, to="others"), "sections"),
    "sections twice": ({**HEADER, "sections": [*HEADER["sections"], ["positions", 0]]}, "sections"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_the_format_does_not_know_is_refused_by_its_field(name: str) -> None:
    """Nothing is turned into what it is not, and nothing is passed over."""
    header, field = REFUSED[name]
    with pytest.raises(IntegrityFault, match=rf"snapshot: .*\b{field}\b.*expected .*found"):
        snapshot.load(with_header(header))


def test_what_was_retired_is_kept_and_says_nothing_where_there_is_none() -> None:
    """So that states of before have the bytes that they had."""
    assert "retired" not in HEADER
    made = state()
    made.retired = {"b.1": "1.0.0", "a": "2.0.0"}
    raw = snapshot.encode(made)
    assert snapshot.load(raw).retired == made.retired
    assert snapshot.encode(snapshot.load(raw)) == raw
    for wrong in ([], {}, None, [["a"]], [["a", "1"]], [["../a", "1.0.0"]], [["b", "1.0.0"], ["a", "1.0.0"]]):
        with pytest.raises(IntegrityFault, match="retired"):
            snapshot.load(with_header({**HEADER, "retired": wrong}))


def test_sections_in_another_order_are_refused() -> None:
    """With their bytes moved along."""
    lengths = dict(HEADER["sections"])
    sections, at = dict[str, bytes](), END
    for section, length in lengths.items():
        sections[section], at = RAW[at : at + length], at + length
    order = sorted(sections, reverse=True)
    raw = canonical.encode({**HEADER, "sections": [[section, lengths[section]] for section in order]})
    body = b"".join(sections[section] for section in order)
    with pytest.raises(IntegrityFault, match="sections"):
        snapshot.load(MAGIC + len(raw).to_bytes(4, "little") + raw + body)


ODD: list[Any] = [None, True, -1, 0, 1 << 50, "", "x", "é", [], [[]], {}, {"x": 1}, ["x", 1], "ab" * 32]


def places(value: Any, then: Callable[[Any], Any]) -> list[Any]:
    """Every header in which one value somewhere is another."""
    made = [then(odd) for odd in ODD]
    if isinstance(value, dict):
        for name, inner in value.items():
            made += places(inner, lambda each, name=name: then({**value, name: each}))
    if isinstance(value, list):
        for number, inner in enumerate(value):
            made += places(inner, lambda each, number=number: then([*value[:number], each, *value[number + 1 :]]))
    return made


def test_any_odd_value_anywhere_is_refused_or_means_what_it_says() -> None:
    """What is read is written again as the same bytes; nothing but an `IntegrityFault` comes out."""
    read = 0
    made = [header for header in places(HEADER, lambda each: each) if isinstance(header, dict)]
    for header in random.Random(1).sample(made, min(len(made), 1_500)):
        raw = with_header(header)
        with contextlib.suppress(IntegrityFault):
            assert snapshot.encode(snapshot.load(raw)) == raw
            read += 1
    assert 0 < read < len(made)


def test_parameters_are_kept_and_say_nothing_where_there_are_none() -> None:
    """The newest of each, in order and each once."""
    assert "parameters" not in HEADER
    made = state()
    for subject in ("b.1", "a"):
        made.parameters["price", subject] = Parameter("price", subject, "USD 1 2", EntryId("ab" * 32), 7)
    raw = snapshot.encode(made)
    assert snapshot.load(raw).parameters == made.parameters
    assert snapshot.encode(snapshot.load(raw)) == raw
    good = {"name": "price", "subject": "a", "value": "USD 1 2", "entry": "ab" * 32, "time": 7}
    assert snapshot.load(with_header({**HEADER, "parameters": [good]})).parameters
    missing = {name: value for name, value in good.items() if name != "time"}
    for wrong in ([], {}, None, [[]], [good, good], [good | {"time": -1}], [missing], [good | {"subject": "../a"}]):
        with pytest.raises(IntegrityFault, match="parameters"):
            snapshot.load(with_header({**HEADER, "parameters": wrong}))
