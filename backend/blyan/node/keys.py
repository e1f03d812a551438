"""Key files of a node: `keys/node.key`, and `keys/next.key` while a rotation is under way.

Plain, a file is canonical JSON of the public key and the seed; encrypted, of the public key and the seed under a
passphrase: XSalsa20-Poly1305 with a key by Argon2id (RFC 9106), both from libsodium. Every byte is checked: the seed
must give the public key, and an encrypted file has a checksum, so that damage is told from a wrong passphrase. Files of
schema 0 are the seed in hex and a line feed. Owner-only (0600), or they are refused. Where the passphrase comes from is
the caller's matter.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

from blyan.primitives import canonical, limits
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, NotFound
from blyan.primitives.ids import PublicKey, parse_hex64
from blyan.primitives.keys import Key, seed_bytes
from blyan.storage import durable

Passphrase: TypeAlias = Callable[[], bytes]  # asked only where a file is encrypted

folder_name: Final = "keys"
_mode: Final = 0o600
_schema_0: Final = re.compile(rb"[0-9a-f]{64}\n")
_hex: Final = re.compile(r"(?:[0-9a-f]{2})+")
_box_bytes: Final = SecretBox.NONCE_SIZE + SecretBox.MACBYTES + seed_bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """What trying one passphrase costs: Argon2id passes and bytes of memory."""

    passes: int = argon2id.OPSLIMIT_MODERATE
    memory_bytes: int = argon2id.MEMLIMIT_MODERATE

    def __post_init__(self) -> None:
        in_range = limits.key_memory_bytes_min <= self.memory_bytes <= limits.key_memory_bytes_max
        if not 1 <= self.passes <= limits.key_passes_max or not in_range:
            raise InvalidInput(
                f"cost: expected 1 to {limits.key_passes_max} passes over {limits.key_memory_bytes_min} to "
                f"{limits.key_memory_bytes_max} bytes, found {self.passes} over {self.memory_bytes}"
            )


@dataclass(frozen=True, slots=True)
class _Sealed:
    """An encrypted seed; `box` is nonce ‖ MAC ‖ ciphertext."""

    cost: Cost
    salt: bytes
    box: bytes


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file that was read: whose it is, and the seed or what it takes to get it. Its repr shows neither."""

    path: Path
    public: PublicKey
    schema: int  # 0: the form of before, which is written anew by the migration
    _secret: bytes | _Sealed

    def __repr__(self) -> str:
        return f"KeyFile({self.path}, {self.public})"

    @property
    def encrypted(self) -> bool:
        """Whether a passphrase is needed."""
        return isinstance(self._secret, _Sealed)

    def seed(self, passphrase: Passphrase) -> bytes:
        """The secret half; `Denied` if the passphrase is not the one."""
        if isinstance(self._secret, bytes):
            return self._secret
        try:
            seed = SecretBox(_stretched(passphrase(), self._secret.salt, self._secret.cost)).decrypt(self._secret.box)
        except CryptoError:
            raise Denied(f"{self.path}: expected the passphrase that it was encrypted with, found another") from None
        _want_public(Key.from_seed(seed).public, self.public, self.path)
        return seed

    def key(self, passphrase: Passphrase) -> Key:
        """The signing key; `Denied` if the passphrase is not the one."""
        return Key.from_seed(self.seed(passphrase))


def node_key(folder: Path) -> Path:
    """The key file of a data directory."""
    return folder / folder_name / "node.key"


def next_key(folder: Path) -> Path:
    """The key that a rotation under way hands the chains over to."""
    return folder / folder_name / "next.key"


def create_key(folder: Path, entropy: Entropy) -> Key:
    """Make the key of a new data directory; the caller knows that there is none and that nothing needs the old one."""
    durable.make_folder(folder / folder_name, 0o700, within=folder)
    seed = entropy(seed_bytes)
    write_key(node_key(folder), seed)
    return Key.from_seed(seed)


