"""The route table: every route of a node but the page's files, in the order in which they are matched.

A route that is not listed here does not exist; one that is stands in `/openapi.json` too.
"""

from __future__ import annotations

from typing import Final

from blyan.api import (
    account,
    account_schemas,
    auth,
    auth_schemas,
    blobs,
    chain,
    document,
    entries,
    experts,
    health,
    network,
    network_schemas,
    ollama,
    ollama_models,
    openai,
    payment_schemas,
    payments,
    schemas,
)
from blyan.api.route import Route, auth_post, get, json_of, octets, ollama_post, openai_post, plain
from blyan.api.route import ollama as ollama_route
from blyan.primitives import limits
from blyan.wire import ollama_schema, openai_schema
from blyan.wire.schema import integer, text

_range: Final = ("Range", "If-None-Match", "If-Range")
_unavailable: Final = {503: plain}
_end: Final = integer(0, limits.canonical_integer_max)

_auth: Final = (
    auth_post("/auth/nonce", auth.nonce, auth_schemas.nonce_request, auth_schemas.nonce_answer),
    auth_post("/auth/verify", auth.verify, auth_schemas.verify_request, auth_schemas.session),
    auth_post("/auth/logout", auth.logout, auth_schemas.logout_request, auth_schemas.session),
    get("/auth/session", auth.session, json_of(auth_schemas.session), group="auth"),
    auth_post(
        "/auth/keys", auth.make_key, auth_schemas.key_request, auth_schemas.made_key, access="session", made=True
    ),
    get("/auth/keys", auth.keys, json_of(auth_schemas.keys), group="auth", access="session"),
    Route(
        "DELETE",
        "/auth/keys",
        auth.delete_key,
        {200: json_of(auth_schemas.deleted_key)},
        query={"id": auth_schemas.key_id},
        required=("id",),
        errors=(404,),
        group="auth",
        access="session",
    ),
)

_payments: Final = (
    get("/prices", payments.prices, json_of(payment_schemas.prices), group="payments"),
    Route(
        "POST",
        "/prices",
        payments.new_price,
        {200: json_of(payment_schemas.price)},
        payment_schemas.price_request,
        errors=(404,),
        group="payments",
    ),
    Route(
        "POST",
        "/quotes",
        payments.quote,
        {200: json_of(payment_schemas.quote)},
        payment_schemas.quote_request,
        errors=(404,),
        group="payments",
        access="inference",
    ),
    get(
        "/receipts/{id}",
        payments.receipt,
        json_of(payment_schemas.receipt),
        errors=(404, 409),
        group="payments",
        access="inference",
    ),
)
_account: Final = (
    get("/account", account.balance, json_of(account_schemas.balance), group="account", access="account"),
    get(
        "/account/statement",
        account.entries,
        {**json_of(account_schemas.statement), "text/csv": text()},
        query=account_schemas.statement_query,
        group="account",
        access="account",
    ),
)

_network: Final = (
    get(
        "/network/experts",
        experts.experts,
        json_of(schemas.experts),
        query={"model": text()},
        required=("model",),
        errors=(404,),
        group="network",
    ),
    get("/network/nodes", network.nodes, json_of(network_schemas.nodes), group="network"),
    get(
        "/network/plan",
        network.plan,
        json_of(network_schemas.plan),
        query=network_schemas.plan_query,
        required=("model",),
        errors=(404,),
        group="network",
    ),
    get(
        "/network/moves",
        network.moves,
        json_of(network_schemas.moves),
        query=network_schemas.moves_query,
        errors=(404,),
        group="network",
    ),
    Route(
        "POST",
        "/network/drain",
        network.drain,
        {200: json_of(network_schemas.drained)},
        network_schemas.drain_request,
        errors=(404,),
        group="network",
    ),
)

