"""Where bytes of payloads come from: a peer's `/blobs`, or any static mirror; and the memory of those that lied.

A source is a base URL and nothing is believed of it: every subtile is verified. Two layouts are understood, and which
one a source has is found by asking (docs/spec/mirror.md): a node's, and the folders of a blob store copied as they are.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from blyan.primitives import canonical, limits
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, InvalidInput
from blyan.primitives.ids import PayloadId, payload_id
from blyan.storage import durable

_log = logging.getLogger(__name__)
_version: Final = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A place that may have payloads."""

    url: str  # base URL without a slash at its end
    holds: frozenset[PayloadId] | None = None  # what it is said to have; None: asking it will tell
    token: str = field(default="", repr=False)  # that it wants to be shown, if any
    certificate: str = ""  # SHA-256 of that which it must show, 64 hex digits; empty: as TLS has it
    known_as: str = ""  # a URL by which it is remembered, where its own is another each time; empty: its own
    connections: int = limits.source_connections_max  # at most

    @property
    def name(self) -> str:
        """By which it is remembered, and told of."""
        return self.known_as or self.url

    def __post_init__(self) -> None:
        if self.url != source_url(self.url, "source"):
            raise InvalidInput(f"source: expected a base URL without a slash at its end, found {self.url[:200]!r}")
        if self.token and not (self.token.isascii() and self.token.isalnum()):  # it stands in a header
            raise InvalidInput(f"source {self.url}: expected a token of letters and digits, found another")


def peer_source(api_url: str, holds: frozenset[PayloadId] | None = None) -> Source:
    """The blobs of the node whose API answers at `http://HOST:PORT`."""
    return Source(source_url(api_url, "peer") + "/blobs", holds)


def source_url(text: str, what: str) -> str:
    """A base URL of a source, without slashes at its end; `InvalidInput` says what it is instead."""
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
        parts = urlsplit("")
    plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= limits.source_url_chars_max
    if not fine or not plain or "@" in parts.netloc or "?" in text or "#" in text:
        raise InvalidInput(f"{what}: expected http://HOST[:PORT][/PATH], found {text[:200]!r}")
    return text.rstrip("/")


@dataclass(frozen=True, slots=True)
class _Lie:
    """That a source gave wrong bytes of a payload."""

    url: str
    payload: PayloadId
    until: int  # Unix seconds
    why: str


@dataclass(frozen=True, slots=True)
class BadSource:
    """What a source is known to have lied about."""

    lies: Mapping[PayloadId, str]

    def why_not(self, payload: PayloadId) -> str | None:
        """Why it is not to be asked for this payload; None if it may be."""
        if payload in self.lies:
            return f"remembered: {self.lies[payload]}"
        if len(self.lies) >= limits.lies_per_source_max:
            return f"remembered: wrong bytes of {len(self.lies)} payloads"
        return None


class SourceBook:
    """Which sources gave bytes that are not what they should be, kept in one small file over restarts.

    Such a source is not asked for that payload until `limits.bad_source_seconds` are over, and one that lied about
    several is asked for none. Threads may share it. A file that cannot be read is begun anew: forgetting is harmless.
    """

    def __init__(self, path: Path, now: UnixSeconds) -> None:
        self._path = path
        self._now = now
        self._lock = threading.Lock()  # held while lies change and while the file is written
        self._lies = {(lie.url, lie.payload): lie for lie in _read(path)}

    def against(self, url: str) -> BadSource:
        """What is remembered of this source now."""
        now = self._now()
        # a clock that was set back must not make it for ever
        last = now + limits.bad_source_seconds
        with self._lock:
            lies = [lie for lie in self._lies.values() if lie.url == url and now < lie.until <= last]
        return BadSource({lie.payload: lie.why for lie in lies})

    def condemn(self, url: str, payload: PayloadId, why: str) -> None:
        """Remember, durably, that a source gave wrong bytes of a payload; the oldest is forgotten for the newest."""
        now = self._now()
        with self._lock:
            self._lies.pop((url, payload), None)
            lie = _Lie(url, payload, now + limits.bad_source_seconds, _plain(why))
            self._lies[url, payload] = lie
            self._lies = {
                key: each
                for key, each in sorted(self._lies.items(), key=lambda pair: pair[1].until)
                if now < each.until <= now + limits.bad_source_seconds
            }
            while len(self._lies) > limits.bad_sources_max:
                del self._lies[next(iter(self._lies))]
            _write(self._path, self._lies.values())


def _plain(why: str) -> str:
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in why)[: limits.bad_source_why_max]


def _write(path: Path, lies: Iterable[_Lie]) -> None:
    listed = [{"url": lie.url, "payload": lie.payload, "until": lie.until, "why": lie.why} for lie in lies]
    durable.write_file(path, canonical.encode({"v": _version, "lies": listed}), 0o600)


def _read(path: Path) -> list[_Lie]:
    try:
        raw = durable.read_limited(path, limits.source_book_bytes_max)
        value = cast("dict[str, Any]", json.loads(raw))
        if value["v"] != _version:
            raise ValueError(f"version {value['v']!r}")
        lies = [
            _Lie(source_url(each["url"], "url"), payload_id(each["payload"]), int(each["until"]), _plain(each["why"]))
            for each in value["lies"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, Fault) as reason:
        _log.warning("%s: expected the record of bad sources, found %r; it is begun anew", path, reason)
        return []
    return lies[-limits.bad_sources_max :]
