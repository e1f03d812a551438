"""Asking the node that runs here: what it knows, and changes that it does itself."""

from __future__ import annotations

import json
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from blyan.cli.account_client import connection_to
from blyan.primitives import limits
from blyan.primitives.errors import Fault, InvalidInput, NotFound, PeerFault, kind_of
from blyan.storage import durable
from blyan.wire.fields import as_dict

_seconds: Final = 60.0


def asked(url: str, path: str, *, body: dict[str, Any] | None = None, key_file: str | None = None) -> dict[str, Any]:
    """The object that the node answers to a GET, or to a POST of `body`; its error as the fault that it was there.

    `PeerFault` where nothing that is an answer comes; a key is sent to this machine or over https alone.
    """
    headers = {} if key_file is None else {"Authorization": f"Bearer {_key(key_file)}"}
    raw_body = None if body is None else json.dumps(body)
    connection = connection_to(url, seconds=_seconds, secret=key_file is not None)
    try:
        if raw_body is not None:
            headers["Content-Type"] = "application/json"
        connection.request("GET" if raw_body is None else "POST", path, raw_body, headers)
        response = connection.getresponse()
        raw, status = response.read(limits.peer_body_bytes_max), response.status
        value = as_dict(json.loads(raw))
    except (OSError, HTTPException, ValueError, RecursionError) as reason:
        raise PeerFault(f"node {url}: expected an answer, found {type(reason).__name__}") from None
    finally:
        connection.close()
    if status != 200 or value is None:
        raise _said(value, url + path, status)
    return value


def _said(answer: dict[str, Any] | None, url: str, status: int) -> Fault:
    error = as_dict((answer or {}).get("error"))
    if error is None:
        return PeerFault(f"node {url}: expected status 200, found {status}")
    hint = "--key-file FILE with an API key of an operator, or stop the node" if status in (401, 403) else None
    return kind_of(str(error.get("code")))(str(error.get("message"))[:4_096], hint=hint or error.get("hint"))


def _key(path: str) -> str:
    try:
        return durable.read_limited(Path(path), limits.config_file_bytes_max).decode("ascii").strip()
    except FileNotFoundError:
        raise NotFound(f"key file {path}: expected a file with an API key, found none") from None
    except (OSError, ValueError) as reason:
        raise InvalidInput(f"key file {path}: expected an API key, found {reason}") from None
