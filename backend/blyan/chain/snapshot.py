"""The state as bytes: the same set of entries gives the same bytes, whatever order between the chains they came in.

`blyan snapshot 1` and a line feed, u32 LE length of a canonical JSON header, the header, and then the sections that it
names, one after the other: sorted tables of fixed-width rows and the hashes of perfect subtrees. As a payload it has a
payload id, which is the state root of a joint checkpoint. Loading reads the header and leaves the tables where they
are. See docs/spec/snapshot.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from mmap import mmap
from typing import Any, Final, TypeAlias, cast

from blyan.chain.entries import (
    ChainName,
    chain_names,
    license_pattern,
    model_license_pattern,
    name_pattern,
    network_pattern,
    parameter_name_pattern,
    source_pattern,
    version_pattern,
)
from blyan.chain.merkle import Subtrees
from blyan.chain.parameters import Parameter
from blyan.chain.state import DatasetVersion, ModelVersion, State, payload_bytes, position_bytes
from blyan.chain.tables import Lookup
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import PublicKey, parse_hex64, public_key
from blyan.primitives.model_name import model_name_pattern

media: Final = "application/vnd.blyan.snapshot"
_magic: Final = b"blyan snapshot 1\n"
_length_bytes: Final = 4
_tables: Final = {"positions": position_bytes, "blocks": position_bytes, "newest": payload_bytes}
_fields: Final = {"network", "sequencer", "former", "sizes", "nonces", "models", "datasets", "sections"}


def encode(state: State) -> bytes:
    """The bytes of a state."""
    sections = {name: getattr(state, name).rows() for name in _tables}
    for level, hashes in enumerate(state.parameter_subtrees.levels):
        sections[f"subtrees.{level:02d}"] = bytes(hashes)
    header = canonical.encode(_said(state, [(name, len(raw)) for name, raw in sections.items()]))
    length = len(header).to_bytes(_length_bytes, "little")
    return b"".join([_magic, length, header, *sections.values()])


def _said(state: State, sections: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The header of a state."""
    # absent where there is nothing to say, so that states of before have the bytes that they had
    retired = {"retired": sorted([name, version] for name, version in state.retired.items())} if state.retired else {}
    parameters = {"parameters": [asdict(each) for _, each in sorted(state.parameters.items())]}
    return {
        **retired,
        **(parameters if state.parameters else {}),
        "network": state.network,
        "sequencer": state.sequencer,
        "former": list(state.former),
        "sizes": dict(state.sizes),
        "nonces": sorted([chain, author, nonce] for (chain, author), nonce in state.nonces.items()),
        "models": [_model_value(each) for _, versions in sorted(state.models.items()) for each in versions],
        "datasets": [asdict(each) for _, versions in sorted(state.datasets.items()) for each in versions],
        "sections": [[name, length] for name, length in sections],
    }


def _model_value(model: ModelVersion) -> dict[str, Any]:
    """Its fields; what its entry does not say is left out."""
    return {name: value for name, value in asdict(model).items() if value or name not in _unsaid}


def load(buffer: bytes | mmap | memoryview) -> State:
    """The state that `encode` wrote, from bytes whose payload id was checked; `IntegrityFault` if they are no snapshot.

    The state keeps a view of the buffer.
    """
    view = memoryview(buffer)
    try:
        return _load(view)
    except InvalidInput as reason:
        raise IntegrityFault(f"snapshot: {reason.message}") from None


def _load(view: memoryview) -> State:
    begin = len(_magic) + _length_bytes
    if bytes(view[: len(_magic)]) != _magic or len(view) < begin:
        raise InvalidInput(f"expected {_magic!r} at the beginning, found {bytes(view[: len(_magic)])!r}")
    end = begin + int.from_bytes(view[len(_magic) : begin], "little")
    if end > min(len(view), begin + limits.snapshot_header_bytes_max):
        raise InvalidInput(f"header: expected it within {len(view)} bytes, found {end - begin}")
    header = cast(
        "dict[str, Any]",
        canonical.decode_object(bytes(view[begin:end]), bytes_max=limits.snapshot_header_bytes_max),
    )
    _object(header, _fields | ({"retired", "parameters"} & header.keys()), "header")
    named = _named(header["sections"])
    sections = _sections(named, view[end:])
    sizes = _sizes(header["sizes"])
    state = State(
        network=None if header["network"] is None else _text(network_pattern)(header["network"], "network"),
        sequencer=None if header["sequencer"] is None else _key(header["sequencer"], "sequencer"),
        former=[_key(each, "former") for each in _list(header["former"], "former")],
        sizes=sizes,
        nonces=dict(_nonce(each) for each in _list(header["nonces"], "nonces")),
        parameter_subtrees=_subtrees(sections, sizes["parameter"]),
        positions=Lookup(position_bytes, sections["positions"]),
        blocks=Lookup(position_bytes, sections["blocks"]),
        newest=Lookup(payload_bytes, sections["newest"]),
    )
    if (state.network is None) != (state.sequencer is None):
        raise InvalidInput("sequencer: expected one where there is a network and none elsewhere, found the other")
    for each in _list(header["models"], "models"):
        model = ModelVersion(**_version(each, _model, "models", _unsaid))
        state.models.setdefault(model.name, []).append(model)
    state.retired = dict(_retirement(each) for each in _list(header.get("retired", []), "retired"))
    for each in _list(header.get("parameters", []), "parameters"):
        value = Parameter(**_version(each, _parameter, "parameters"))
        state.parameters[value.name, value.subject] = value
    for each in _list(header["datasets"], "datasets"):
        dataset = DatasetVersion(**_version(each, _dataset, "datasets"))
        state.datasets.setdefault(dataset.name, []).append(dataset)
    if len(sections["positions"]) != sum(sizes.values()) * (32 + position_bytes):
        raise InvalidInput(
            f"positions: expected those of {sum(sizes.values())} entries, found {len(sections['positions'])} bytes"
        )
    said = _said(state, named)
    for field in header:
        if header[field] != said.get(field):
            raise InvalidInput(f"{field}: expected them in their order and each once, found otherwise")
    return state


