"""The page: static files, from the wheel or from the checkout's `frontend/`, read and packed once at start.

Only files that exist at start are served, by exact path: no directory is listed and nothing else is reachable. `/` is
the page in packs (see `packing`), and `/source/` the same page module by module, as people write it. Libraries go out
as they came, and what a browser takes compressed goes out so.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from aiohttp import web

from blyan.api.packing import minified, pack_scripts, pack_styles
from blyan.api.route import Contents, Route, get
from blyan.primitives.errors import NotFound

_conditional: Final = ("If-None-Match",)
_source: Final = "source"
_types: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_own: Final = frozenset({".html", ".js", ".css"})
# The splash and its worker belong to the page in packs: a worker stands for every address below its own.
_packed_alone: Final = frozenset({"worker.js", "offline.js", "offline.html"})
_minifier_types: Final = _types | {".js": "application/javascript"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it goes out."""

    address: str
    kind: str  # media type
    body: bytes
    packed: bytes  # the same, by gzip


def page_folder() -> Path:
    """Where the page's files lie."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_web", package.parents[1] / "frontend"):
        if (folder / "index.html").is_file():
            return folder
    raise NotFound(f"page: expected index.html in {package / '_web'}, found none", hint="install the package again")


def page_routes(folder: Path) -> list[Route]:
    """One GET route per file; `/` is index.html."""
    return [_route(asset) for asset in assets(folder)]


@cache
def assets(folder: Path) -> tuple[Asset, ...]:
    """What is served: own files in packs and once more as their source, libraries, the sign."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    texts = {name: path.read_text("utf-8") for name, path in files.items() if "/" not in name and path.suffix in _own}
    names = "|".join(re.escape(name) for name in texts.keys() - _packed_alone)
    ours = re.compile(rf'"/({names})"')
    bodies = {name: path.read_bytes() for name, path in files.items() if name not in texts and path.suffix in _types}
    bodies |= {name: text.encode() for name, text in _packed(folder, texts).items()}
    bodies |= {
        f"{_source}/{name}": ours.sub(rf'"/{_source}/\1"', text).encode()
        for name, text in texts.items()
        if name not in _packed_alone
    }
    for name in ("", f"{_source}/"):
        bodies[name] = bodies[f"{name}index.html"]
    return tuple(_asset(name, body) for name, body in sorted(bodies.items()))


def _packed(folder: Path, texts: Mapping[str, str]) -> dict[str, str]:
    whole = pack_scripts(folder) | pack_styles(folder)
    whole |= {name: text for name, text in texts.items() if name.endswith(".html")}
    return minified({name: (_minifier_types[Path(name).suffix], text) for name, text in whole.items()})


def _asset(name: str, body: bytes) -> Asset:
    kind = _types[Path(name).suffix or ".html"]
    return Asset(f"/{name}", kind, body, gzip.compress(body, 9, mtime=0))


def _route(asset: Asset) -> Route:
    contents = {asset.kind: {"type": "string"}}
    more: dict[int, Contents] = {304: {}}
    return get(asset.address, _serve(asset), contents, more=more, headers=_conditional, group="page")


def _serve(asset: Asset):
    # two encodings of one file are two answers to a cache
    digest = hashlib.sha256(asset.body).hexdigest()[:32]
    tags = {encoding: f'"{digest}{encoding}"' for encoding in ("", "-gzip")}

    async def handler(request: web.Request) -> web.Response:
        """A file of the page."""
        takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        tag = tags["-gzip" if takes_gzip else ""]
        # a page of an older version must never talk to a newer node: ask each time, answer 304 from the ETag
        headers = {"Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}
        if tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = f"{asset.kind}; charset=utf-8"
        if takes_gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=asset.packed if takes_gzip else asset.body, headers=headers)

    return handler
