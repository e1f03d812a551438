"""`blyan wallet new|import|show`: a person's key for signing in to nodes, encrypted, in the user's own folder."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any, Final

from blyan.cli.output import Output
from blyan.node.config import user_data_dir_from_environment
from blyan.node.wallet_file import (
    Secret,
    address_of,
    new_secret,
    open_wallet,
    parse_secret,
    read_owner_only,
    want_free,
    write_wallet,
)
from blyan.primitives import limits
from blyan.primitives.clock import system_entropy
from blyan.primitives.errors import InvalidInput, Unavailable, UsageMistake

_file_name: Final = "wallet.json"


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("wallet", parents=[common, readable], help="your key for signing in to nodes")
    commands = group.add_subparsers(metavar="VERB", required=True)
    made = commands.add_parser("new", parents=[common, readable], help="a new key, kept under a passphrase")
    made.set_defaults(run=_new)
    brought = commands.add_parser("import", parents=[common, readable], help="a key that you have")
    brought.add_argument(
        "keystore", metavar="KEYSTORE", type=Path, nargs="?", help="a Web3 keystore (default: a key in hex, typed)"
    )
    brought.set_defaults(run=_import)
    looked = commands.add_parser("show", parents=[common, readable], help="the address, which everybody may know")
    looked.set_defaults(run=_show)
    for each in (made, brought, looked):
        add_file(each, "--file")
    for each in (made, brought):
        add_passphrase(each)


def add_file(parser: argparse.ArgumentParser, name: str) -> None:
    """The option that says where the wallet is."""
    parser.add_argument(name, metavar="FILE", type=Path, help="where it is kept (default: ~/.local/share/blyan)")


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """The option that says where its passphrase is."""
    parser.add_argument(
        "--passphrase-file", metavar="FILE", type=Path, help="the wallet's passphrase (default: typed); for you alone"
    )


def add_sign_in(parser: argparse.ArgumentParser) -> None:
    """How to show who one is."""
    parser.add_argument("--wallet", action="store_true", help="sign in to the node with your wallet")
    parser.add_argument("--wallet-file", metavar="FILE", type=Path, help="another wallet than the one in your folder")
    parser.add_argument("--chain-id", metavar="N", type=int, help="sign for this chain (default: the node's first)")
    add_passphrase(parser)
    parser.add_argument("--api-key-file", metavar="FILE", type=Path, help="a file with an API key; for you alone")


def wallet_path(given: Path | None) -> Path:
    """The given file, or the one in the user's folder."""
    if given is not None:
        return given
    folder = user_data_dir_from_environment()
    if folder is None:
        raise UsageMistake("wallet: expected --file, because there is no home directory, found none")
    return folder / _file_name


def wallet_passphrase(options: argparse.Namespace, path: Path) -> Secret:
    """Asks only when called: the file that was named, or the terminal."""

    def ask() -> str:
        if options.passphrase_file is not None:
            return _of_file(options.passphrase_file)
        return _typed(f"passphrase of {path}: ")

    return ask


def _new(options: argparse.Namespace, output: Output) -> int:
    path = wallet_path(options.file)
    want_free(path)
    return _kept(path, new_secret(system_entropy), _new_passphrase(options), output)


def _import(options: argparse.Namespace, output: Output) -> int:
    path = wallet_path(options.file)
    want_free(path)
    if options.keystore is not None:
        secret = wallet_passphrase(options, options.keystore)()
        opened = open_wallet(options.keystore, lambda: secret)
        return _kept(path, opened.secret(), secret, output)
    text = _typed("private key, in hex: ") if sys.stdin.isatty() else sys.stdin.readline(limits.wallet_file_bytes_max)
    return _kept(path, parse_secret(text), _new_passphrase(options), output)


def _show(options: argparse.Namespace, output: Output) -> int:
    path = wallet_path(options.file)
    address = address_of(path)
    output.data({"address": address, "file": str(path)}, address)
    output.note(f"kept in {path}")
    return 0


def _kept(path: Path, secret: bytes, passphrase: str, output: Output) -> int:
    address = write_wallet(path, secret, passphrase).address
    output.data({"address": address, "file": str(path)}, address)
    output.note(f"kept in {path}, under your passphrase; copy that file: nobody can recover it, or the passphrase")
    return 0


def _new_passphrase(options: argparse.Namespace) -> str:
    if options.passphrase_file is not None:
        return _of_file(options.passphrase_file)
    first = _typed("new passphrase: ")
    if not first or first != _typed("again: "):
        raise InvalidInput("passphrase: expected the same text twice, found another or none")
    return first


def _of_file(path: Path) -> str:
    raw = read_owner_only(path, limits.passphrase_bytes_max + 1, "a passphrase").removesuffix(b"\n")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: expected a passphrase in UTF-8, found other bytes") from None


def _typed(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise Unavailable(
            f"{prompt.rstrip(': ')}: expected a terminal to type it on, found none",
            hint="--passphrase-file names a file that only you can read",
        )
    return getpass.getpass(prompt)