def read_key(path: Path) -> KeyFile:
    """Read a key file; `NotFound`, `Denied` if others may read it, `IntegrityFault` names one that is damaged."""
    try:
        mode = stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
        raw = durable.read_limited(path, limits.key_file_bytes_max)
    except FileNotFoundError:
        hint = f"run `blyan init --data-dir {path.parent.parent}` first"
        raise NotFound(f"data directory {path.parent.parent}: expected {path}, found none", hint=hint) from None
    except (OSError, ValueError) as reason:
        raise _damaged(path, str(reason)) from None
    if mode & 0o077:
        raise Denied(f"{path}: expected mode 0600, found {mode:04o}", hint=f"chmod 600 {path}")
    if _schema_0.fullmatch(raw):
        seed = bytes.fromhex(raw.decode("ascii"))
        return KeyFile(path, Key.from_seed(seed).public, 0, seed)
    try:
        value = canonical.decode_object(raw, bytes_max=limits.key_file_bytes_max)
    except InvalidInput:
        raise _damaged(path, "expected canonical JSON, found something else") from None  # which may hold the seed
    try:
        return _parse(path, value)
    except InvalidInput as reason:
        raise _damaged(path, reason.message) from None


def write_key(path: Path, seed: bytes) -> None:
    """Write a key file in plain, durably, owner-only."""
    value: dict[str, canonical.Canonical] = {"v": 1, "public": Key.from_seed(seed).public, "seed": seed.hex()}
    durable.write_file(path, canonical.encode(value), _mode)


def write_encrypted(path: Path, seed: bytes, passphrase: bytes, entropy: Entropy, cost: Cost) -> None:
    """Write a key file under a passphrase, durably, owner-only; `InvalidInput` for a passphrase without bytes."""
    if not 0 < len(passphrase) <= limits.passphrase_bytes_max:
        raise InvalidInput(f"passphrase: expected 1 to {limits.passphrase_bytes_max} bytes, found {len(passphrase)}")
    salt, nonce = entropy(argon2id.SALTBYTES), entropy(SecretBox.NONCE_SIZE)
    box = bytes(SecretBox(_stretched(passphrase, salt, cost)).encrypt(seed, nonce))
    value: dict[str, canonical.Canonical] = {
        "v": 1,
        "public": Key.from_seed(seed).public,
        "kdf": "argon2id",
        "passes": cost.passes,
        "memory": cost.memory_bytes,
        "salt": salt.hex(),
        "box": box.hex(),
    }
    durable.write_file(path, canonical.encode({**value, "check": _checksum(value)}), _mode)


def _parse(path: Path, value: dict[str, canonical.Canonical]) -> KeyFile:
    if type(value.get("v")) is not int or value["v"] != 1:
        raise InvalidInput(f"v: expected 1, found {value.get('v')!r}")
    public = PublicKey(parse_hex64(value.get("public"), "public"))
    if value.keys() == {"v", "public", "seed"}:
        seed = _bytes(value["seed"], seed_bytes, "seed")
        _want_public(Key.from_seed(seed).public, public, path)
        return KeyFile(path, public, 1, seed)
    if value.keys() != {"v", "public", "kdf", "passes", "memory", "salt", "box", "check"}:
        raise InvalidInput("expected the fields of a key, found others")  # without their names: one may be a seed
    if value["kdf"] != "argon2id":
        raise InvalidInput(f"kdf: expected argon2id, found {str(value['kdf'])[:40]!r}")
    passes, memory = value["passes"], value["memory"]
    if type(passes) is not int or type(memory) is not int:
        raise InvalidInput("passes and memory: expected integers")
    sealed = _Sealed(
        Cost(passes, memory),  # bounded before anything is allocated for it
        _bytes(value["salt"], argon2id.SALTBYTES, "salt"),
        _bytes(value["box"], _box_bytes, "box"),
    )
    if value.pop("check") != _checksum(value):
        raise InvalidInput("expected the checksum of its other fields, found another")
    return KeyFile(path, public, 1, sealed)


def _bytes(value: object, length: int, what: str) -> bytes:
    if not isinstance(value, str) or not _hex.fullmatch(value) or len(value) != 2 * length:
        raise InvalidInput(f"{what}: expected {2 * length} lower-case hex digits, found something else")
    return bytes.fromhex(value)


def _checksum(value: dict[str, canonical.Canonical]) -> str:
    return hashlib.sha256(canonical.encode(value)).hexdigest()


def _stretched(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    return argon2id.kdf(SecretBox.KEY_SIZE, passphrase, salt, opslimit=cost.passes, memlimit=cost.memory_bytes)


def _want_public(computed: PublicKey, said: PublicKey, path: Path) -> None:
    if computed != said:
        raise _damaged(path, f"expected the seed of {said}, found that of {computed}")


def _damaged(path: Path, why: str) -> IntegrityFault:
    return IntegrityFault(
        f"key file {path}: {why}",
        detail={"file": str(path)},
        hint="the file is damaged: put it back from a backup; nobody can compute it",
    )
