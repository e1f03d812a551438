"""The joint checkpoint: one signed promise about all three chains, their state and the books. Its rename is the commit.

Canonical JSON with a signature of kind `joint` over the bytes without `sig`; see docs/spec/joint.md. Whether its author
may sign is asked by `chain/chains`, which knows the sequencer that the chains themselves name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from blyan.chain.entries import ChainName, chain_names
from blyan.chain.merkle import empty_root
from blyan.primitives import canonical, limits
from blyan.primitives.errors import IntegrityFault, InvalidInput
from blyan.primitives.ids import Digest, PayloadId, PublicKey, parse_hex64, payload_id, public_key
from blyan.primitives.keys import Key, verify

Sizes: TypeAlias = Mapping[ChainName, int]

_network: Final = re.compile(r"[a-z0-9-]{1,64}")
_signature: Final = re.compile(r"[0-9a-f]{128}")
_fields: Final = frozenset(
    {"v", "network", "epoch", "height", "heads", "state", "ledger_root", "anchor", "time", "author", "sig"}
)


@dataclass(frozen=True, slots=True)
class Head:
    """How far one chain goes: `root` is the RFC 6962 tree hash over its first `size` entries."""

    size: int
    root: Digest


@dataclass(frozen=True, slots=True)
class StateRoot:
    """The snapshot of the state after the first `sizes` entries of each chain; its payload id is the state root."""

    payload: PayloadId
    length: int  # bytes
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class JointCheckpoint:
    """What one commit promises. `signature` is empty until `signed`."""

    network: str
    epoch: int
    height: int  # commits before this one
    heads: Mapping[ChainName, Head]
    state: StateRoot | None  # None: no snapshot was taken yet; it may be of an earlier height
    time: int  # seconds since the Unix epoch, never below that of any entry
    author: PublicKey
    ledger_root: Head | None = None  # of the sealed books (ledger/seal); None where nothing was sealed yet
    anchor: None = None  # comes with anchoring
    signature: bytes = b""

    @property
    def sizes(self) -> dict[ChainName, int]:
        """Entries of each chain."""
        return {name: head.size for name, head in self.heads.items()}

    def signed(self, key: Key) -> JointCheckpoint:
        """This checkpoint with `key`'s signature; the key must be the author's."""
        assert key.public == self.author, "an author signs for itself"
        return replace(self, signature=key.sign("joint", canonical.encode(self._unsigned())))

    def encode(self) -> bytes:
        """The bytes of the file."""
        assert self.signature, "sign before encoding"
        return canonical.encode({**self._unsigned(), "sig": self.signature.hex()})

    def _unsigned(self) -> dict[str, canonical.Canonical]:
        state: canonical.Canonical = None
        if self.state is not None:
            sizes = {str(name): size for name, size in self.state.sizes.items()}
            state = {"payload": str(self.state.payload), "bytes": self.state.length, "sizes": sizes}
        return {
            "v": 1,
            "network": self.network,
            "epoch": self.epoch,
            "height": self.height,
            "heads": {name: _head_value(head) for name, head in self.heads.items()},
            "state": state,
            "ledger_root": None if self.ledger_root is None else _head_value(self.ledger_root),
            "anchor": self.anchor,
            "time": self.time,
            "author": self.author,
        }


def empty_joint(network: str, author: PublicKey, time: int) -> JointCheckpoint:
    """The promise of nothing with which a network begins."""
    return JointCheckpoint(network, 0, 0, dict.fromkeys(chain_names, Head(0, empty_root)), None, time, author)


def parse_joint(raw: bytes, path: Path) -> JointCheckpoint:
    """Read a joint checkpoint and check its author's signature; `IntegrityFault` names `path`, where it was read."""
    try:
        value = cast("dict[str, Any]", canonical.decode_object(raw, bytes_max=limits.joint_bytes_max))
        joint = _parse(value)
        # the bytes are canonical, so those without `sig` are what was signed
        signed = canonical.encode({name: each for name, each in value.items() if name != "sig"})
        verify(joint.author, "joint", signed, joint.signature)
    except (InvalidInput, IntegrityFault) as reason:
        raise IntegrityFault(f"joint checkpoint {path}: {reason.message}", detail={"file": str(path)}) from None
    return joint


def _parse(value: dict[str, Any]) -> JointCheckpoint:
    if value.keys() != _fields:
        raise InvalidInput(f"expected fields {sorted(_fields)}, found {sorted(value)}")
    if type(value["v"]) is not int or value["v"] != 1:
        raise InvalidInput(f"v: expected 1, found {value['v']!r}")
    if not isinstance(value["network"], str) or not _network.fullmatch(value["network"]):
        raise InvalidInput(f"network: expected {_network.pattern}, found {value['network']!r}")
    if value["anchor"] is not None:
        raise InvalidInput("anchor: expected none in this version, found one")
    if not isinstance(value["sig"], str) or not _signature.fullmatch(value["sig"]):
        raise InvalidInput("sig: expected 128 hex digits")
    given = _by_chain(value["heads"], "heads")
    heads: dict[ChainName, Head] = {name: _parse_head(given[name]) for name in chain_names}
    state = None if value["state"] is None else _parse_state(value["state"])
    if state is not None and any(state.sizes[name] > heads[name].size for name in chain_names):
        raise InvalidInput(f"state: expected sizes within the heads, found {dict(state.sizes)}")
    return JointCheckpoint(
        network=value["network"],
        epoch=_count(value["epoch"], "epoch"),
        height=_count(value["height"], "height"),
        heads=heads,
        state=state,
        time=_count(value["time"], "time"),
        author=public_key(value["author"]),
        ledger_root=None if value["ledger_root"] is None else _parse_head(value["ledger_root"], "ledger_root"),
        signature=bytes.fromhex(value["sig"]),
    )


def _head_value(head: Head) -> dict[str, canonical.Canonical]:
    return {"size": head.size, "root": head.root.hex()}


def _parse_head(value: object, what: str = "head") -> Head:
    given = _object(value, {"size", "root"}, what)
    return Head(_size(given["size"]), Digest(bytes.fromhex(parse_hex64(given["root"], "root"))))


def _parse_state(value: object) -> StateRoot:
    given = _object(value, {"payload", "bytes", "sizes"}, "state")
    length = _count(given["bytes"], "bytes")
    if not 0 < length <= limits.payload_bytes_max:
        raise InvalidInput(f"state bytes: expected 1 to {limits.payload_bytes_max}, found {length}")
    sizes: dict[ChainName, int] = {name: _size(size) for name, size in _by_chain(given["sizes"], "sizes").items()}
    return StateRoot(payload_id(given["payload"]), length, sizes)


def _by_chain(value: object, what: str) -> dict[ChainName, Any]:
    given = _object(value, set(chain_names), what)
    return {name: given[name] for name in chain_names}


def _object(value: object, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != names:
        raise InvalidInput(f"{what}: expected fields {sorted(names)}")
    return cast("dict[str, Any]", value)


def _size(value: object) -> int:
    size = _count(value, "size")
    if size > limits.chain_size_max:
        raise InvalidInput(f"size: expected at most {limits.chain_size_max}, found {size}")
    return size


def _count(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise InvalidInput(f"{what}: expected a non-negative integer, found {value!r}")
    return value
