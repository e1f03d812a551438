"""The route table."""

from __future__ import annotations

from aiohttp import web

from blyan.api import blobs, chain, entries, experts, health, ollama, ollama_models, openai, page
from blyan.api.middleware import add_security_headers, faults_as_json, known_host_and_origin
from blyan.api.state import node_key
from blyan.node.node import Node
from blyan.primitives import limits


def build_app(node: Node) -> web.Application:
    """The HTTP application of a node that was started."""
    app = web.Application(
        middlewares=[faults_as_json, known_host_and_origin], client_max_size=limits.request_body_bytes_max
    )
    app[node_key] = node
    app.on_response_prepare.append(add_security_headers)
    app.router.add_post("/v1/chat/completions", openai.chat_completions)
    app.router.add_post("/v1/completions", openai.completions)
    app.router.add_post("/v1/embeddings", openai.embeddings)
    app.router.add_get("/v1/models", openai.models)
    app.router.add_get("/v1/models/{id}", openai.model)
    app.router.add_get("/api/version", ollama.version)
    app.router.add_get("/api/tags", ollama.tags)
    app.router.add_get("/api/ps", ollama.ps)
    app.router.add_post("/api/show", ollama.show)
    app.router.add_post("/api/generate", ollama.generate)
    app.router.add_post("/api/chat", ollama.chat)
    app.router.add_post("/api/embed", ollama.embed)
    app.router.add_post("/api/embeddings", ollama.embeddings)
    app.router.add_post("/api/create", ollama_models.create)
    app.router.add_post("/api/copy", ollama_models.copy)
    app.router.add_delete("/api/delete", ollama_models.delete)
    app.router.add_post("/api/pull", ollama_models.pull)
    app.router.add_post("/api/push", ollama_models.push)
    app.router.add_route("HEAD", "/api/blobs/{digest}", ollama_models.has_blob)
    app.router.add_post("/api/blobs/{digest}", ollama_models.put_blob)
    app.router.add_get("/network/experts", experts.experts)
    app.router.add_get("/chain/joint", chain.joint)
    app.router.add_get("/chain/{name}/checkpoint", chain.checkpoint)
    app.router.add_get("/chain/{name}/tile/{path:.+}", chain.tile)
    app.router.add_get("/chain/{name}/entries", chain.entries)
    app.router.add_get("/chain/{name}/proof", chain.proof)
    app.router.add_get("/chain/{name}/consistency", chain.consistency)
    app.router.add_get("/chain/{name}/find", entries.find)
    app.router.add_get("/entries/{id}", entries.entry)
    app.router.add_get("/blobs/{payload_id}", blobs.blob)
    app.router.add_get("/blobs/{payload_id}/index", blobs.index)
    app.router.add_get("/livez", health.livez)
    app.router.add_get("/readyz", health.readyz)
    page.add_page_routes(app, page.page_folder())
    return app
