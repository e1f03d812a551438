"""What the command line signs for a node: a message that is good for somewhere or somebody else is never signed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from blyan.auth.origin import parse_origin
from blyan.auth.siwe import Address, SignInMessage
from blyan.cli.sign_in import WalletDoor, key_headers
from blyan.node.wallet_file import write_wallet
from blyan.primitives.errors import Denied, InvalidInput, PeerFault, UsageMistake
from wallets import new_key

NOW = 1_700_000_000
KEY = new_key(3)
SECRET = "s" * 43


class FakeNode:
    """A node that can be told to lie; it remembers what it was asked."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        self.message: dict[str, Any] = {}  # what the message says instead
        self.about: dict[str, Any] = {}
        self.session: dict[str, Any] = {}
        self.cookie = "blyan-session-1"
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.redirect: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def text(self) -> str:
        said: dict[str, Any] = {
            "origin": parse_origin(self.url, "test"),
            "address": Address(KEY.address),
            "chain_id": 1,
            "nonce": "n0nce567890123456",
            "issued_at": NOW,
            "expires_at": NOW + 300,
        }
        edit: Callable[[str], str] = self.message.get("text", lambda text: text)
        changed = {name: value for name, value in self.message.items() if name != "text"}
        return edit(SignInMessage(**(said | changed)).text)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.method == "POST" else None
        self.asked.append((request.path, body, dict(request.headers)))
        if self.redirect is not None:
            raise web.HTTPFound(self.redirect)
        if request.path == "/auth/session":
            there = f"blyan-session-1={SECRET}" in request.headers.get("Cookie", "")
            who = {"signed_in": there, "address": KEY.address} if there else {"signed_in": False}
            return web.json_response({"accounts": True, "origin": self.url, "chain_ids": [1, 10], **who, **self.about})
        if request.path == "/auth/nonce":
            response = web.json_response({"message": self.text()})
            response.set_cookie("blyan-sign-in-1", "b" * 43)
            return response
        response = web.json_response({"address": KEY.address, "ends_at": NOW + 900, **self.session})
        response.set_cookie(self.cookie, SECRET)
        return response

    def signed(self) -> list[Any]:
        return [body for path, body, _ in self.asked if path == "/auth/verify"]


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    app = web.Application()
    found: list[FakeNode] = []

    async def answer(request: web.Request) -> web.Response:
        return await found[0].answer(request)

    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        found.append(FakeNode(server))
        yield found[0]


@pytest.fixture
def wallet(tmp_path: Path) -> Path:
    write_wallet(tmp_path / "wallet.json", bytes(KEY.key), "words", work=2)
    return tmp_path / "wallet.json"


async def entered(url: str, wallet: Path, folder: Path | None = None, chain_id: int | None = None):
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        door = WalletDoor(session, url, wallet, lambda: "words", folder=folder)
        return await door.enter(lambda: NOW, chain_id)


