"""Who is at the other end of a link: three frames, each side proving its key and the join code (docs/spec/peer.md).

Both sign, and both seal with the swarm's secret, one transcript: the certificate that TLS showed, both nonces, both
keys, both processes. So nobody in between can pass a proof on, none serves twice, and a summary that somebody else
signed opens nothing. No input or output here; whoever fails is told nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from blake3 import blake3

from blyan.primitives import canonical
from blyan.primitives.errors import Denied, Fault, InvalidInput, PeerFault
from blyan.primitives.ids import PublicKey, parse_hex64, public_key
from blyan.primitives.keys import Key, verify
from blyan.wire.peer import Summary, parse_summary, version_max, version_min

Side: TypeAlias = Literal["peer-caller", "peer-answerer"]

nonce_bytes: Final = 32
_tag_bytes: Final = 8
_member = blake3(derive_key_context="blyan v1 swarm member")
_tag = blake3(derive_key_context="blyan v1 swarm tag")


@dataclass(frozen=True, slots=True)
class Swarm:
    """The secret that members share. Its repr does not show it."""

    secret: bytes

    def __repr__(self) -> str:
        return f"Swarm({self.tag})"

    @property
    def tag(self) -> str:
        """Which swarm it is, for those who are in it: 16 hex digits."""
        return _tag.copy().update(self.secret).hexdigest(_tag_bytes)

    def seal(self, side: Side, transcript: bytes) -> str:
        """What only a member can say of a transcript, 64 hex digits."""
        key = _member.copy().update(self.secret).digest()
        return blake3(side.encode("ascii") + b"\x00" + transcript, key=key).hexdigest()


@dataclass(frozen=True, slots=True)
class Challenge:
    """The answering side's first frame."""

    node: PublicKey
    boot: str
    nonce: str  # 64 hex digits
    certificate: str  # SHA-256 of that under which the link is to be made; a wrong one fails the proofs
    versions: tuple[int, int] = (version_min, version_max)

    def fields(self) -> dict[str, Any]:
        """As it is sent."""
        return {
            "node": self.node,
            "boot": self.boot,
            "nonce": self.nonce,
            "certificate": self.certificate,
            "versions": list(self.versions),
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """What the calling side says of itself, beside its proofs."""

    node: PublicKey
    boot: str
    nonce: str
    version: int

    def fields(self) -> dict[str, Any]:
        """As it is sent."""
        return {"node": self.node, "boot": self.boot, "nonce": self.nonce, "version": self.version}


def parse_challenge(fields: Mapping[str, Any]) -> Challenge:
    """Read the first frame; `PeerFault` if it is none."""
    try:
        low, high = fields["versions"]
        if not (type(low) is int and type(high) is int):
            raise InvalidInput("versions: expected two numbers")
        challenge = Challenge(
            public_key(fields["node"]),
            _boot(fields["boot"]),
            parse_hex64(fields["nonce"], "nonce"),
            parse_hex64(fields["certificate"], "certificate"),
            (low, high),
        )
    except (KeyError, TypeError, ValueError, InvalidInput):
        raise PeerFault("peer: expected a challenge, found something else") from None
    return challenge


def agreed_version(theirs: tuple[int, int]) -> int:
    """The newest version that both speak; `PeerFault` if there is none."""
    version = min(version_max, theirs[1])
    if version < max(version_min, theirs[0]):
        raise PeerFault(
            f"peer: expected a version from {version_min} to {version_max}, found {theirs[0]} to {theirs[1]}",
            hint="the older of the two nodes is to be updated",
        )
    return version


def transcript(challenge: Challenge, caller: Caller) -> bytes:
    """What both sides sign: all that tells this link from any other."""
    return canonical.encode({"v": 1, "answerer": challenge.fields(), "caller": caller.fields()})


def proofs(key: Key, swarm: Swarm, side: Side, said: bytes, summary: Summary) -> dict[str, Any]:
    """The fields with which a side proves itself, and its summary."""
    return {
        "signature": key.sign(side, said).hex(),
        "membership": swarm.seal(side, said),
        "summary": summary.signed.decode("utf-8"),
    }


def check_proofs(who: Challenge | Caller, swarm: Swarm, side: Side, said: bytes, fields: Mapping[str, Any]) -> Summary:
    """The summary of a side that proved itself; `Denied` if it did not.

    The membership is looked at first: it is cheap, and whoever is no member learns nothing by what comes after.
    """
    membership, signature, summary = (fields.get(name) for name in ("membership", "signature", "summary"))
    if not (isinstance(membership, str) and isinstance(signature, str) and isinstance(summary, str)):
        raise Denied("peer: expected proofs, found none")
    if not hmac.compare_digest(membership.encode(), swarm.seal(side, said).encode()):
        raise Denied(
            "peer: expected a member of this swarm, found somebody else", hint="is the join code the right one?"
        )
    try:
        verify(who.node, side, said, bytes.fromhex(signature))
        parsed = parse_summary(summary.encode("utf-8"))
    except (Fault, ValueError):
        raise Denied("peer: expected proof of its key, found none") from None
    if parsed.node != who.node or parsed.boot != who.boot or parsed.swarm != swarm.tag:
        raise Denied("peer: expected its own summary, found another's")
    return parsed


def parse_caller(fields: Mapping[str, Any]) -> Caller:
    """Read what a caller says of itself; `PeerFault` if it is nothing like that."""
    try:
        version = fields["version"]
        if type(version) is not int or not version_min <= version <= version_max:
            raise InvalidInput("version")
        return Caller(public_key(fields["node"]), _boot(fields["boot"]), parse_hex64(fields["nonce"], "nonce"), version)
    except (KeyError, TypeError, InvalidInput):
        raise PeerFault("peer: expected a hello, found something else") from None


def _boot(text: object) -> str:
    return parse_hex64(str(text) * 2, "boot")[:32]
