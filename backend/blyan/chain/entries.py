"""Typed entries: what one signed line of a chain says.

`parse_entry` turns bytes into a value that is well-formed (shape, types, limits) and says nothing of whether it may
follow; that is `validity`. It reads a good entry by one regular expression of its type's exact spelling
(`_read_template`) and everything else plainly, which then says what is wrong. Entries are canonical JSON of at most
32 KiB; the id is the RFC 6962 leaf hash of the bytes. See docs/spec/chain-entry.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias, cast

from blyan.chain.bodies import (
    Body,
    DatasetBody,
    ExpertBody,
    GenesisBody,
    ModelBody,
    ParameterBody,
    RetirementBody,
    RotationBody,
    TokenizerBody,
    TrunkBody,
)
from blyan.chain.merkle import entry_id_of
from blyan.primitives import canonical, limits
from blyan.primitives.errors import InvalidInput, MalformedEntry
from blyan.primitives.ids import EntryId, PayloadId, PublicKey, entry_id, payload_id, public_key
from blyan.primitives.keys import Key, verify
from blyan.primitives.model_name import model_name_pattern

ChainName: TypeAlias = Literal["meta", "parameter", "dataset"]
chain_names: Final[tuple[ChainName, ...]] = ("meta", "parameter", "dataset")

# text of an entry is spelled in characters that JSON writes as they are: the templates below rest on that
name_pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
version_pattern = re.compile(r"(?:0|[1-9][0-9]{0,5})(?:\.(?:0|[1-9][0-9]{0,5})){2}")
network_pattern = re.compile(r"[a-z0-9-]{1,64}")
_media_pattern = re.compile(r"[a-z0-9./+-]{1,128}")
license_pattern = re.compile(r"[A-Za-z0-9.+-]{1,64}")
model_license_pattern = re.compile(r"[A-Za-z0-9.+() -]{1,128}")  # an SPDX expression
source_pattern = re.compile(r"[ !#-\[\]-~]{1,256}")
parameter_name_pattern = re.compile(r"[a-z][a-z0-9_]{0,63}")
_signature_pattern = re.compile(r"[0-9a-f]{128}")
_names: Final = frozenset({"v", "network", "chain", "type", "author", "nonce", "parents", "body", "time", "sig"})
_names_with_payload: Final = _names | {"payload"}


# type of entry → its chain, its body, whether it names a payload
_types: Final[Mapping[str, tuple[ChainName, type[Body], bool]]] = {
    "genesis": ("meta", GenesisBody, False),
    "rotation": ("meta", RotationBody, False),
    "model": ("meta", ModelBody, True),
    "retirement": ("meta", RetirementBody, False),
    "parameter": ("meta", ParameterBody, False),
    "trunk": ("parameter", TrunkBody, True),
    "expert": ("parameter", ExpertBody, True),
    "tokenizer": ("parameter", TokenizerBody, True),
    "dataset": ("dataset", DatasetBody, True),
}
# types that a later version gives a meaning; until then an entry that says one is refused like any unknown
reserved: Final = frozenset(
    "migration proposal vote validator hidden_set adapter delta snapshot recipe round podl verdict report "
    "ballot tier receipts".split()
)
_type_of_body: Final[Mapping[type[Body], str]] = {body: name for name, (_, body, _) in _types.items()}
_chain_of_body: Final[Mapping[type[Body], ChainName]] = {body: chain for chain, body, _ in _types.values()}


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
        return _chain_of_body[type(self.body)]

    @property
    def type(self) -> str:
        """The name of the body's type, such as `expert`."""
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
            "body": _body_value(self.body),
            "time": self.time,
        }
        if self.payload is not None:
            value["payload"] = {
                "id": self.payload.payload,
                "bytes": self.payload.length,
                "media": self.payload.media,
            }
        return value


def _body_value(body: Body) -> dict[str, canonical.Canonical]:
    """The fields of a body; one that may be left out is where it says nothing, so that one body has one spelling."""
    return {each.name: value for each in fields(body) if (value := getattr(body, each.name)) != each.default}


def parse_entry(raw: bytes) -> Entry:
    """Parse a signed entry; `MalformedEntry` says what was expected and found. The signature is not checked here."""
    return _read_template(raw) or parse_plainly(raw)


