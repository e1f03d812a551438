"""One GET of a node on this machine, for commands that ask whether it is well: no event loop, a deadline, a limit."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

from blyan.primitives import limits

_seconds: Final = 2.0


def get(url: str, path: str, *, bytes_max: int = limits.MIB) -> tuple[int | None, str]:
    """Status and body, cut at `bytes_max`; no status where nobody answers in two seconds."""
    parts = urlsplit(url)
    try:
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_seconds)
    except ValueError:  # a port that is none
        return None, ""
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(bytes_max).decode("utf-8", "replace")
    except (OSError, HTTPException, ValueError):
        return None, ""
    finally:
        connection.close()
