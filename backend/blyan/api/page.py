"""The page: static files, from the wheel or from the checkout's `frontend/`.

Only files that exist at start are served, by exact path: no directory is listed and nothing else is reachable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from blyan.primitives.errors import NotFound

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


def add_page_routes(app: web.Application, folder: Path) -> None:
    """One GET route per file; `/` is index.html."""
    for path in sorted(folder.rglob("*")):
        kind = _types.get(path.suffix)
        if kind is not None and path.is_file():
            app.router.add_get("/" + path.relative_to(folder).as_posix(), _serve(path, kind))
    app.router.add_get("/", _serve(folder / "index.html", "text/html"))


def _serve(path: Path, kind: str):
    async def handler(_: web.Request) -> web.FileResponse:
        # a page of an older version must never talk to a newer node: ask each time, answer 304 from the ETag
        return web.FileResponse(path, headers={"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"})

    return handler
