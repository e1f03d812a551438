"""A person's EVM key as an encrypted file: the Web3 keystore, version 3, that other wallets read too.

It belongs to a person, not to a node, so it lies in the user's own folder. Owner-only (0600), or it is refused. What a
file asks for is bounded before anything is computed for it: a stranger's file could ask for all memory. eth-account
does the cryptography and comes with the extra `accounts`.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from blyan.primitives import limits
from blyan.primitives.clock import Entropy
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, NotFound, Unavailable
from blyan.storage import durable
from blyan.wire.fields import as_dict

Secret: TypeAlias = Callable[[], str]  # asked only when it is needed

secret_bytes: Final = 32
_mode: Final = 0o600
_order: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141  # of secp256k1 (SEC 2)
_address: Final = re.compile(r"(?:0x)?[0-9a-fA-F]{40}")
_secret: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Wallet:
    """A key that was opened. Its repr shows the address only."""

    address: str  # EIP-55
    _account: Any

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    def secret(self) -> bytes:
        """The key itself, 32 bytes: to be kept elsewhere, never to be shown."""
        return bytes(self._account.key)

    def sign(self, message: str) -> str:
        """What a wallet answers to `personal_sign` (EIP-191): 0x and 65 bytes in hex."""
        from eth_account.messages import encode_defunct

        return "0x" + bytes(self._account.sign_message(encode_defunct(text=message)).signature).hex()


def read_owner_only(path: Path, bytes_max: int, what: str) -> bytes:
    """A file that nobody else may read; `NotFound`, `Denied`, or `InvalidInput` for one that is none or too long."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        raw = durable.read_limited(path, bytes_max)
    except FileNotFoundError:
        raise NotFound(f"{path}: expected {what}, found no file") from None
    except (OSError, ValueError) as reason:
        raise InvalidInput(f"{path}: expected {what}, found {getattr(reason, 'strerror', None) or reason}") from None
    if mode & 0o077:
        raise Denied(f"{path}: expected mode 0600, found {mode:04o}", hint=f"chmod 600 {path}")
    return raw


def address_of(path: Path) -> str:
    """The address that a wallet's file names (EIP-55), without a passphrase: opening it shows whether that is true."""
    address = _read(path).get("address")
    if address is None:
        raise _damaged(path, "no address")
    return _checksum(address)


def open_wallet(path: Path, passphrase: Secret) -> Wallet:
    """Open a wallet; `Denied` if the passphrase is not the one, `IntegrityFault` for a file that is damaged."""
    value, account = _read(path), _eth_account()
    try:
        secret = bytes(account.decrypt(value, passphrase()))
    except ValueError as reason:
        if "MAC" in str(reason):
            raise Denied(f"{path}: expected the passphrase that it was encrypted with, found another") from None
        raise _damaged(path, "what cannot be decrypted") from None
    except (TypeError, KeyError, AssertionError, NotImplementedError):
        raise _damaged(path, "what cannot be decrypted") from None
    wallet = _wallet(secret)
    if wallet.address != _checksum(value.get("address", wallet.address)):
        raise _damaged(path, f"the address {value['address']} for the key of {wallet.address}")
    return wallet


def new_secret(entropy: Entropy) -> bytes:
    """A new key, 32 bytes."""
    return entropy(secret_bytes)


def parse_secret(text: str) -> bytes:
    """A key in hex as other wallets show it; what is none is refused without repeating it."""
    found = _secret.fullmatch(text.strip())
    if found is None:
        raise InvalidInput("key: expected 64 hex digits, perhaps after 0x, found something else")
    return bytes.fromhex(found[1])


def write_wallet(path: Path, secret: bytes, passphrase: str, *, work: int | None = None) -> Wallet:
    """Write a new wallet, durably, owner-only; `InvalidInput` where a file is already, or for a passphrase of nothing.

    `work` is the N of scrypt, eth-account's own default where unsaid.
    """
    want_free(path)
    if not 0 < len(passphrase.encode()) <= limits.passphrase_bytes_max:
        raise InvalidInput(f"passphrase: expected 1 to {limits.passphrase_bytes_max} bytes, found another number")
    wallet = _wallet(secret)
    value = dict(_eth_account().encrypt(secret, passphrase, kdf="scrypt", iterations=work))
    value["address"] = wallet.address[2:].lower()
    durable.make_folder(path.parent, 0o700)
    durable.write_file(path, json.dumps(value).encode() + b"\n", _mode)
    return wallet


def want_free(path: Path) -> None:
    """`InvalidInput` where a file is: nothing that may hold a key is ever replaced."""
    if path.exists() or path.is_symlink():
        raise InvalidInput(
            f"{path}: expected no file, found one: a wallet is never replaced",
            hint="choose another with --file, or move it away",
        )


def _wallet(secret: bytes) -> Wallet:
    if not 0 < int.from_bytes(secret, "big") < _order:  # not left to eth-account, whose message has the key in it
        raise InvalidInput("key: expected a number below the order of secp256k1, found another")
    account = _eth_account().from_key(secret)
    return Wallet(str(account.address), account)


def _read(path: Path) -> dict[str, Any]:
    raw = read_owner_only(path, limits.wallet_file_bytes_max, "a wallet (`blyan wallet new` makes one)")
    try:
        value = as_dict(json.loads(raw))
    except (ValueError, RecursionError):
        value = None
    if value is None or value.get("version") != 3:
        raise _damaged(path, "something else than a Web3 keystore of version 3")
    address = value.get("address", "0" * 40)  # some wallets leave it out
    if not isinstance(address, str) or not _address.fullmatch(address):
        raise _damaged(path, "something else as its address")
    _check_work(path, as_dict(value.get("crypto")) or {})
    return value


def _check_work(path: Path, crypto: dict[str, Any]) -> None:
    """Bound what opening it would cost."""
    given = as_dict(crypto.get("kdfparams")) or {}
    numbers = {name: each for name, each in given.items() if type(each) is int and each > 0}
    match crypto.get("kdf"), numbers:
        case "scrypt", {"n": n, "r": r, "p": p, "dklen": 32}:
            cheap = n & (n - 1) == 0 and 128 * n * r <= limits.key_memory_bytes_max and p <= limits.key_passes_max
        case "pbkdf2", {"c": c, "dklen": 32}:
            cheap = c <= limits.wallet_iterations_max
        case _:
            cheap = False
    if not cheap:
        raise _damaged(path, "a way of encrypting that is unknown, or would cost too much to open")


def _checksum(address: str) -> str:
    _eth_account()
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address.lower()))


def _eth_account() -> Any:
    try:
        from eth_account import Account
    except ImportError:
        raise Unavailable(
            "wallet: expected the packages that know keys of Ethereum, found them missing",
            hint='pip install "blyan[accounts]"',
        ) from None
    return Account


def _damaged(path: Path, found: str) -> IntegrityFault:
    return IntegrityFault(
        f"wallet {path}: expected an encrypted key, found {found}",
        detail={"file": str(path)},
        hint="bring it back from a copy; without the file nobody can compute the key",
    )
