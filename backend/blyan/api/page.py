"""The page: static files, from the wheel or from the checkout's `frontend/`, read once at start.

Only files that exist at start are served, by exact path: no directory is listed and nothing else is reachable. Comments
that have lines of their own and notes of types stay behind, and what a browser takes compressed goes out so.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path
from typing import Final

from aiohttp import web

from blyan.api.route import Contents, Route, get
from blyan.primitives.errors import NotFound

_conditional: Final = ("If-None-Match",)
_comments: Final = re.compile(
    rb"^[ \t]*(?:/\*(?:(?!\*/).)*\*/[ \t]*\n|//[^\n]*\n)|/\*\* @(?:type|param) \{[^\n]*?\*/ ?", re.DOTALL | re.MULTILINE
)
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


def asset(path: Path) -> bytes:
    """A file as it is served: scripts and styles without types and comments with lines of their own."""
    raw = path.read_bytes()
    return _comments.sub(b"", raw) if path.suffix in {".js", ".css"} and "vendor" not in path.parts else raw


def _route(address: str, path: Path) -> Route:
    kind = _types[path.suffix]
    contents = {kind: {"type": "string"}}
    more: dict[int, Contents] = {304: {}}
    return get(address, _serve(asset(path), kind), contents, more=more, headers=_conditional, group="page")


def _serve(body: bytes, kind: str):
    packed = gzip.compress(body, 9, mtime=0)
    # two encodings of one file are two answers to a cache
    tags = {encoding: f'"{hashlib.sha256(body).hexdigest()[:32]}{encoding}"' for encoding in ("", "-gzip")}

    async def handler(request: web.Request) -> web.Response:
        """A file of the page."""
        takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        tag = tags["-gzip" if takes_gzip else ""]
        # a page of an older version must never talk to a newer node: ask each time, answer 304 from the ETag
        headers = {"Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = f"{kind}; charset=utf-8"
        if takes_gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=packed if takes_gzip else body, headers=headers)

    return handler
