"""The page: static files, from the wheel or from the checkout's `frontend/`.

Only files that exist at start are served, by exact path: no directory is listed and nothing else is reachable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from blyan.api.route import Contents, Route, get
from blyan.primitives.errors import NotFound

_conditional: Final = ("If-None-Match", "Range")
_types: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


def page_folder() -> Path:
    """Where the page's files lie."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_web", package.parents[1] / "frontend"):
        if (folder / "index.html").is_file():
            return folder
    raise NotFound(f"page: expected index.html in {package / '_web'}, found none", hint="install the package again")


def page_routes(folder: Path) -> list[Route]:
    """One GET route per file; `/` is index.html."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in _types and path.is_file()]
    found = [("/" + path.relative_to(folder).as_posix(), path) for path in files]
    return [_route(address, path) for address, path in [*found, ("/", folder / "index.html")]]


def _route(address: str, path: Path) -> Route:
    kind = _types[path.suffix]
    contents = {kind: {"type": "string"}}
    more: dict[int, Contents] = {206: contents, 304: {}, 416: {}}
    return get(address, _serve(path, kind), contents, more=more, headers=_conditional, group="page")


def _serve(path: Path, kind: str):
    async def handler(_: web.Request) -> web.FileResponse:
        """A file of the page."""
        # a page of an older version must never talk to a newer node: ask each time, answer 304 from the ETag
        return web.FileResponse(path, headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"})

    return handler
