"""Signing in, sessions, API keys, roles and quotas, through a real socket and with real keys."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from accounts import ORIGIN, PROMPT, SOURCES, Browser, Nodes, code_of
from blyan.api.app import access_of
from blyan.api.routes import routes
from nodes import serving_with
from wallets import new_key, sign


async def test_from_a_wallet_to_an_answer_and_out_again(nodes: Nodes) -> None:
    browser = Browser(await nodes.start())
    before = await (await browser.ask("GET", "/auth/session")).json()
    assert before == {"accounts": True, "signed_in": False, "origin": ORIGIN, "chain_ids": [1]}
    assert await code_of(await browser.ask("POST", "/v1/completions", PROMPT)) == (401, "unauthenticated")
    signed = await browser.sign_in(new_key())
    assert (new_key().address, "user") == (signed["account"], signed["role"])
    assert signed == await (await browser.ask("GET", "/auth/session")).json()
    assert (await browser.ask("POST", "/v1/completions", PROMPT)).status == 200
    assert (await browser.ask("POST", "/auth/logout", {})).status == 200
    assert browser.cookies == {}
    assert await code_of(await browser.ask("POST", "/v1/completions", PROMPT)) == (401, "unauthenticated")


async def test_a_key_is_shown_once_and_does_what_its_scopes_say(nodes: Nodes) -> None:
    client = await nodes.start()
    browser, program = Browser(client), Browser(client)
    await browser.sign_in(new_key())
    made = await browser.ask("POST", "/auth/keys", {"name": "laptop"})
    key = await made.json()
    shown = {"Authorization": f"Bearer {key['key']}"}
    assert (made.status, key["scopes"]) == (201, ["inference"])
    assert (await program.ask("POST", "/v1/completions", PROMPT, **shown)).status == 200
    for method, path, body in (("POST", "/auth/keys", {"name": "x"}), ("GET", "/auth/keys", None)):
        assert await code_of(await program.ask(method, path, body, **shown)) == (403, "denied")
    assert "sk-blyan" not in await (await browser.ask("GET", "/auth/keys")).text()
    account = await (await browser.ask("POST", "/auth/keys", {"name": "books", "scopes": ["account"]})).json()
    narrow = {"Authorization": f"Bearer {account['key']}"}
    assert await code_of(await program.ask("POST", "/v1/completions", PROMPT, **narrow)) == (403, "denied")
    assert (await browser.ask("DELETE", f"/auth/keys?id={key['id']}")).status == 200
    assert await code_of(await browser.ask("DELETE", f"/auth/keys?id={key['id']}")) == (404, "not_found")
    for path in ("/v1/completions", "/v1/models"):  # also where none is needed: whoever shows one means it
        method = "POST" if path.endswith("completions") else "GET"
        assert await code_of(await program.ask(method, path, PROMPT, **shown)) == (401, "unauthenticated")


@pytest.mark.parametrize("shown", ["", "Basic abc", "sk-blyan-x", "Bearer", "Bearer \u00e9", "Bearer sk-" + "a" * 300])
async def test_what_is_no_key_is_refused(nodes: Nodes, shown: str) -> None:
    response = await Browser(await nodes.start()).ask("POST", "/v1/completions", PROMPT, Authorization=shown)
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="blyan"')


async def test_every_route_that_is_not_public_refuses_strangers(nodes: Nodes) -> None:
    """And which are public is said here, so that a new route is not by accident."""
    access = access_of(routes)
    public = {
        f"{method} {path}" for (method, path), needed in access.items() if needed == "public" and method != "HEAD"
    }
    assert {each for each in public if not each.startswith(("GET ", "HEAD "))} == {
        "POST /auth/nonce",
        "POST /auth/verify",
        "POST /auth/logout",
    }
    client = await nodes.start()
    for (method, path), needed in access.items():
        if needed != "public":
            named = path.replace("{digest}", "sha256:" + "0" * 64).replace("{id}", "0" * 32)
            response = await client.request(method, named, json={})
            assert response.status == 401, (method, path)


async def test_a_route_that_does_not_say_what_it_needs_is_for_operators() -> None:
    from blyan.api.route import Route

    async def handler(request: Any) -> Any: ...

    assert Route("GET", "/new", handler, {}).access == "models"


async def test_without_accounts_a_node_is_open_and_says_so(installed: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(shutil.copytree, installed, tmp_path / "data")
    async with serving_with(SOURCES, tmp_path / "data") as client:
        browser = Browser(client, str(client.make_url("/"))[:-1])
        session = await (await browser.ask("GET", "/auth/session")).json()
        assert session == {"accounts": False, "signed_in": False}
        assert (await browser.ask("POST", "/v1/completions", PROMPT, Authorization="Bearer anything")).status == 200
        for path in ("/auth/nonce", "/auth/verify", "/auth/logout", "/auth/keys"):
            assert await code_of(await browser.ask("POST", path, {})) == (403, "denied")
        assert not (tmp_path / "data/accounts.db").exists()


async def test_fifty_at_once_have_one_session(nodes: Nodes) -> None:
    client = await nodes.start(quotas={"address_sign_ins": 1_000})
    browser = Browser(client)
    message = await browser.message(new_key().address)
    body = {"message": message, "signature": sign(new_key(), message)}
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    answers = await asyncio.gather(*(client.post("/auth/verify", json=body, headers=headers) for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 49


async def test_a_signature_sent_by_another_browser_signs_nobody_in(nodes: Nodes) -> None:
    """Login CSRF: the victim's browser sends what the attacker signed."""
    client = await nodes.start()
    attacker, victim = Browser(client), Browser(client)
    message = await attacker.message(new_key(666).address)
    await victim.message(new_key().address)
    body = {"message": message, "signature": sign(new_key(666), message)}
    response = await victim.ask("POST", "/auth/verify", body)
    assert await code_of(response) == (401, "unauthenticated")
    assert not any("session" in name for name in victim.cookies)


