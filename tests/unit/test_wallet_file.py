"""A person's key in a file: what other wallets write, what is refused, and what is never said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from blyan.node.wallet_file import address_of, new_secret, open_wallet, parse_secret, write_wallet
from blyan.primitives.errors import Denied, IntegrityFault, InvalidInput, NotFound

SECRET = (1).to_bytes(32, "big")
ADDRESS = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
# the vectors of the Web3 Secret Storage Definition, https://ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage
VECTOR_KEY = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
PBKDF2: dict[str, Any] = {
    "cipher": "aes-128-ctr",
    "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
    "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
    "kdf": "pbkdf2",
    "kdfparams": {
        "c": 262144,
        "dklen": 32,
        "prf": "hmac-sha256",
        "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
    },
    "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
}
SCRYPT: dict[str, Any] = {
    "cipher": "aes-128-ctr",
    "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
    "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
    "kdf": "scrypt",
    "kdfparams": {
        "dklen": 32,
        "n": 262144,
        "p": 8,
        "r": 1,
        "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
    },
    "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_wallet(tmp_path / "wallets" / "one.json", SECRET, "words", work=2)
    return tmp_path / "wallets" / "one.json"


def kept(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    path.chmod(0o600)
    return path


def test_a_wallet_opens_with_its_passphrase_and_signs_as_wallets_do(path: Path) -> None:
    assert address_of(path) == ADDRESS
    wallet = open_wallet(path, lambda: "words")
    assert (wallet.address, wallet.secret()) == (ADDRESS, SECRET)
    signature = wallet.sign("hello\nworld")
    assert Account.recover_message(encode_defunct(text="hello\nworld"), signature=signature) == ADDRESS
    with pytest.raises(Denied, match="passphrase"):
        open_wallet(path, lambda: "other words")


def test_other_programs_open_it_and_nobody_else_reads_it(path: Path) -> None:
    assert bytes(Account.decrypt(json.loads(path.read_text()), "words")) == SECRET
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    for read in (address_of, lambda file: open_wallet(file, lambda: "words")):
        with pytest.raises(Denied, match="0644"):
            read(path)


@pytest.mark.parametrize("crypto", [PBKDF2, SCRYPT], ids=["pbkdf2", "scrypt"])
def test_the_published_vectors_open_also_without_an_address(tmp_path: Path, crypto: dict[str, Any]) -> None:
    file = kept(tmp_path / "vector", {"crypto": crypto, "version": 3})
    assert open_wallet(file, lambda: "testpassword").secret().hex() == VECTOR_KEY
    with pytest.raises(IntegrityFault, match="no address"):
        address_of(file)


def test_a_wallet_is_never_replaced(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="never replaced"):
        write_wallet(path, bytes(31) + b"\2", "words", work=2)
    assert path.read_bytes() == before


def test_a_passphrase_of_nothing_encrypts_nothing(tmp_path: Path) -> None:
    for passphrase in ("", "x" * 1025):
        with pytest.raises(InvalidInput, match="passphrase"):
            write_wallet(tmp_path / "none", SECRET, passphrase, work=2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 4},
        {"address": "0x12"},
        {"address": 7},
        {"crypto": None},
        {"crypto": {**SCRYPT, "kdfparams": {**SCRYPT["kdfparams"], "n": 1 << 30}}},  # a terabyte
        {"crypto": {**SCRYPT, "kdfparams": {**SCRYPT["kdfparams"], "p": 1 << 20}}},
        {"crypto": {**SCRYPT, "kdfparams": {**SCRYPT["kdfparams"], "n": 3}}},
        {"crypto": {**PBKDF2, "kdfparams": {**PBKDF2["kdfparams"], "c": 1 << 40}}},
        {"crypto": {**PBKDF2, "kdf": "argon2"}},
        {"address": "00" * 20},  # of another key
        {"crypto": {"kdf": "scrypt", "kdfparams": {"n": 2, "r": 1, "p": 1, "dklen": 32}}},
    ],
)
def test_a_file_that_is_damaged_or_asks_for_too_much_is_refused_at_once(path: Path, change: dict[str, Any]) -> None:
    kept(path, json.loads(path.read_text()) | change)
    with pytest.raises(IntegrityFault):
        open_wallet(path, lambda: "words")


def test_files_that_are_no_wallets(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="wallet new"):
        address_of(tmp_path / "none")
    for text in ("", "[]", "{}", "x" * 9000):
        (tmp_path / "file").write_text(text)
        (tmp_path / "file").chmod(0o600)
        with pytest.raises((IntegrityFault, InvalidInput)):
            address_of(tmp_path / "file")


def test_keys_are_read_as_other_wallets_show_them_and_never_said() -> None:
    assert parse_secret(f" 0x{SECRET.hex()}\n") == parse_secret(SECRET.hex().upper()) == SECRET
    for text in ("", "0x12", SECRET.hex() + "00"):
        with pytest.raises(InvalidInput) as fault:
            parse_secret(text)
        assert not text or text not in fault.value.message
    assert len(new_secret(bytes)) == 32


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_a_number_that_is_no_key_is_refused_without_repeating_it(tmp_path: Path, secret: bytes) -> None:
    with pytest.raises(InvalidInput, match="secp256k1") as fault:
        write_wallet(tmp_path / "none", secret, "words", work=2)
    assert secret.hex() not in str(fault.value)


def test_an_opened_wallet_shows_its_address_only(path: Path) -> None:
    assert repr(open_wallet(path, lambda: "words")) == f"Wallet({ADDRESS})"
