"""The two cookies of signing in: one binds a message to the browser that asked for it, one stands for a session.

Under https they are `__Host-` cookies: no other host and no plain http can set or read them. Browsers do not take
those from `http://127.0.0.1` everywhere, so on loopback the names are plain, with the port in them, because cookies
are not kept apart by port.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from blyan.auth.origin import Origin
from blyan.auth.tokens import is_secret
from blyan.primitives import limits

_sign_in: Final = "blyan-sign-in"
_session: Final = "blyan-session"


def session_cookie(request: web.Request, origin: Origin) -> str | None:
    """The secret of a session, if the request has one."""
    return _secret(request, _name(_session, origin))


def sign_in_cookie(request: web.Request, origin: Origin) -> str | None:
    """The secret of a sign-in under way, if the request has one."""
    return _secret(request, _name(_sign_in, origin))


def begin_sign_in(response: web.Response, origin: Origin, secret: str) -> None:
    """Let the browser remember that it asked for a message."""
    _set(response, _name(_sign_in, origin), secret, origin, limits.sign_in_seconds_max)


def begin_session(response: web.Response, origin: Origin, secret: str, seconds: int) -> None:
    """Let the browser remember its session, and forget the sign-in."""
    _set(response, _name(_session, origin), secret, origin, seconds)
    _set(response, _name(_sign_in, origin), "", origin, 0)


def end_session(response: web.Response, origin: Origin) -> None:
    """Let the browser forget its session."""
    _set(response, _name(_session, origin), "", origin, 0)


def _name(name: str, origin: Origin) -> str:
    return f"__Host-{name}" if origin.secure else f"{name}-{origin.port or 80}"


def _secret(request: web.Request, name: str) -> str | None:
    """The value of a cookie that is there once: two of one name are somebody else's doing."""
    pairs = [pair.strip() for line in request.headers.getall("Cookie", []) for pair in line.split(";")]
    values = [value for key, separator, value in (pair.partition("=") for pair in pairs) if separator and key == name]
    return values[0] if len(values) == 1 and is_secret(values[0]) else None


def _set(response: web.Response, name: str, value: str, origin: Origin, seconds: int) -> None:
    response.set_cookie(name, value, max_age=seconds, path="/", secure=origin.secure, httponly=True, samesite="Strict")
