"""`/auth`: signing in with a wallet (EIP-4361), signing out, whose session it is, and API keys.

A browser asks for a message, lets the wallet sign it, and sends both back; the cookie of the first answer ties the two
requests together. Where no accounts are configured, `/auth/session` says so and the rest is refused.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from aiohttp import web

from blyan.api import cookies
from blyan.api.body import json_object
from blyan.api.caller import account_of, caller_key
from blyan.api.errors import json_response
from blyan.api.state import node_of
from blyan.auth.api_keys import ApiKey, parse_wish
from blyan.auth.proxies import charged_address
from blyan.auth.sessions import Session
from blyan.node.accounts import Accounts, charge
from blyan.primitives import limits
from blyan.primitives.errors import Denied, InvalidInput


async def nonce(request: web.Request) -> web.Response:
    """The message that this address signs to sign in, good once and for five minutes in this browser."""
    accounts, body = _accounts(request), await _body(request, {"address", "chain_id"})
    await _charge_sign_in(request, accounts)
    begun = await accounts.door.begin(body.get("address"), body.get("chain_id"))
    response = json_response({"message": begun.message.text, "expires_at": begun.message.expires_at})
    cookies.begin_sign_in(response, accounts.origin, begun.secret)
    return response


async def verify(request: web.Request) -> web.Response:
    """A session for a message and its signature; the session that this browser had before is ended."""
    accounts, body = _accounts(request), await _body(request, {"message", "signature"})
    await _charge_sign_in(request, accounts)
    signed = await accounts.door.finish(
        body.get("message"),
        body.get("signature"),
        browser=cookies.sign_in_cookie(request, accounts.origin),
        before=cookies.session_cookie(request, accounts.origin),
    )
    response = json_response(_shown_session(accounts, signed.session))
    seconds = signed.session.ends_at - signed.session.created_at
    cookies.begin_session(response, accounts.origin, signed.secret, seconds)
    return response


async def logout(request: web.Request) -> web.Response:
    """End this browser's session, or with `everywhere` all of its account."""
    accounts, body = _accounts(request), await _body(request, {"everywhere"})
    everywhere = body.get("everywhere", False)
    if type(everywhere) is not bool:
        raise InvalidInput(f"everywhere: expected true or false, found {str(everywhere)[:40]!r}")
    session = request[caller_key].session
    if session is not None and everywhere:
        await accounts.door.sign_out_everywhere(session.account)
    if session is not None:
        await accounts.door.sign_out(cookies.session_cookie(request, accounts.origin))
    response = json_response({"accounts": True, "signed_in": False})
    cookies.end_session(response, accounts.origin)
    return response


async def session(request: web.Request) -> web.Response:
    """Whose session this is; without accounts, that the node is free and open."""
    accounts = node_of(request).accounts
    if accounts is None:
        return json_response({"accounts": False, "signed_in": False})
    caller = request[caller_key]
    if caller.session is not None:
        return json_response(_shown_session(accounts, caller.session))
    open_to = {"origin": accounts.origin.text, "chain_ids": list(accounts.door.chains)}
    if caller.key is not None:
        who = {"account": caller.key.account, "role": caller.role, "key": _shown_key(caller.key)}
        return json_response({"accounts": True, "signed_in": False, **open_to, **who})
    return json_response({"accounts": True, "signed_in": False, **open_to})


async def make_key(request: web.Request) -> web.Response:
    """A new API key; its text is in this answer and never again."""
    accounts, body = _accounts(request), await _body(request, {"name", "scopes", "expires_at"})
    wish = parse_wish(body)
    if "models" in wish.scopes and request[caller_key].role != "operator":
        raise Denied("scopes: expected 'models' for an operator of this node alone, found another account")
    key, text = await accounts.keys.make(account_of(request), wish)
    return json_response({**_shown_key(key), "key": text}, status=201)


async def keys(request: web.Request) -> web.Response:
    """The API keys of this account, without their secrets."""
    accounts = _accounts(request)
    return json_response({"keys": [_shown_key(key) for key in await accounts.keys.all(account_of(request))]})


async def delete_key(request: web.Request) -> web.Response:
    """Delete an API key of this account: it holds no more at once."""
    accounts = _accounts(request)
    await accounts.keys.delete(account_of(request), request.query.get("id"))
    return json_response({"deleted": request.query["id"]})


def _accounts(request: web.Request) -> Accounts:
    accounts = node_of(request).accounts
    if accounts is None:
        raise Denied(
            "accounts: expected a node that has them, found one that is free and open",
            hint="its operator would set accounts.origin",
        )
    return accounts


async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
    body = await json_object(request, bytes_max=limits.small_body_bytes_max)
    unknown = next((name for name in body if name not in known), None)
    if unknown is not None:
        raise InvalidInput(f"body: expected {', '.join(sorted(known))}, found {unknown[:80]!r}")
    return body


async def _charge_sign_in(request: web.Request, accounts: Accounts) -> None:
    address = charged_address(request[caller_key].address)
    quotas = node_of(request).config.quotas
    await accounts.charge(charge("address sign-ins", address, quotas.address_sign_ins))


def _shown_session(accounts: Accounts, session: Session) -> dict[str, Any]:
    return {
        "accounts": True,
        "signed_in": True,
        "origin": accounts.origin.text,
        "chain_ids": list(accounts.door.chains),
        "account": session.account,
        "address": session.address,
        "chain_id": session.chain_id,
        "role": accounts.role(session.account),
        "idle_until": session.idle_until,
        "ends_at": session.ends_at,
    }


def _shown_key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "used_on": None
        if key.used_at is None
        else dt.datetime.fromtimestamp(key.used_at, tz=dt.UTC).date().isoformat(),
    }