def _named(value: object) -> list[tuple[str, int]]:
    named: list[tuple[str, int]] = []
    for each in _list(value, "sections"):
        pair = _list(each, "sections")
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise InvalidInput(f"sections: expected pairs of name and bytes, found {_shown(pair)}")
        named.append((pair[0], _count(pair[1], "sections")))
    rest = [name for name, _ in named[len(_tables) :]]
    if [name for name, _ in named[: len(_tables)]] != list(_tables) or rest != sorted(set(rest)):
        raise InvalidInput(f"sections: expected {', '.join(_tables)} and then subtrees in order, found others")
    return named


def _sections(named: Sequence[tuple[str, int]], view: memoryview) -> dict[str, memoryview]:
    sections: dict[str, memoryview] = {}
    at = 0
    for name, length in named:
        sections[name] = view[at : at + length]
        at += length
    if at != len(view):
        raise InvalidInput(f"sections: expected {len(view)} bytes in all, found {at}")
    return sections


def _subtrees(sections: dict[str, memoryview], size: int) -> Subtrees:
    levels: list[bytearray] = []
    for level in range(max(size.bit_length(), 1)):
        hashes = sections.pop(f"subtrees.{level:02d}", memoryview(b""))
        if len(hashes) != 32 * (size >> level):
            raise InvalidInput(
                f"sections: expected {size >> level} subtrees of level {level}, found {len(hashes)} bytes of them"
            )
        levels.append(bytearray(hashes))
    empty = sections.pop(f"subtrees.{len(levels):02d}", None)  # a level that was begun and holds nothing yet
    if set(sections) != set(_tables) or (empty is not None and len(empty)):
        raise InvalidInput(f"sections: expected subtrees of {size} entries, found others")
    return Subtrees([*levels, bytearray()] if empty is not None else levels)


def _sizes(value: object) -> dict[ChainName, int]:
    given = _object(value, chain_names, "sizes")
    sizes: dict[ChainName, int] = {name: _count(given[name], "sizes") for name in chain_names}
    if max(sizes.values()) > limits.chain_size_max:
        raise InvalidInput(f"sizes: expected at most {limits.chain_size_max}, found {max(sizes.values())}")
    return sizes


def _nonce(value: object) -> tuple[tuple[ChainName, PublicKey], int]:
    given = _list(value, "nonces")
    if len(given) == 3:
        chain, author, nonce = given
        for name in chain_names:
            if name == chain:
                return (name, _key(author, "nonces")), _count(nonce, "nonces")
    raise InvalidInput(f"nonces: expected chain, author and nonce, found {_shown(given)}")


def _retirement(value: object) -> tuple[str, str]:
    given = _list(value, "retired")
    if len(given) != 2:
        raise InvalidInput(f"retired: expected name and version, found {_shown(given)}")
    return _text(model_name_pattern)(given[0], "retired"), _text(version_pattern)(given[1], "retired")


_Reader: TypeAlias = Callable[[object, str], Any]


def _version(
    value: object, readers: Mapping[str, _Reader], what: str, unsaid: frozenset[str] = frozenset()
) -> dict[str, Any]:
    there = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    given = _object(cast("object", value), readers.keys() - (unsaid - there.keys()), what)
    return {name: readers[name](each, f"{what} {name}") for name, each in given.items()}


def _text(pattern: re.Pattern[str]) -> _Reader:
    def read(value: object, what: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise InvalidInput(f"{what}: expected {pattern.pattern}, found {_shown(value)}")
        return value

    return read


def _key(value: object, what: str) -> PublicKey:
    return public_key(parse_hex64(value, what))


def _count(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise InvalidInput(f"{what}: expected a non-negative integer, found {_shown(value)}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{what}: expected a list, found {_shown(value)}")
    return cast("list[Any]", value)


def _object(value: object, names: Collection[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: expected fields {sorted(names)}, found {_shown(value)}")
    given = cast("dict[str, Any]", value)
    if set(given) != set(names):
        raise InvalidInput(f"{what}: expected fields {sorted(names)}, found {_shown(sorted(given))}")
    return given


def _shown(value: object) -> str:
    return repr(value)[:200]


_model: Final[Mapping[str, _Reader]] = {
    "name": _text(model_name_pattern),
    "version": _text(version_pattern),
    "family": _text(name_pattern),
    "manifest": parse_hex64,
    "entry": parse_hex64,
    "parameter_size": _count,
    "parameter_root": parse_hex64,
    "time": _count,
    "license": _text(model_license_pattern),
    "source": _text(source_pattern),
}
_unsaid: Final = frozenset({"license", "source"})  # what entries may leave out
_parameter: Final[Mapping[str, _Reader]] = {
    "name": _text(parameter_name_pattern),
    "subject": _text(model_name_pattern),
    "value": _text(source_pattern),
    "entry": parse_hex64,
    "time": _count,
}
_dataset: Final[Mapping[str, _Reader]] = {
    "name": _text(name_pattern),
    "license": _text(license_pattern),
    "records": _count,
    "payload": parse_hex64,
    "entry": parse_hex64,
    "time": _count,
}
