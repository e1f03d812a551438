"""Typed entries: what one signed line of a chain says.

`parse_entry` turns bytes into a value that is well-formed (shape, types, limits) and says nothing of whether it may
follow; that is `validity`. Entries are canonical JSON of at most 32 KiB; the id is the RFC 6962 leaf hash of the bytes.
See docs/spec/chain-entry.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias, cast

from blyan.chain.merkle import entry_id_of
from blyan.primitives import canonical, limits
from blyan.primitives.errors import InvalidInput, MalformedEntry
from blyan.primitives.ids import EntryId, PayloadId, PublicKey, entry_id, payload_id, public_key
from blyan.primitives.keys import Key, verify

ChainName: TypeAlias = Literal["meta", "parameter", "dataset"]
chain_names: Final[tuple[ChainName, ...]] = ("meta", "parameter", "dataset")

name_pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
version_pattern = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")
_network_pattern = re.compile(r"[a-z0-9-]{1,64}")
_media_pattern = re.compile(r"[a-z0-9./+-]{1,128}")


@dataclass(frozen=True, slots=True)
class GenesisBody:
    """The first entry of the meta chain: names the one key that may write until governance says more."""

    protocol: int


@dataclass(frozen=True, slots=True)
class ModelBody:
    """A model at one version; the payload is its manifest, the parameter chain to `parameter_size` holds its parts."""

    name: str
    version: str
    family: str
    parameter_size: int
    parameter_root: str


@dataclass(frozen=True, slots=True)
class TrunkBody:
    """Weights of a model that are not a routed expert: `embed`, `layer.N` or `head`."""

    model: str
    part: str


@dataclass(frozen=True, slots=True)
class ExpertBody:
    """Weights of one routed expert."""

    model: str
    layer: int
    expert: int


@dataclass(frozen=True, slots=True)
class TokenizerBody:
    """A tokenizer and its chat template."""

    model: str


Body: TypeAlias = GenesisBody | ModelBody | TrunkBody | ExpertBody | TokenizerBody

# type of entry → its chain, its body, whether it names a payload
_types: Final[Mapping[str, tuple[ChainName, type[Body], bool]]] = {
    "genesis": ("meta", GenesisBody, False),
    "model": ("meta", ModelBody, True),
    "trunk": ("parameter", TrunkBody, True),
    "expert": ("parameter", ExpertBody, True),
    "tokenizer": ("parameter", TokenizerBody, True),
}
_type_of_body: Final[Mapping[type[Body], str]] = {body: name for name, (_, body, _) in _types.items()}


@dataclass(frozen=True, slots=True)
class PayloadReference:
    """The blob an entry speaks of."""

    payload: PayloadId
    length: int  # bytes
    media: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One well-formed entry. `signature` is empty until `signed`."""

    network: str
    author: PublicKey
    nonce: int
    parents: tuple[EntryId, ...]
    body: Body
    payload: PayloadReference | None
    time: int  # seconds since the Unix epoch, as the author says
    signature: bytes = b""

    @property
    def chain(self) -> ChainName:
        """The chain this type of entry belongs to."""
        return _types[self.type][0]

    @property
    def type(self) -> str:
        """`genesis`, `model`, `trunk`, `expert` or `tokenizer`."""
        return _type_of_body[type(self.body)]

    @property
    def id(self) -> EntryId:
        """The RFC 6962 leaf hash of the signed bytes."""
        return entry_id_of(self.encode())

    def encode(self) -> bytes:
        """The canonical bytes with the signature: the log leaf."""
        assert self.signature, "sign before encoding"
        raw = canonical.encode({**self._unsigned(), "sig": self.signature.hex()})
        if len(raw) > limits.entry_bytes_max:
            raise MalformedEntry(f"entry: expected at most {limits.entry_bytes_max} bytes, found {len(raw)}")
        return raw

    def signed(self, key: Key) -> Entry:
        """This entry with `key`'s signature; the key must be the author's."""
        assert key.public == self.author, "an author signs for itself"
        return replace(self, signature=key.sign("entry", canonical.encode(self._unsigned())))

    def verify_signature(self) -> None:
        """Raise `IntegrityFault` unless the author signed exactly this."""
        verify(self.author, "entry", canonical.encode(self._unsigned()), self.signature)

    def _unsigned(self) -> dict[str, canonical.Canonical]:
        value: dict[str, canonical.Canonical] = {
            "v": 1,
            "network": self.network,
            "chain": self.chain,
            "type": self.type,
            "author": self.author,
            "nonce": self.nonce,
            "parents": list(self.parents),
            "body": asdict(self.body),
            "time": self.time,
        }
        if self.payload is not None:
            value["payload"] = {
                "id": self.payload.payload,
                "bytes": self.payload.length,
                "media": self.payload.media,
            }
        return value


