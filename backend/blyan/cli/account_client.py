"""Asking another node about one's own account, with an API key: deadline, limit on the answer, no redirect followed."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from blyan.primitives import limits
from blyan.primitives.errors import Denied, Fault, InvalidInput, NotFound, PeerFault, kind_of
from blyan.storage import durable
from blyan.wire.fields import as_dict, as_list

_seconds: Final = 30.0
_key_bytes_max: Final = 200


@dataclass(frozen=True, slots=True)
class Remote:
    """A node, and the key that says whose account is meant."""

    url: str
    key: str


def read_key(path: Path) -> str:
    """The API key in a file; `Denied` if others may read it."""
    try:
        mode = path.stat().st_mode & 0o777
        raw = durable.read_limited(path, _key_bytes_max)
    except FileNotFoundError:
        raise NotFound(f"--api-key-file: expected {path}, found none") from None
    except ValueError as reason:
        raise InvalidInput(f"--api-key-file: expected an API key in {path}, found {reason}") from None
    if mode & 0o077:
        raise Denied(
            f"{path}: expected a mode that lets nobody else read it, found {mode:04o}", hint=f"chmod 600 {path}"
        )
    text = raw.decode("ascii", "replace").strip()
    if not text.startswith("sk-") or not text.isprintable() or " " in text:
        raise InvalidInput(f"--api-key-file: expected an API key, sk-blyan-…, in {path}, found something else")
    return text


def get(
    node: Remote,
    path: str,
    fields: frozenset[str],
    rows: str,
    row_fields: frozenset[str],
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the node answers: an object with these fields, of which `rows` is a list of objects with those."""
    try:
        found: object = json.loads("".join(pieces(node, path, query)))
    except (ValueError, RecursionError):
        found = None
    value = as_dict(found) or {}
    listed = [as_dict(each) or {} for each in as_list(value.get(rows)) or []]
    if not fields <= value.keys() or not all(row_fields <= each.keys() for each in listed):
        raise PeerFault(f"node {node.url}: expected {', '.join(sorted(fields))} for {path}, found something else")
    return value


def pieces(node: Remote, path: str, query: Mapping[str, str] | None = None) -> Iterator[str]:
    """The text of an answer as it comes, JSON in one piece and bounded."""
    connection = _connection(node.url)
    try:
        target = path + (f"?{urlencode(query)}" if query else "")
        connection.request("GET", target, headers={"Authorization": f"Bearer {node.key}"})
        response = connection.getresponse()
        if response.status != 200 or response.headers.get_content_type() == "application/json":
            raw = response.read(limits.peer_body_bytes_max)
            if response.status != 200:
                raise _fault_of(node, response, raw)
            yield raw.decode("utf-8", "replace")
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := response.read1(limits.MIB):
            yield decoder.decode(data)
    except (OSError, HTTPException) as reason:
        raise PeerFault(f"node {node.url}: expected an answer, found {type(reason).__name__}") from None
    finally:
        connection.close()


def _connection(url: str) -> HTTPConnection:
    """To where a key may be sent: https, or this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput(f"--node: expected a URL, found {url[:200]!r}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.path not in ("", "/"):
        raise InvalidInput("--node: expected https://HOST[:PORT], found something else")
    if parts.scheme == "https":
        return HTTPSConnection(host, port, timeout=_seconds)
    if not _here(host):
        raise Denied("--node: expected https, as a key is sent, found http to another machine")
    return HTTPConnection(host, port, timeout=_seconds)


def _here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fault_of(node: Remote, response: HTTPResponse, raw: bytes) -> Fault:
    """The node's error as the fault that it was there, so that the exit code says the same."""
    try:
        match json.loads(raw):
            case {"error": {"message": str(message), "code": str(code), **error}}:
                kind = kind_of(code)
                hint = error.get("hint")
                return (PeerFault if kind is Fault else kind)(message, hint=hint if isinstance(hint, str) else None)
            case _:
                pass
    except (ValueError, RecursionError):
        pass
    return PeerFault(f"node {node.url}: expected an answer, found status {response.status}")