def parse_plainly(raw: bytes) -> Entry:
    """What `parse_entry` does, value by value."""
    try:
        return _parse(canonical.decode_object(raw, bytes_max=limits.entry_bytes_max))
    except MalformedEntry:
        raise
    except InvalidInput as reason:
        raise MalformedEntry(f"entry: {reason.message}") from None


def signed_parts(raw: bytes) -> tuple[PublicKey, bytes, bytes]:
    """Author, signed bytes and signature of an entry that `parse_entry` accepted, cut out of its own bytes.

    Names stand in rising order: `author` comes first, and after `sig` no value holds a text that its author chose.
    """
    at = raw.rindex(b',"sig":"')
    signature = bytes.fromhex(raw[at + 8 : at + 136].decode())
    return PublicKey(raw[11:75].decode()), raw[:at] + raw[at + 137 :], signature


def _parse(given: Mapping[str, Any]) -> Entry:
    kind = _types.get(given["type"]) if isinstance(given.get("type"), str) else None
    if kind is None:
        raise MalformedEntry(f"entry type: expected one of {sorted(_types)}, found {str(given.get('type'))[:80]!r}")
    chain, body_type, has_payload = kind
    if frozenset(given) != (_names_with_payload if has_payload else _names):
        expected = sorted(_names_with_payload if has_payload else _names)
        raise MalformedEntry(f"entry: expected fields {expected}, found {sorted(given)}")
    if type(given["v"]) is not int or given["v"] != 1:
        raise MalformedEntry(f"entry v: expected 1, found {given['v']!r}")
    if given["chain"] != chain:
        raise MalformedEntry(f"entry chain: expected {chain}, found {str(given['chain'])[:80]!r}")
    parents = given["parents"]
    if not isinstance(parents, list) or len(cast("list[Any]", parents)) > limits.entry_parents_max:
        raise MalformedEntry(f"entry parents: expected a list of at most {limits.entry_parents_max}")
    return Entry(
        network=_text(given["network"], network_pattern, "network"),
        author=public_key(given["author"]),
        nonce=_count(given["nonce"], "nonce"),
        parents=tuple(entry_id(parent) for parent in cast("list[Any]", parents)),
        body=_parse_body(body_type, given["body"]),
        payload=_parse_payload(given["payload"]) if has_payload else None,
        time=_count(given["time"], "time"),
        signature=bytes.fromhex(_text(given["sig"], _signature_pattern, "sig")),
    )


def _parse_body(body_type: type[Body], value: object) -> Body:
    readers, needed = _body_readers[body_type], _needed[body_type]
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if not needed <= given.keys() <= readers.keys() or not isinstance(value, dict):
        raise MalformedEntry(f"entry body: expected fields {sorted(needed)}")
    return body_type(**{name: readers[name](each, name) for name, each in given.items()})


def _parse_payload(value: object) -> PayloadReference:
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != {"id", "bytes", "media"}:
        raise MalformedEntry("entry payload: expected fields ['bytes', 'id', 'media']")
    given = cast("dict[str, Any]", value)
    length = _count(given["bytes"], "payload bytes")
    if not 0 < length <= limits.payload_bytes_max:
        raise MalformedEntry(f"entry payload bytes: expected 1 to {limits.payload_bytes_max}, found {length}")
    return PayloadReference(payload_id(given["id"]), length, _text(given["media"], _media_pattern, "media"))


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= limits.canonical_integer_max:
        raise MalformedEntry(f"entry {what}: expected an integer from 0 to 2^53-1, found {str(value)[:40]}")
    return value


