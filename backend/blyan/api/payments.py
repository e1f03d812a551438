"""What answers cost: `GET|POST /prices`, `POST /quotes`, `GET /receipts/{id}`."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from blyan.api.body import json_object
from blyan.api.caller import account_of
from blyan.api.chat import model_named
from blyan.api.errors import json_response
from blyan.api.metering import tariff_for
from blyan.api.openai import chat_prompt_of, completion_prompt
from blyan.api.state import node_of
from blyan.inference.receipt import SignedReceipt, parse, receipt_id
from blyan.model.loading import LoadedModel
from blyan.node.node import Node
from blyan.node.pricing import set_price
from blyan.node.receipt_proofs import prove
from blyan.node.receipts import Row
from blyan.payments.prices import Tariff, bill, price_of_texts, shown_amount, shown_price, tariffs
from blyan.payments.quotes import Quote, quote_seconds
from blyan.primitives import limits
from blyan.primitives.amount import USD, asset
from blyan.primitives.errors import ContextLengthExceeded, InvalidInput, NotFound, NotYet
from blyan.primitives.model_name import canonical_name
from blyan.wire.fields import blaming, brief, integer, naming_parameter
from blyan.wire.openai import parse_chat

_soon = "ask again in some seconds: the books are sealed a moment after they are written"
_open_node = "this node has no accounts: it is free for whoever reaches it"


async def prices(request: web.Request) -> web.Response:
    """What every model of the chain costs, as its entries say, whoever may be charged here."""
    found = tariffs(node_of(request).ground.chains.state.parameters)
    return json_response({"prices": [_card(each) for each in found]})


async def new_price(request: web.Request) -> web.Response:
    """Set the price of a model, in USD for a million tokens."""
    node, body = node_of(request), await json_object(request, bytes_max=limits.small_body_bytes_max)
    with naming_parameter():
        _want_known(body, {"model", "prompt_per_million", "completion_per_million"})
        texts = [_text(body, f"{what}_per_million") for what in ("prompt", "completion")]
        name = canonical_name(_text(body, "model"))
        price = price_of_texts(USD.code, *texts)

    def set_it() -> Tariff:
        with node.changing() as ground:
            return set_price(ground, name, price)

    return json_response(_card(await asyncio.to_thread(set_it)))


async def quote(request: web.Request) -> web.Response:
    """What an answer may cost at most, and a name by which its price holds for a while."""
    node, body = node_of(request), await json_object(request)
    with naming_parameter():
        _want_known(body, {"model", "messages", "prompt", "prompt_tokens", "max_tokens"})
        name = _text(body, "model")
        tokens_max = integer(body, "max_tokens", 1, limits.canonical_integer_max)
    model = await model_named(node, name)
    if node.accounts is None:
        return json_response({"free": True, "model": model.name, "why": _open_node})
    account = account_of(request)
    if node.charges is not None:
        await node.charges.welcome(account)
    prompt = await asyncio.to_thread(_prompt_tokens, node, model, body)
    room = model.manifest.config.context_length - prompt
    most = model.manifest.defaults.tokens_limit(tokens_max, prompt, model.manifest.config.context_length)
    completion = max(0, room if most is None else min(most, room))
    found = tariff_for(node, account, model.name, None)
    if found is None or found.price.free:
        return json_response({"free": True, "model": model.name, "why": f"model {model.name} has no price here"})
    given = Quote(account, found, node.sources.now() + quote_seconds)
    return json_response(
        {
            "id": given.signed(node.ground.key),
            "model": model.name,
            "asset": found.price.asset,
            "scale": asset(found.price.asset).scale,
            "price": shown_price(found.price),
            "prompt_tokens": prompt,
            "max_tokens": completion,
            "amount_max": shown_amount(bill(found.price, prompt, completion).paid, found.price.asset)["amount"],
            "expires": given.expires,
        }
    )


async def receipt(request: web.Request) -> web.Response:
    """A receipt as a file, for the account that paid."""
    node, account = node_of(request), account_of(request)
    if node.charges is None or node.books is None:
        raise NotFound("receipt: expected a node with accounts, found one without: it charges nothing")
    row = await node.charges.receipt(account, receipt_id(request.match_info["id"]))
    signed, chains = _settled(row), node.ground.chains
    promised = chains.joint.ledger_root
    if promised is None or promised.size <= (signed.receipt.record or 0):
        sealed = promised.size if promised else 0
        raise NotYet(
            f"receipt {row.id}: expected record {signed.receipt.record} sealed, found {sealed} sealed records",
            hint=_soon,
        )
    raw = await node.books.read(lambda session: prove(signed, session, chains).encode())
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="receipt-{row.id}.json"'}
    return web.Response(body=raw, content_type="application/json", headers=headers)


def _settled(row: Row) -> SignedReceipt:
    if row.state == "lost":
        raise NotFound(f"receipt {row.id}: expected a settlement, found that the hold was over: nothing was charged")
    if row.state == "open":
        raise NotYet(f"receipt {row.id}: expected it settled, found the books still asked", hint=_soon)
    return parse(row.body)


def _card(found: Tariff) -> dict[str, Any]:
    return {"model": found.model, "asset": found.price.asset, **shown_price(found.price), "entry": found.entry}


def _prompt_tokens(node: Node, model: LoadedModel, body: dict[str, Any]) -> int:
    """How many tokens the prompt has that is asked about, in one of three ways."""
    ways = [name for name in ("messages", "prompt", "prompt_tokens") if body.get(name) is not None]
    with naming_parameter():
        if len(ways) != 1:
            raise InvalidInput(f"messages: expected these, a prompt or prompt_tokens, found {ways or 'none of them'}")
        longest = model.manifest.config.context_length
        if ways == ["prompt_tokens"]:
            return integer(body, "prompt_tokens", 1, longest) or 1
    if ways == ["prompt"]:
        with blaming("prompt"):
            return _want_fit(len(completion_prompt(model, _text(body, "prompt"))), longest)
    asked = parse_chat({"model": model.name, "messages": body["messages"]})
    with blaming("messages"):
        return _want_fit(len(chat_prompt_of(node, model, asked)[0]), longest)


def _want_fit(tokens: int, longest: int) -> int:
    """No price is named for what is never answered."""
    if not tokens:
        raise InvalidInput("prompt: expected at least one token, found none")
    if tokens > longest:
        raise ContextLengthExceeded(
            f"context: expected at most {longest} tokens, found {tokens} in the prompt",
            detail={"context_length": longest, "prompt_tokens": tokens},
        )
    return tokens


def _want_known(body: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(body) - known)
    if unknown:
        raise InvalidInput(f"{unknown[0][:80]}: expected one of {', '.join(sorted(known))}, found another field")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: expected text, found {brief(value)}")
    return value
