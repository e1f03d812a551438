"""Where a command gets the passphrase of an encrypted key: the configured file, or the terminal. Never an argument."""

from __future__ import annotations

import getpass
import sys

from blyan.node.config import NodeConfig
from blyan.node.keys import Passphrase
from blyan.node.writer import no_passphrase
from blyan.primitives.errors import InvalidInput


def passphrase_of(config: NodeConfig) -> Passphrase:
    """Asks only when called: a plain key needs none."""

    def ask() -> bytes:
        configured = config.keys.passphrase()
        if configured is not None:
            return configured
        if not sys.stdin.isatty():
            return no_passphrase()
        return getpass.getpass("passphrase of keys/node.key: ").encode()

    return ask


def new_passphrase(config: NodeConfig) -> bytes:
    """One to encrypt with: the configured one, or asked twice."""
    configured = config.keys.passphrase()
    if configured is not None:
        return configured
    if not sys.stdin.isatty():
        return no_passphrase()
    first = getpass.getpass("new passphrase: ")
    if not first or first != getpass.getpass("again: "):
        raise InvalidInput("passphrase: expected the same text twice, found another or none")
    return first.encode()