async def test_a_planted_session_is_not_the_one_after_the_sign_in(nodes: Nodes) -> None:
    """Fixation: the attacker's own session, and a made-up one."""
    client = await nodes.start()
    attacker, victim = Browser(client), Browser(client)
    await attacker.sign_in(new_key(666))
    planted = dict(attacker.cookies)
    victim.cookies |= planted
    signed = await victim.sign_in(new_key())
    assert new_key().address == signed["account"]
    assert planted.items().isdisjoint(victim.cookies.items())
    attacker.cookies = planted
    assert not (await (await attacker.ask("GET", "/auth/session")).json())["signed_in"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "", "Sec-Fetch-Site": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8645"},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "", "Sec-Fetch-Site": "same-site"},
        {"Origin": "", "Sec-Fetch-Site": "none", "Content-Type": "text/plain"},
    ],
)
async def test_the_cookie_does_nothing_for_another_site(nodes: Nodes, headers: dict[str, str]) -> None:
    browser = Browser(await nodes.start())
    await browser.sign_in(new_key())
    response = await browser.ask("POST", "/auth/keys", {"name": "theirs"}, **headers)
    assert response.status in (401, 403)
    assert (await (await browser.ask("GET", "/auth/keys")).json())["keys"] == []


async def test_another_sites_page_reads_nothing_with_the_cookie(nodes: Nodes) -> None:
    browser = Browser(await nodes.start())
    await browser.sign_in(new_key())
    for site, status in (("cross-site", 401), ("same-site", 401), ("same-origin", 200), ("none", 200)):
        assert status == (await browser.ask("GET", "/auth/keys", Sec_Fetch_Site=site)).status, site


async def test_two_cookies_of_one_name_are_none(nodes: Nodes) -> None:
    """Another program of this machine may set cookies for 127.0.0.1 too."""
    browser = Browser(await nodes.start())
    await browser.sign_in(new_key())
    [(name, value)] = browser.cookies.items()
    assert (await browser.ask("GET", "/auth/keys", Cookie=f"{name}={value}; {name}={'x' * 43}")).status == 401


@pytest.mark.parametrize(
    ("origin", "begins", "secure"),
    [(ORIGIN, "blyan-session-8645=", False), ("https://chat.example.org", "__Host-blyan-session=", True)],
)
async def test_cookies_are_as_strict_as_the_origin_allows(nodes: Nodes, origin: str, begins: str, secure: bool) -> None:
    client = await nodes.start(origin=origin)
    browser = Browser(client, origin)
    host = origin.partition("//")[2]
    for path, body in (("/auth/nonce", {"address": new_key().address, "chain_id": 1}),):
        message = (await (await browser.ask("POST", path, body, Host=host)).json())["message"]
    body = {"message": message, "signature": sign(new_key(), message)}
    assert (await browser.ask("POST", "/auth/verify", body, Host=host)).status == 200
    [line] = [line for line in browser.set if line.startswith(begins)]
    words = {word.strip() for word in line.split(";")[1:]}
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= words
    assert secure == ("Secure" in words)
    assert not any(word.startswith("Domain") for word in words)


async def test_operators_change_models_and_nobody_else(nodes: Nodes) -> None:
    client = await nodes.start(operators=[new_key(5).address.lower()])
    user, operator = Browser(client), Browser(client)
    await user.sign_in(new_key())
    assert (await operator.sign_in(new_key(5)))["role"] == "operator"
    copied = {"source": "random", "destination": "copied"}
    assert (await user.ask("POST", "/api/copy", copied)).status == 403
    wish = {"name": "x", "scopes": ["models"]}
    assert await code_of(await user.ask("POST", "/auth/keys", wish)) == (403, "denied")
    assert (await operator.ask("POST", "/api/copy", copied)).status == 200
    key = await (await operator.ask("POST", "/auth/keys", wish)).json()
    shown = {"Authorization": f"Bearer {key['key']}"}
    assert (await Browser(client).ask("DELETE", "/api/delete", {"model": "copied"}, **shown)).status == 200
    narrow = await (await operator.ask("POST", "/auth/keys", {"name": "y"})).json()
    shown = {"Authorization": f"Bearer {narrow['key']}"}
    assert (await Browser(client).ask("POST", "/api/copy", copied, **shown)).status == 403


