"""What nodes say of themselves to each other: the signed summary, its holdings, and the join code (docs/spec/peer.md).

A summary is a claim. Nothing in it is believed beyond where its node can be asked: who measures is whoever calls.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import zstandard

from blyan.primitives import canonical, limits
from blyan.primitives.canonical import Canonical
from blyan.primitives.errors import InvalidInput, MalformedEncoding, MalformedMessage
from blyan.primitives.ids import PayloadId, PublicKey, parse_hex64, payload_id, public_key
from blyan.primitives.keys import Key, verify

version_min: Final = 1
version_max: Final = 1
_version: Final = 1  # of a summary's form: what may be added to it without harm to who does not know it adds none
roles_known: Final = ("gateway", "expert", "stage", "validator", "trainer")
secret_bytes: Final = 16
_boot: Final = re.compile(r"[0-9a-f]{32}")
_tag: Final = re.compile(r"[0-9a-f]{16}")
_label: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_role: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_relayed: Final = re.compile(r"relay:[0-9a-f]{64}")
_code: Final = re.compile(r"blyan-([a-z2-7]{29})")
_check_bytes: Final = 2
_fields: Final = {
    "v",
    "versions",
    "node",
    "boot",
    "started",
    "sequence",
    "certificate",
    "swarm",
    "peer_urls",
    "roles",
    "draining",
    "queue",
    "busy",
    "holdings",
    "sig",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node says it holds of one model."""

    trunk: bool  # all that is not a routed expert
    experts: bytes  # bit n % 8 of byte n // 8: expert n of the routed ones, by layer and then number
    layers: bytes = b""  # the same of layers of which the trunk's part is here, where not all of the trunk is

    def has(self, number: int) -> bool:
        """Whether it says so of the routed expert with that number."""
        byte = number >> 3
        return byte < len(self.experts) and bool(self.experts[byte] >> (number & 7) & 1)

    def has_layer(self, layer: int) -> bool:
        """Whether it says so of the trunk's part of a layer."""
        byte = layer >> 3
        return self.trunk or (byte < len(self.layers) and bool(self.layers[byte] >> (layer & 7) & 1))


@dataclass(frozen=True, slots=True)
class Summary:
    """One process of a node: who it is, where it answers, what it holds. A value that exists is within the limits."""

    node: PublicKey
    boot: str  # 32 hex digits: this process
    started: int  # Unix seconds, by its own clock
    sequence: int  # rises with each summary of the process
    certificate: str  # SHA-256 of the certificate that its peer port shows, 64 hex digits
    swarm: str  # 16 hex digits: which join code it was given, not the code
    peer_urls: tuple[str, ...] = ()  # wss://HOST:PORT, or relay:NODE through that node
    roles: tuple[str, ...] = ()
    draining: bool = False
    queue: int = 0  # expert messages that wait
    busy: int = 0  # of its compute thread's time, in basis points
    holdings: Mapping[PayloadId, Holding] = field(default_factory=dict[PayloadId, Holding])  # by manifest
    versions: tuple[int, int] = (version_min, version_max)
    signed: bytes = field(default=b"", repr=False)  # as it came or was signed
    rest: str = ""  # SHA-256 of the holdings that do not fit in (`encode_holdings`), which the node tells who asks

    def sign(self, key: Key) -> Summary:
        """The same with its signed bytes; `InvalidInput` if they would be too many."""
        assert key.public == self.node, "a node signs for itself"
        value = self._value()
        raw = canonical.encode({**value, "sig": key.sign("summary", canonical.encode(value)).hex()})
        if len(raw) > limits.summary_bytes_max:
            raise InvalidInput(f"summary: expected at most {limits.summary_bytes_max} bytes, found {len(raw)}")
        return parse_summary(raw)

    def _value(self) -> dict[str, Canonical]:
        rest: dict[str, Canonical] = {"rest": self.rest} if self.rest else {}
        return {
            "v": _version,
            "versions": list(self.versions),
            "node": self.node,
            "boot": self.boot,
            "started": self.started,
            "sequence": self.sequence,
            "certificate": self.certificate,
            "swarm": self.swarm,
            "peer_urls": list(self.peer_urls),
            "roles": list(self.roles),
            "draining": self.draining,
            "queue": self.queue,
            "busy": self.busy,
            "holdings": _told(self.holdings),
        } | rest


