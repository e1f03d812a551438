"""A person with a wallet: sign in from the command line, chat, see what it cost, keep a receipt, verify it alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest
from aiohttp.test_utils import TestClient

from accounts import SOURCES
from blyan.auth.api_keys import parse_wish
from blyan.ledger.transfers import Leg, Post
from blyan.node.books import operator_credit
from blyan.node.pricing import set_price
from blyan.node.wallet_file import write_wallet
from nodes import command, serving_with
from payers import PRICE, books_of, node_of
from wallets import new_key

pytestmark = pytest.mark.slow  # each test starts several processes
KEY = new_key(5)


@dataclass
class Home:
    """A person's own folder, and the node that they talk to."""

    folder: Path
    url: str
    client: TestClient

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_DATA_HOME": str(self.folder / "data"), "XDG_STATE_HOME": str(self.folder / "state")}

    @property
    def passphrase(self) -> Path:
        return self.folder / "passphrase"

    @property
    def sign_ins(self) -> Path:
        return self.folder / "state" / "blyan" / "sign_ins.json"

    async def chat(self, *options: str | Path):
        """One question, six tokens."""
        asked = ["chat", "hi", "--node", self.url, "--max-tokens", "6", *options]
        return await asyncio.to_thread(command, *asked, **self.environment)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
async def home(installed: Path, tmp_path: Path) -> AsyncIterator[Home]:
    shutil.copytree(installed, tmp_path / "node")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    sections: dict[str, Any] = {"accounts": {"origin": url}, "ledger": {"seal_seconds": 1}}
    async with serving_with(SOURCES, tmp_path / "node", port=port, **sections) as client:
        await asyncio.to_thread(set_price, node_of(client).ground, "random", PRICE)
        books = books_of(client)
        name = await books.open_user(KEY.address)
        assert (await books.submit(Post("credit", (Leg(operator_credit, name, 100_000),)))).taken
        found = Home(tmp_path / "home", url, client)
        write_wallet(tmp_path / "home" / "data" / "blyan" / "wallet.json", bytes(KEY.key), "my words", work=2)
        found.passphrase.write_text("my words\n")
        found.passphrase.chmod(0o600)
        yield found


async def test_a_wallet_signs_in_once_and_each_answer_says_what_it_cost(home: Home) -> None:
    done = await home.chat("--wallet", "--passphrase-file", home.passphrase, "--json")
    assert done.returncode == 0, done.stderr
    assert f"signed in as {KEY.address}" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["cost"]["asset"] == "USD" and float(answer["cost"]["amount"]) > 0
    assert re.fullmatch(r"[0-9a-f]{32}", answer["receipt"]["id"])
    assert home.sign_ins.stat().st_mode & 0o777 == 0o600
    again = await home.chat("--wallet")  # the session is kept: nobody is asked for a passphrase
    assert again.returncode == 0, again.stderr
    assert re.search(r"0\.0000\d+ USD, receipt [0-9a-f]{32}", again.stderr)
    assert "USD" not in again.stdout
    asked = ["account", "balance", "--json", "--node", home.url, "--wallet"]
    account = await asyncio.to_thread(command, *asked, **home.environment)
    has = json.loads(account.stdout)
    assert (has["account"], 0 < float(has["balance"]) < 0.001) == (KEY.address, True), account.stderr
    home.sign_ins.write_text('{"broken')
    assert (await home.chat("--wallet")).returncode == 75  # it would ask, and there is no terminal


async def test_who_shows_nothing_is_told_how_and_a_wrong_passphrase_opens_nothing(home: Home) -> None:
    done = await home.chat("--model", "random")
    assert done.returncode == 4
    assert "--wallet" in done.stderr and "--api-key-file" in done.stderr
    home.passphrase.write_text("other words\n")
    wrong = await home.chat("--wallet", "--passphrase-file", home.passphrase)
    assert (wrong.returncode, "passphrase" in wrong.stderr) == (4, True)
    assert not home.sign_ins.exists()


async def test_a_receipt_is_saved_in_the_conversation_and_verified_where_no_node_is(home: Home) -> None:
    told = {**os.environ, **home.environment, "TERM": "dumb"}
    asked = ["--wallet", "--passphrase-file", str(home.passphrase), "--max-tokens", "6", "--no-history"]

    def typed() -> str:
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "blyan", "chat", "--node", home.url, *asked],
            env=told,
            encoding="utf-8",
            timeout=40,
            dimensions=(60, 200),
            cwd=home.folder,
        )
        try:
            terminal.expect("Ctrl-D ends")
            terminal.sendline("/receipt")
            terminal.expect("found none before this")
            terminal.sendline("hi")
            terminal.expect("/receipt saves and verifies it")
            terminal.sendline("/receipt mine.json")
            terminal.expect("saved as mine.json")
            said = terminal.before
            terminal.sendline("/receipt mine.json")
            terminal.expect("expected no file, found one")
            terminal.sendline("/bye")
            terminal.expect(pexpect.EOF)
            return said
        finally:
            terminal.close(force=True)

    said = await asyncio.to_thread(typed)
    assert "14 checks hold; not made: origin, known" in said
    for name in ("mine.json", "mine.json.private"):
        assert (home.folder / name).stat().st_mode & 0o777 == 0o600
    node, joint = node_of(home.client), home.folder / "joint"
    joint.write_bytes(node.ground.chains.joint.encode())
    origin = json.loads((home.folder / "mine.json").read_text())["checkpoint"]["meta"][0]["entry"]["author"]
    await home.client.close()  # the node is gone
    options = ["--private", home.folder / "mine.json.private", "--origin", origin, "--checkpoint", joint]
    found = await asyncio.to_thread(command, "receipt", "verify", home.folder / "mine.json", *options, "--json")
    assert found.returncode == 0, found.stdout
    states = {each["name"]: each["state"] for each in json.loads(found.stdout)["checks"]}
    assert {name for name, state in states.items() if state != "ok"} <= {
        "known"
    }  # the books may have been sealed again
    receipt = (home.folder / "mine.json").read_text()
    (home.folder / "mine.json").write_text(receipt.replace('"completion_tokens":6', '"completion_tokens":5'))
    damaged = await asyncio.to_thread(command, "receipt", "verify", home.folder / "mine.json")
    assert (damaged.returncode, "FAILED: signature, cost" in damaged.stdout) == (7, True)


async def test_an_api_key_in_a_file_is_shown_to_the_node(home: Home) -> None:
    accounts = node_of(home.client).accounts
    assert accounts is not None
    _, text = await accounts.keys.make(KEY.address, parse_wish({"name": "test", "scopes": ["inference", "account"]}))
    file = home.folder / "key"
    file.write_text(text + "\n")
    assert (await home.chat("--api-key-file", file)).returncode == 4  # others may read it
    file.chmod(0o600)
    done = await home.chat("--api-key-file", file)
    assert done.returncode == 0, done.stderr
    assert "USD, receipt" in done.stderr
    assert (await home.chat("--api-key-file", file, "--wallet")).returncode == 2
    file.write_text("sk-other\n")
    assert (await home.chat("--api-key-file", file)).returncode == 1