async def test_a_session_is_begun_and_kept_for_the_owner_alone(node: FakeNode, wallet: Path, tmp_path: Path) -> None:
    who = await entered(node.url, wallet, tmp_path / "state")
    assert who.headers["Cookie"] == f"blyan-session-1={SECRET}"
    assert SECRET not in repr(who)
    kept = tmp_path / "state" / "sign_ins.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    [_, _, (_, body, headers)] = node.asked
    assert body["message"] == node.text()
    assert headers["Cookie"] == "blyan-sign-in-1=" + "b" * 43
    assert headers["Origin"] == node.url
    again = await entered(node.url, wallet, tmp_path / "state")
    assert again == who
    assert len(node.signed()) == 1
    kept.chmod(0o644)
    await entered(node.url, wallet, tmp_path / "state")  # a file that others may read is not trusted
    assert len(node.signed()) == 2
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_a_session_that_has_ended_is_begun_anew(node: FakeNode, wallet: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    await entered(node.url, wallet, state)
    kept = json.loads((state / "sign_ins.json").read_text())
    [name] = kept
    (state / "sign_ins.json").write_text(json.dumps({name: {"cookie": "blyan-session-1=" + "t" * 43}, "old": {}}))
    await entered(node.url, wallet, state)
    assert len(node.signed()) == 2
    assert list(json.loads((state / "sign_ins.json").read_text())) == [name]


@pytest.mark.parametrize(
    "message",
    [
        {"origin": parse_origin("https://bank.example.org", "test")},
        {"origin": parse_origin("http://127.0.0.1:1", "test")},
        {"address": Address(new_key(4).address)},
        {"chain_id": 10},
        {"issued_at": NOW - 86_400},
        {"issued_at": NOW + 86_400},
        {"expires_at": NOW + 86_400},
        {"text": lambda text: text.replace("This sends no transaction", "I give everything")},
        {"text": lambda text: text + "\nResources:\n- https://bank.example.org"},
        {"text": lambda _: "0x" + "00" * 32},
        {"text": lambda _: ""},
    ],
)
async def test_a_message_for_somewhere_somebody_or_some_time_else_is_not_signed(
    node: FakeNode, wallet: Path, message: dict[str, Any]
) -> None:
    node.message = message
    with pytest.raises(Denied, match="message to sign"):
        await entered(node.url, wallet)
    assert node.signed() == []


async def test_a_node_of_another_origin_or_without_accounts_is_not_signed_in_to(node: FakeNode, wallet: Path) -> None:
    node.about = {"origin": "https://chat.example.org"}
    with pytest.raises(Denied, match=r"https://chat\.example\.org"):
        await entered(node.url, wallet)
    node.about = {"accounts": False}
    with pytest.raises(Denied, match="free"):
        await entered(node.url, wallet)
    assert {path for path, _, _ in node.asked} == {"/auth/session"}


async def test_nobody_is_followed_to_another_address(node: FakeNode, wallet: Path) -> None:
    node.redirect = "http://127.0.0.1:9/"
    with pytest.raises(PeerFault):
        await entered(node.url, wallet)
    assert len(node.asked) == 1


@pytest.mark.parametrize("url", ["http://chat.example.org", "http://127.0.0.1:80", "https://a.example/path"])
async def test_what_is_no_origin_is_not_signed_in_to(wallet: Path, url: str) -> None:
    with pytest.raises(UsageMistake):
        await entered(url, wallet)


async def test_a_session_of_somebody_else_is_not_taken(node: FakeNode, wallet: Path) -> None:
    node.session = {"address": new_key(4).address}
    with pytest.raises(PeerFault, match="session"):
        await entered(node.url, wallet)
    node.session, node.cookie = {}, "other"
    with pytest.raises(PeerFault, match="session"):
        await entered(node.url, wallet)


async def test_the_chain_is_one_of_the_nodes(node: FakeNode, wallet: Path) -> None:
    node.message = {"chain_id": 10}
    await entered(node.url, wallet, chain_id=10)
    with pytest.raises(InvalidInput, match="--chain-id"):
        await entered(node.url, wallet, chain_id=5)
    node.about = {"chain_ids": []}
    with pytest.raises(InvalidInput, match="--chain-id"):
        await entered(node.url, wallet)


def test_an_api_key_comes_from_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    file = tmp_path / "key"
    text = "sk-blyan-0123456789abcdef-" + "x" * 43
    file.write_text(text + "\n")
    file.chmod(0o640)
    with pytest.raises(Denied):
        key_headers(file)
    file.chmod(0o600)
    who = key_headers(file)
    assert who.headers == {"Authorization": f"Bearer {text}"}
    assert text not in repr(who)
    for bad in (b"sk-other", b"\xff", b"sk-blyan-a b"):
        file.write_bytes(bad)
        with pytest.raises(InvalidInput) as fault:
            key_headers(file)
        assert "sk-other" not in fault.value.message