def _text(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise MalformedEntry(f"entry {what}: expected {pattern.pattern}, found {str(value)[:80]!r}")
    return value


_Reader: TypeAlias = Callable[[object, str], Any]
_patterns: Final[Mapping[str, re.Pattern[str]]] = {
    "version": version_pattern,
    "proof": _signature_pattern,
    "license": license_pattern,
    "model license": model_license_pattern,
    "model name": model_name_pattern,
    "retirement name": model_name_pattern,
    "model": model_name_pattern,
    "parameter name": parameter_name_pattern,
    "parameter subject": model_name_pattern,
    "parameter value": source_pattern,
    "source": source_pattern,
}
_parsers: Final[Mapping[str, Callable[[object], str]]] = {"parameter_root": entry_id, "key": public_key}


def _pattern_of(body_type: type[Body], name: str) -> re.Pattern[str]:
    of_this_type = _patterns.get(f"{_type_of_body[body_type]} {name}")
    return of_this_type or _patterns.get(name, name_pattern)


def _reader_of(body_type: type[Body], name: str, annotation: str) -> _Reader:
    if annotation == "int":
        return _count
    if name in _parsers:
        parse = _parsers[name]
        return lambda value, _what: parse(value)
    pattern = _pattern_of(body_type, name)
    return lambda value, what: _text(value, pattern, what)


_body_readers: Final[Mapping[type[Body], Mapping[str, _Reader]]] = {
    body: {field.name: _reader_of(body, field.name, str(field.type)) for field in fields(body)}
    for _, body, _ in _types.values()
}
_needed: Final[Mapping[type[Body], frozenset[str]]] = {
    body: frozenset(field.name for field in fields(body) if field.default is MISSING) for _, body, _ in _types.values()
}


@dataclass(frozen=True, slots=True)
class _Template:
    """How one type of entry is spelled. Groups: author, the body's fields by name, network, nonce, parents, …"""

    pattern: re.Pattern[str]
    body_type: type[Body]
    body: tuple[tuple[int, bool], ...]  # of each field as it was declared: its group, whether it is a count
    has_payload: bool


def _template_of(kind: str) -> _Template:
    chain, body_type, has_payload = _types[kind]
    counts = {field.name: field.type == "int" for field in fields(body_type)}
    hexadecimal, count = '"([0-9a-f]{64})"', "(0|[1-9][0-9]{0,14})"  # below the limit; above, plainly

    def spelled(name: str) -> str:
        if counts[name]:
            return count
        return hexadecimal if name in _parsers else f'"({_pattern_of(body_type, name).pattern})"'

    names = sorted(counts)
    assert names[0] in _needed[body_type], "what may be left out brings its comma before it"
    pieces = [f'{"," if name != names[0] else ""}"{name}":{spelled(name)}' for name in names]
    body = "".join(
        piece if name in _needed[body_type] else f"(?:{piece})?" for name, piece in zip(names, pieces, strict=True)
    )
    parents = f'((?:"[0-9a-f]{{64}}"(?:,"[0-9a-f]{{64}}"){{0,{limits.entry_parents_max - 1}}})?)'
    payload = f',"payload":\\{{"bytes":([1-9][0-9]{{0,9}}),"id":{hexadecimal},"media":"({_media_pattern.pattern})"\\}}'
    pattern = (
        f'\\{{"author":{hexadecimal},"body":\\{{{body}\\}},"chain":"{chain}","network":"({network_pattern.pattern})",'
        f'"nonce":{count},"parents":\\[{parents}\\]{payload if has_payload else ""},'
        f'"sig":"({_signature_pattern.pattern})","time":{count},"type":"{kind}","v":1\\}}'
    )
    groups = tuple((1 + names.index(name), is_count) for name, is_count in counts.items())
    return _Template(re.compile(pattern), body_type, groups, has_payload)


assert limits.canonical_integer_max >= 10**15, "what a template reads as a count is within the limit"
assert limits.payload_bytes_max >= 10**10, "and so is the length of a payload"
_templates: Final[Mapping[bytes, _Template]] = {kind.encode(): _template_of(kind) for kind in _types}


def _read_template(raw: bytes) -> Entry | None:
    """The entry if it is spelled as the template of its type; None where the plain parser has the word."""
    template = _templates.get(raw[raw.rfind(b'"', 0, -8) + 1 : -8])  # …"type":"expert","v":1}
    if template is None or len(raw) > limits.entry_bytes_max or not raw.isascii():
        return None
    match = template.pattern.fullmatch(raw.decode("ascii"))
    if match is None:
        return None
    found = match.groups()
    fields_of_body: list[Any] = [
        int(found[group]) if is_count else found[group] or "" for group, is_count in template.body
    ]
    network, nonce, parents = found[len(fields_of_body) + 1 : len(fields_of_body) + 4]
    payload = PayloadReference(PayloadId(found[-4]), int(found[-5]), found[-3]) if template.has_payload else None
    return Entry(
        network=network,
        author=PublicKey(found[0]),
        nonce=int(nonce),
        parents=tuple(cast("list[EntryId]", parents[1:-1].split('","'))) if parents else (),
        body=template.body_type(*fields_of_body),
        payload=payload,
        time=int(found[-1]),
        signature=bytes.fromhex(found[-2]),
    )