@pytest.mark.parametrize(("trusted", "statuses"), [([], [200, 200, 429]), (["127.0.0.1"], [200, 200, 200])])
async def test_forwarding_headers_count_from_trusted_proxies_alone(
    nodes: Nodes, trusted: list[str], statuses: list[int]
) -> None:
    client = await nodes.start(quotas={"address_sign_ins": 2}, http={"trusted_proxies": trusted})
    body = {"address": new_key().address, "chain_id": 1}
    spoofed = [{"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": "for=1.2.3.4"} for number in range(3)]
    found = [(await client.post("/auth/nonce", json=body, headers=headers)).status for headers in spoofed]
    assert statuses == found


async def test_tokens_are_counted_and_what_was_not_written_is_given_back(nodes: Nodes) -> None:
    """Three tokens of prompt and two of answer; fifty are asked for where sixty are allowed."""
    browser = Browser(await nodes.start(quotas={"account_tokens": 60}))
    await browser.sign_in(new_key())
    for _ in range(3):
        assert (await browser.ask("POST", "/v1/completions", PROMPT)).status == 200
    response = await browser.ask("POST", "/v1/completions", {**PROMPT, "max_tokens": 57})
    assert await code_of(response) == (429, "rate_limited")
    assert int(response.headers["Retry-After"]) in range(10, 20)
    assert (await browser.ask("POST", "/v1/completions", {**PROMPT, "max_tokens": 30})).status == 200


@pytest.mark.parametrize("shown", ["Bearer sk-blyan-guess", "Basic Zm9v"])
async def test_who_tries_keys_is_counted_by_address(nodes: Nodes, shown: str) -> None:
    """Refused requests cost as much as others."""
    client = await nodes.start(quotas={"address_requests": 3})
    headers = {"Host": ORIGIN.partition("//")[2], "Authorization": shown}
    statuses = [(await client.get("/v1/models", headers=headers)).status for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


@pytest.mark.parametrize("quota", ["address_requests", "account_requests", "key_requests"])
async def test_requests_are_counted_by_address_account_and_key(nodes: Nodes, quota: str) -> None:
    client = await nodes.start(quotas={quota: 6})
    browser = Browser(client)
    await browser.sign_in(new_key())
    key = await (await browser.ask("POST", "/auth/keys", {"name": "x"})).json()
    shown = {"Authorization": f"Bearer {key['key']}"}
    statuses = [(await Browser(client).ask("GET", "/api/tags", **shown)).status for _ in range(8)]
    assert ({200, 429}, 429) == (set(statuses), statuses[-1])
    assert (await client.get("/livez")).status == 200


async def test_a_refused_ollama_client_reads_its_own_kind_of_error(nodes: Nodes) -> None:
    client = await nodes.start()
    body = await (await client.post("/api/generate", json={"model": "random", "prompt": "a"})).json()
    assert list(body) == ["error"]
    assert body["error"].startswith("sign-in: expected")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/auth/nonce", {}),
        ("/auth/nonce", {"address": "0x", "chain_id": 1}),
        ("/auth/nonce", {"address": new_key().address, "chain_id": 5}),
        ("/auth/nonce", {"address": new_key().address, "chain_id": 1, "domain": "evil.example"}),
        ("/auth/verify", {"message": 5, "signature": "0x"}),
        ("/auth/verify", {"message": "x", "signature": 5}),
        ("/auth/logout", {"everywhere": "yes"}),
    ],
)
async def test_what_does_not_fit_is_refused_and_changes_nothing(nodes: Nodes, path: str, body: object) -> None:
    response = await Browser(await nodes.start()).ask("POST", path, body)
    assert await code_of(response) == (400, "invalid_input")


async def test_who_signs_out_everywhere_is_out_in_every_browser(nodes: Nodes) -> None:
    client = await nodes.start()
    first, second = Browser(client), Browser(client)
    await first.sign_in(new_key())
    await second.sign_in(new_key())
    await first.ask("POST", "/auth/logout", {"everywhere": True})
    assert not (await (await second.ask("GET", "/auth/session")).json())["signed_in"]


async def test_no_secret_is_logged(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    """Cookies, keys, signatures, messages, addresses: at the level that says most."""
    caplog.set_level(logging.DEBUG)
    client = await nodes.start()
    browser = Browser(client)
    message = await browser.message(new_key().address)
    signature = sign(new_key(), message)
    secrets = [*browser.cookies.values(), signature[2:], message.partition("Nonce: ")[2][:32]]
    await browser.ask("POST", "/auth/verify", {"message": message, "signature": signature})
    secrets += browser.cookies.values()
    key = await (await browser.ask("POST", "/auth/keys", {"name": "x"})).json()
    secrets += [key["key"][-43:], key["key"]]
    await browser.ask("POST", "/v1/completions", PROMPT, Authorization=f"Bearer {key['key']}")
    await browser.ask("POST", "/v1/completions", PROMPT, Authorization=f"Bearer {key['key']}x")
    await browser.ask("POST", "/auth/verify", {"message": message, "signature": signature})
    written = "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    assert "/auth/verify" in written
    assert [secret for secret in [*secrets, new_key().address] if secret in written] == []