routes: Final[tuple[Route, ...]] = (
    openai_post("/v1/chat/completions", openai.chat_completions, openai_schema.chat_request, openai_schema.chat_answer),
    openai_post(
        "/v1/completions", openai.completions, openai_schema.completion_request, openai_schema.completion_answer
    ),
    openai_post(
        "/v1/embeddings",
        openai.embeddings,
        openai_schema.embedding_request,
        openai_schema.embedding_answer,
        streams=False,
    ),
    get("/v1/models", openai.models, json_of(openai_schema.model_list), group="openai"),
    get("/v1/models/{id}", openai.model, json_of(openai_schema.model_card), errors=(404,), group="openai"),
    get("/api/version", ollama.version, json_of(ollama_schema.version), group="ollama"),
    get("/api/tags", ollama.tags, json_of(ollama_schema.cards), group="ollama"),
    get("/api/ps", ollama.ps, json_of(ollama_schema.cards), group="ollama"),
    ollama_post("/api/show", ollama.show, ollama_schema.named, ollama_schema.shown),
    ollama_post(
        "/api/generate",
        ollama.generate,
        ollama_schema.generate_request,
        ollama_schema.generate_answer,
        streams=True,
    ),
    ollama_post("/api/chat", ollama.chat, ollama_schema.chat_request, ollama_schema.chat_answer, streams=True),
    ollama_post("/api/embed", ollama.embed, ollama_schema.embed_request, ollama_schema.embed_answer),
    ollama_post(
        "/api/embeddings", ollama.embeddings, ollama_schema.embeddings_request, ollama_schema.embeddings_answer
    ),
    ollama_post("/api/create", ollama_models.create, streams=True, access="models"),
    ollama_post("/api/copy", ollama_models.copy, access="models"),
    ollama_route("DELETE", "/api/delete", ollama_models.delete),
    ollama_post("/api/pull", ollama_models.pull, streams=True, access="models"),
    ollama_post("/api/push", ollama_models.push, access="models"),
    ollama_route("HEAD", "/api/blobs/{digest}", ollama_models.has_blob),
    ollama_route("POST", "/api/blobs/{digest}", ollama_models.put_blob),
    *_network,
    get("/chain/joint", chain.joint, json_of(schemas.joint), errors=(404,), group="chain"),
    get("/chain/{name}/checkpoint", chain.checkpoint, plain, errors=(404,), group="chain"),
    get(
        "/chain/{name}/tile/{path:.+}",
        chain.tile,
        octets,
        headers=_range,
        more={206: octets, 304: {}, 416: {}},
        errors=(404,),
        group="chain",
    ),
    get(
        "/chain/{name}/entries",
        chain.entries,
        json_of(schemas.entries),
        query={"from": _end, "to": _end},
        errors=(404,),
        group="chain",
    ),
    get(
        "/chain/{name}/proof",
        chain.proof,
        json_of(schemas.proof),
        query={"index": _end, "size": _end},
        required=("index",),
        errors=(404,),
        group="chain",
    ),
    get(
        "/chain/{name}/consistency",
        chain.consistency,
        json_of(schemas.consistency),
        query={"from": _end, "to": _end},
        required=("from",),
        errors=(404,),
        group="chain",
    ),
    get(
        "/chain/{name}/find",
        entries.find,
        json_of(schemas.found_list),
        query=schemas.find_query,
        errors=(404,),
        group="chain",
    ),
    get("/entries/{id}", entries.entry, json_of(schemas.found), errors=(404,), group="chain"),
    get(
        "/blobs/{payload_id}",
        blobs.blob,
        octets,
        more={206: octets, 304: {}, 416: {}},
        headers=_range,
        errors=(404,),
        group="blobs",
    ),
    get("/blobs/{payload_id}/index", blobs.index, octets, errors=(404,), group="blobs"),
    *_auth,
    *_payments,
    *_account,
    get("/livez", health.livez, plain, group="health"),
    get(
        "/readyz",
        health.readyz,
        {**plain, **json_of(schemas.ready)},
        more={503: {**plain, **json_of(schemas.ready)}},
        query=schemas.ready_query,
        group="health",
    ),
    get("/openapi.json", document.openapi, json_of(schemas.openapi)),
)