def parse_summary(raw: bytes) -> Summary:
    """Read a summary and check its signature; `MalformedMessage` or `IntegrityFault` says what is wrong with it.

    Fields that are not known here are signed with the others and passed on as they came.
    """
    value = _decoded(raw)
    if value.get("v") != _version or _fields - value.keys():
        raise MalformedMessage(f"summary: expected version {_version} with the fields {sorted(_fields)}")
    try:
        summary = _summary_of(value, raw)
    except (InvalidInput, zstandard.ZstdError) as reason:
        raise MalformedMessage(f"summary: {reason}") from None
    signature = value.pop("sig")
    if not isinstance(signature, str) or not re.fullmatch(r"[0-9a-f]{128}", signature):
        raise MalformedMessage("summary: expected a signature of 128 hex digits")
    verify(summary.node, "summary", canonical.encode(value), bytes.fromhex(signature))
    return summary


def parse_passed_on(raw: bytes) -> Summary | None:
    """As `parse_summary`; None for one of a later version, of a node that speaks to whoever knows that version."""
    version = _decoded(raw).get("v")
    return None if type(version) is int and version > _version else parse_summary(raw)


def _decoded(raw: bytes) -> dict[str, Canonical]:
    try:
        return canonical.decode_object(raw, bytes_max=limits.summary_bytes_max)
    except MalformedEncoding as reason:
        raise MalformedMessage(f"summary: {reason.message}") from None


def _summary_of(value: Mapping[str, Canonical], raw: bytes) -> Summary:
    versions = value["versions"]
    if not isinstance(versions, list) or len(versions) != 2:
        raise InvalidInput("versions: expected two numbers")
    low, high = (_count(each, "versions") for each in versions)
    roles = _texts(value["roles"], "roles", limits.summary_roles_max)
    if len(set(roles)) != len(roles):
        raise InvalidInput("roles: expected each once")
    for role in roles:
        _matched(_role, role, "roles")
    peer_urls = _texts(value["peer_urls"], "peer_urls", limits.summary_urls_max)
    for url in peer_urls:
        if not _relayed.fullmatch(url):
            want_url(url, "peer_urls", "wss")
    draining = value["draining"]
    if not isinstance(draining, bool):
        raise InvalidInput("draining: expected true or false")
    return Summary(
        public_key(value["node"]),
        _matched(_boot, value["boot"], "boot"),
        _count(value["started"], "started"),
        _count(value["sequence"], "sequence"),
        parse_hex64(value["certificate"], "certificate"),
        _matched(_tag, value["swarm"], "swarm"),
        peer_urls,
        roles,
        draining,
        _count(value["queue"], "queue"),
        _count(value["busy"], "busy"),
        _holdings(value["holdings"], limits.summary_models_max),
        (low, high),
        raw,
        parse_hex64(value["rest"], "rest") if "rest" in value else "",
    )


def encode_holdings(holdings: Mapping[PayloadId, Holding]) -> bytes:
    """As they are told beside a summary, which has their SHA-256."""
    return canonical.encode(_told(holdings))


def parse_holdings(raw: bytes) -> dict[PayloadId, Holding]:
    """Read `encode_holdings`; `InvalidInput` or `MalformedEncoding` for what is none, or too many."""
    value = canonical.decode_object(raw, bytes_max=limits.holdings_rest_bytes_max)
    return _holdings(value, limits.holdings_rest_models_max)


def _told(holdings: Mapping[PayloadId, Holding]) -> dict[str, Canonical]:
    return {
        manifest: {"trunk": held.trunk, "experts": pack_bits(held.experts)}
        | ({"layers": pack_bits(held.layers)} if held.layers else {})
        for manifest, held in holdings.items()
    }


