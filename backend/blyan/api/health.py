"""`GET /livez` and `/readyz`: is the process alive, can it serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from blyan.api.errors import json_response
from blyan.api.state import node_of
from blyan.api.traffic import traffic_key
from blyan.primitives.errors import Fault, InvalidInput


async def livez(_: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})


async def readyz(request: web.Request) -> web.Response:
    """200 if every check passes, else 503; `verbose` lists them, `exclude=NAME` leaves one out."""
    checks: dict[str, Callable[[], None]] = {
        "models": node_of(request).ready,
        "shutdown": request.app[traffic_key].want_open,
    }
    books = node_of(request).books
    if books is not None:
        checks["books"] = books.want_answers
    excluded = set(request.query.getall("exclude", []))
    if not excluded <= set(checks):
        raise InvalidInput(f"exclude: expected some of {sorted(checks)}, found {sorted(excluded)}")
    failed: dict[str, str] = {}
    for name, check in checks.items():
        if name not in excluded:
            try:
                check()
            except Fault as reason:
                failed[name] = reason.message
    status = 503 if failed else 200
    if "verbose" in request.query:
        report: dict[str, Any] = {name: "excluded" if name in excluded else failed.get(name, "ok") for name in checks}
        found = list(node_of(request).ground.found)  # by the start, after an unclean end
        return json_response({"ready": not failed, "checks": report, "found_at_start": found}, status=status)
    text = "".join(f"{name}: {why}\n" for name, why in failed.items()) or "ok\n"
    return web.Response(text=text, status=status, headers={"Cache-Control": "no-store"})
