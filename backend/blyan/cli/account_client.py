"""Asking another node about one's own account: deadline, limit on the answer, no redirect followed."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from blyan.primitives import limits
from blyan.primitives.errors import Denied, Fault, InvalidInput, PeerFault, kind_of
from blyan.wire.fields import as_dict, as_list

_seconds: Final = 30.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A node, and the headers that say whose account is meant."""

    url: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Remote({self.url})"


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
    connection = connection_to(node.url)
    try:
        target = path + (f"?{urlencode(query)}" if query else "")
        connection.request("GET", target, headers=dict(node.headers))
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


def want_address(url: str) -> None:
    """`InvalidInput` or `Denied` unless who one is may be said there."""
    connection_to(url).close()


def connection_to(url: str, *, seconds: float = _seconds, secret: bool = True) -> HTTPConnection:
    """A connection to a node; what is secret goes over https, or to this machine, alone."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput(f"--node: expected a URL, found {url[:200]!r}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.path not in ("", "/"):
        raise InvalidInput("--node: expected https://HOST[:PORT], found something else")
    if parts.scheme == "https":
        return HTTPSConnection(host, port, timeout=seconds)
    if secret and not _here(host):
        raise Denied("--node: expected https, as a key is sent, found http to another machine")
    return HTTPConnection(host, port, timeout=seconds)


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