def _holdings(value: Canonical, models_max: int) -> dict[PayloadId, Holding]:
    if not isinstance(value, dict) or len(value) > models_max:
        raise InvalidInput(f"holdings: expected at most {models_max} models")
    found: dict[PayloadId, Holding] = {}
    for manifest, said in value.items():
        if not isinstance(said, dict) or {"trunk", "experts"} - said.keys():
            raise InvalidInput("holdings: expected trunk and experts of each model")
        if not isinstance(said["trunk"], bool):
            raise InvalidInput("holdings: expected true or false as trunk")
        layers = unpack_bits(said["layers"]) if "layers" in said else b""
        found[payload_id(manifest)] = Holding(said["trunk"], unpack_bits(said["experts"]), layers)
    total = sum(len(held.experts) + len(held.layers) for held in found.values())
    if total > limits.holdings_all_bytes_max:
        raise InvalidInput(f"holdings: expected at most {limits.holdings_all_bytes_max} bytes, found {total}")
    return found


def pack_bits(bits: bytes) -> str:
    """A bitmap as text: base64 of one zstd frame that says its size."""
    return base64.b64encode(zstandard.ZstdCompressor(level=9).compress(bits)).decode("ascii")


def unpack_bits(text: object) -> bytes:
    """Read `pack_bits`; `InvalidInput` for what is none, or larger than any model."""
    if not isinstance(text, str) or len(text) > 2 * limits.holdings_bytes_max:
        raise InvalidInput("bitmap: expected base64 text")
    try:
        packed = base64.b64decode(text, validate=True)
        said = zstandard.frame_content_size(packed)
        if not 0 <= said <= limits.holdings_bytes_max:
            raise InvalidInput(f"bitmap: expected at most {limits.holdings_bytes_max} bytes, found {said}")
        reader = zstandard.ZstdDecompressor(max_window_size=limits.message_bytes_max)
        return reader.decompress(packed, max_output_size=said, allow_extra_data=False) if said else b""
    except (binascii.Error, zstandard.ZstdError, MemoryError, ValueError):
        raise InvalidInput("bitmap: expected base64 of one zstd frame") from None


def bits_of(numbers: set[int] | frozenset[int]) -> bytes:
    """The bitmap in which these bits are set."""
    bits = bytearray((max(numbers, default=-1) >> 3) + 1)
    for number in numbers:
        bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)


def numbers_of(bits: bytes) -> list[int]:
    """The bits that are set, in order."""
    return [at * 8 + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1]


def want_url(url: str, what: str, *schemes: str) -> None:
    """`InvalidInput` unless it is SCHEME://HOST:PORT and nothing more."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in schemes and _is_host(parts.hostname or "") and bool(parts.port)
        fine = fine and "@" not in parts.netloc
        fine = fine and f"{parts.scheme}://{parts.netloc}" == url and url.isascii() and url.isprintable()
    except ValueError:
        fine = False
    if not fine or len(url) > limits.summary_url_chars_max or " " in url:
        raise InvalidInput(f"{what}: expected {' or '.join(schemes)}://HOST:PORT, found {url[:80]!r}")


def _is_host(host: str) -> bool:
    """Whether it is an address, or a name that DNS can have (RFC 1123)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and all(_label.fullmatch(label) for label in host.split("."))
    return True


def encode_code(secret: bytes) -> str:
    """The join code of a swarm's secret: text that a person can carry, with a checksum against typing mistakes."""
    assert len(secret) == secret_bytes, "a secret"
    raw = secret + hashlib.sha256(b"blyan join code" + secret).digest()[:_check_bytes]
    return "blyan-" + base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def parse_code(text: str) -> bytes:
    """The secret of a join code; `InvalidInput`, without the code, for what is none."""
    found = _code.fullmatch(text.strip().lower())
    if found is not None:
        raw = base64.b32decode(found[1].upper() + "===")
        if encode_code(raw[:secret_bytes]) == text.strip().lower():
            return raw[:secret_bytes]
    raise InvalidInput(
        "join code: expected blyan- and 29 letters and digits, found something else",
        hint="`blyan node invite` on a node of the swarm prints it",
    )


def _count(value: Canonical, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInput(f"{what}: expected a number from 0")
    return value


def _matched(pattern: re.Pattern[str], value: Canonical, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(f"{what}: expected {pattern.pattern}")
    return value


def _texts(value: Canonical, what: str, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise InvalidInput(f"{what}: expected a list of at most {most}")
    texts = tuple(item for item in value if isinstance(item, str))
    if len(texts) != len(value):
        raise InvalidInput(f"{what}: expected texts")
    return texts
