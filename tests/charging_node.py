"""A node that charges for the built-in model and gives every newcomer one dollar."""

from __future__ import annotations

import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Final

from nodes import command
from running_node import RunningNode, with_accounts

PROMPT_PRICE: Final = Decimal("50")  # USD for a million tokens
COMPLETION_PRICE: Final = Decimal("150")


def blyan(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of the command line."""
    return command(*arguments, data_dir=data_dir, timeout=120)


def charging_node(folder: Path) -> RunningNode:
    """Not started yet; nobody meets a quota."""
    prices = ("--prompt", str(PROMPT_PRICE), "--completion", str(COMPLETION_PRICE))
    for words in (("init",), ("price", "set", "blyan-genesis", *prices)):
        done = blyan(folder, *words)
        assert done.returncode == 0, done.stderr
    return with_accounts(
        folder,
        BLYAN_QUOTAS__ADDRESS_SIGN_INS="0",
        BLYAN_QUOTAS__ADDRESS_REQUESTS="0",
        BLYAN_ACCOUNTS__ALLOWANCE="1",
        BLYAN_ACCOUNTS__ALLOWANCE_PER_DAY="1000",
        BLYAN_LEDGER__SEAL_SECONDS="1",
    )
