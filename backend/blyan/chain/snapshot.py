"""The state as bytes: the same set of entries gives the same bytes, whatever order between the chains they came in.

`blyan snapshot 1` and a line feed, u32 LE length of a canonical JSON header, the header, and then the sections that it
names, one after the other: sorted tables of fixed-width rows and the hashes of perfect subtrees. As a payload it has a
payload id, which is the state root of a joint checkpoint. Loading reads the header and leaves the tables where they
are. See docs/spec/snapshot.md.
"""

from __future__ import annotations

from dataclasses import asdict
from mmap import mmap
from typing import Any, Final, cast

from blyan.chain.entries import ChainName, chain_names
from blyan.chain.merkle import Subtrees
from blyan.chain.state import DatasetVersion, ModelVersion, State, payload_bytes, position_bytes
from blyan.chain.tables import Lookup
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import PublicKey, entry_id, payload_id, public_key

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
    said: dict[str, Any] = {
        "network": state.network,
        "sequencer": state.sequencer,
        "former": list(state.former),
        "sizes": dict(state.sizes),
        "nonces": sorted([chain, author, nonce] for (chain, author), nonce in state.nonces.items()),
        "models": [asdict(each) for _, versions in sorted(state.models.items()) for each in versions],
        "datasets": [asdict(each) for _, versions in sorted(state.datasets.items()) for each in versions],
        "sections": [[name, len(raw)] for name, raw in sections.items()],
    }
    header = canonical.encode(said)
    length = len(header).to_bytes(_length_bytes, "little")
    return b"".join([_magic, length, header, *sections.values()])


def load(buffer: bytes | mmap | memoryview) -> State:
    """The state that `encode` wrote, from bytes whose payload id was checked; `IntegrityFault` if they are no snapshot.

    The state keeps a view of the buffer.
    """
    view = memoryview(buffer)
    try:
        return _load(view)
    except (InvalidInput, TypeError, KeyError, ValueError) as reason:
        text = reason.message if isinstance(reason, InvalidInput) else repr(reason)
        raise IntegrityFault(f"snapshot: expected the state of three chains, found {text}") from None


def _load(view: memoryview) -> State:
    begin = len(_magic) + _length_bytes
    if bytes(view[: len(_magic)]) != _magic or len(view) < begin:
        raise InvalidInput(f"no {_magic!r} at the beginning")
    end = begin + int.from_bytes(view[len(_magic) : begin], "little")
    if end > min(len(view), begin + limits.snapshot_header_bytes_max):
        raise InvalidInput(f"a header of {end - begin} bytes in {len(view)}")
    header = cast(
        "dict[str, Any]",
        canonical.decode_object(bytes(view[begin:end]), bytes_max=limits.snapshot_header_bytes_max),
    )
    if set(header) != _fields:
        raise InvalidInput(f"fields {sorted(header)}")
    sections = _sections(header["sections"], view[end:])
    sizes: dict[ChainName, int] = {name: _count(header["sizes"][name]) for name in chain_names}
    models = [_version(ModelVersion, each) for each in header["models"]]
    datasets = [_version(DatasetVersion, each) for each in header["datasets"]]
    state = State(
        network=None if header["network"] is None else str(header["network"]),
        sequencer=None if header["sequencer"] is None else public_key(header["sequencer"]),
        former=[public_key(each) for each in header["former"]],
        sizes=sizes,
        nonces={_author(chain, author): _count(nonce) for chain, author, nonce in header["nonces"]},
        parameter_subtrees=_subtrees(sections, sizes["parameter"]),
        positions=Lookup(position_bytes, sections["positions"]),
        blocks=Lookup(position_bytes, sections["blocks"]),
        newest=Lookup(payload_bytes, sections["newest"]),
    )
    for version in models:
        state.models.setdefault(version.name, []).append(version)
    for dataset in datasets:
        state.datasets.setdefault(dataset.name, []).append(dataset)
    if len(sections["positions"]) != sum(sizes.values()) * (32 + position_bytes):
        raise InvalidInput(f"{len(sections['positions'])} bytes of positions for {sum(sizes.values())} entries")
    return state


def _sections(named: list[list[Any]], view: memoryview) -> dict[str, memoryview]:
    sections: dict[str, memoryview] = {}
    at = 0
    for name, length in named:
        sections[str(name)] = view[at : at + _count(length)]
        at += length
    if at != len(view) or len(sections) != len(named):
        raise InvalidInput(f"sections of {at} bytes in all, {len(view)} there")
    return sections


def _subtrees(sections: dict[str, memoryview], size: int) -> Subtrees:
    levels: list[bytearray] = []
    for level in range(max(size.bit_length(), 1)):
        hashes = sections.pop(f"subtrees.{level:02d}", memoryview(b""))
        if len(hashes) != 32 * (size >> level):
            raise InvalidInput(f"{len(hashes)} bytes of subtrees of level {level} for {size} entries")
        levels.append(bytearray(hashes))
    empty = sections.pop(f"subtrees.{len(levels):02d}", None)  # a level that was begun and holds nothing yet
    if set(sections) != set(_tables) or (empty is not None and len(empty)):
        raise InvalidInput(f"sections {sorted(sections)}")
    return Subtrees([*levels, bytearray()] if empty is not None else levels)


def _version(kind: type[Any], value: dict[str, Any]) -> Any:
    for name, parse in (("manifest", payload_id), ("payload", payload_id), ("entry", entry_id)):
        if name in value:
            parse(value[name])
    return kind(**value)


def _author(chain: str, author: str) -> tuple[ChainName, PublicKey]:
    for name in chain_names:
        if name == chain:
            return name, public_key(author)
    raise InvalidInput(f"a chain {chain!r}")


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise InvalidInput(f"{value!r} where a count belongs")
    return value