def parse_entry(raw: bytes) -> Entry:
    """Parse a signed entry; `MalformedEntry` says what was expected and found. The signature is not checked here."""
    try:
        value = canonical.decode_object(raw, bytes_max=limits.entry_bytes_max)
        return _parse(value)
    except MalformedEntry:
        raise
    except InvalidInput as reason:
        raise MalformedEntry(f"entry: {reason.message}") from None


def _parse(value: dict[str, Any]) -> Entry:
    expected = {"v", "network", "chain", "type", "author", "nonce", "parents", "body", "time", "sig"}
    found = set(value) - {"payload"}
    if found != expected:
        raise MalformedEntry(f"entry: expected fields {sorted(expected)}, found {sorted(found)}")
    _want(value["v"] == 1 and type(value["v"]) is int, "v", value["v"], "1")
    kind = _types.get(value["type"]) if isinstance(value["type"], str) else None
    if kind is None:
        raise MalformedEntry(f"entry type: expected one of {sorted(_types)}, found {value['type']!r}")
    chain, body_type, has_payload = kind
    _want(value["chain"] == chain, "chain", value["chain"], chain)
    _want(has_payload == ("payload" in value), "payload", value.get("payload"), "one" if has_payload else "none")
    parents = value["parents"]
    if not isinstance(parents, list) or len(cast("list[Any]", parents)) > limits.entry_parents_max:
        raise MalformedEntry(f"entry parents: expected a list of at most {limits.entry_parents_max}")
    signature = value["sig"]
    _want(isinstance(signature, str) and re.fullmatch(r"[0-9a-f]{128}", signature), "sig", signature, "128 hex digits")
    return Entry(
        network=_text(value["network"], _network_pattern, "network"),
        author=public_key(value["author"]),
        nonce=_count(value["nonce"], "nonce"),
        parents=tuple(entry_id(parent) for parent in cast("list[Any]", parents)),
        body=_parse_body(body_type, value["body"]),
        payload=_parse_payload(value["payload"]) if has_payload else None,
        time=_count(value["time"], "time"),
        signature=bytes.fromhex(signature),
    )


def _parse_body(body_type: type[Body], value: object) -> Body:
    names = {field.name: field.type for field in fields(body_type)}
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != set(names):
        raise MalformedEntry(f"entry body: expected fields {sorted(names)}")
    parsed: dict[str, Any] = {}
    for name, found in cast("dict[str, Any]", value).items():
        if names[name] == "int":
            parsed[name] = _count(found, name)
        elif name == "version":
            parsed[name] = _text(found, version_pattern, name)
        elif name == "parameter_root":
            parsed[name] = entry_id(found)
        else:
            parsed[name] = _text(found, name_pattern, name)
    return body_type(**parsed)


def _parse_payload(value: object) -> PayloadReference:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {"id", "bytes", "media"}:
        raise MalformedEntry("entry payload: expected fields ['bytes', 'id', 'media']")
    given = cast("dict[str, Any]", value)
    length = _count(given["bytes"], "payload bytes")
    _want(0 < length <= limits.payload_bytes_max, "payload bytes", length, f"1 to {limits.payload_bytes_max}")
    return PayloadReference(payload_id(given["id"]), length, _text(given["media"], _media_pattern, "media"))


def _count(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise MalformedEntry(f"entry {what}: expected a non-negative integer, found {value!r}")
    return value


def _text(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise MalformedEntry(f"entry {what}: expected {pattern.pattern}, found {str(value)[:80]!r}")
    return value


def _want(holds: object, what: str, found: object, expected: str) -> None:
    if not holds:
        raise MalformedEntry(f"entry {what}: expected {expected}, found {str(found)[:80]!r}")
