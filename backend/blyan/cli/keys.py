"""`blyan keys show|encrypt|decrypt|rotate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blyan.cli.output import Output
from blyan.cli.passphrase import new_passphrase, passphrase_of
from blyan.node.config import read_config
from blyan.node.data_directory import open_ground
from blyan.node.keys import Cost, KeyFile, next_key, node_key, read_key, write_encrypted, write_key
from blyan.node.writer import claimed, opened, rotate
from blyan.primitives.clock import system_entropy, system_seconds
from blyan.primitives.errors import InvalidInput, Unavailable, UsageMistake


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("keys", parents=[common, readable], help="this node's key")
    commands = group.add_subparsers(metavar="VERB", required=True)
    shown = commands.add_parser("show", parents=[common, readable], help="the public key, and how the file is kept")
    shown.set_defaults(run=_show)
    encrypted = commands.add_parser("encrypt", parents=[common, readable], help="keep the key under a passphrase")
    encrypted.set_defaults(run=_encrypt)
    decrypted = commands.add_parser("decrypt", parents=[common, readable], help="keep the key in plain, owner-only")
    decrypted.set_defaults(run=_decrypt)
    rotated = commands.add_parser("rotate", parents=[common, readable], help="hand the chains over to a new key")
    rotated.add_argument("--yes", action="store_true", help="do it: the old key can never write again")
    rotated.set_defaults(run=_rotate)


def _show(options: argparse.Namespace, output: Output) -> int:
    file = read_key(node_key(options.data_dir))
    ground = open_ground(options.data_dir)
    value = {
        "public": file.public,
        "file": str(file.path),
        "encrypted": file.encrypted,
        "sequencer": ground.chains.state.sequencer,
        "may_write": ground.may_write,
        "former": list(ground.chains.state.former),
    }
    how = "encrypted" if file.encrypted else "in plain, owner-only"
    role = "the sequencer" if ground.may_write else f"a reader; the sequencer is {ground.chains.state.sequencer}"
    output.data(value, f"{file.public}\n{file.path}: {how}\nof {ground.chains.network}: {role}")
    return 0


def _encrypt(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.data_dir)
    with claimed(options.data_dir):
        file = _only_key(options.data_dir)
        if file.encrypted:
            raise InvalidInput(f"{file.path}: expected a key in plain, found an encrypted one")
        write_encrypted(file.path, file.seed(passphrase_of(config)), new_passphrase(config), system_entropy, Cost())
    output.data({"public": file.public, "encrypted": True}, f"{file.path} is encrypted; keep the passphrase")
    return 0


def _decrypt(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.data_dir)
    with claimed(options.data_dir):
        file = _only_key(options.data_dir)
        if not file.encrypted:
            raise InvalidInput(f"{file.path}: expected an encrypted key, found one in plain")
        write_key(file.path, file.seed(passphrase_of(config)))
    output.data({"public": file.public, "encrypted": False}, f"{file.path} is in plain, owner-only")
    return 0


def _rotate(options: argparse.Namespace, output: Output) -> int:
    if not options.yes:
        raise UsageMistake("keys rotate: expected --yes, because the old key can never write again, found none")
    config = read_config(options.data_dir)
    secret = passphrase_of(config)
    with opened(config, now=system_seconds, entropy=system_entropy, passphrase=secret) as ground:
        old = ground.identity
        new = rotate(ground, now=system_seconds, entropy=system_entropy, passphrase=secret, cost=Cost())
    output.data({"old": old, "new": new}, f"the chains are written by {new} from now on, no more by {old}")
    return 0


def _only_key(folder: Path) -> KeyFile:
    """The node's key, unless a crash left two: a second one would stay as it is."""
    if next_key(folder).exists():
        raise Unavailable(
            f"keys: expected one key, found {next_key(folder)} of a rotation that has not ended",
            hint="start the node once: it finishes or undoes it",
        )
    return read_key(node_key(folder))
