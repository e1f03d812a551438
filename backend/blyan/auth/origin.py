"""The one origin under which people sign in (RFC 6454): from the configuration, never from a header of a request.

A wallet shows its owner the domain of the page that asks, and signs it; a message for another origin proves nothing
here. So a node knows its own origin beforehand.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

_default_ports: Final = {"https": 443, "http": 80}
_host_name: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port; the port only where it is not the scheme's own."""

    scheme: str
    host: str  # lower case, IPv6 in brackets
    port: int | None

    @property
    def authority(self) -> str:
        """HOST[:PORT], which EIP-4361 calls the domain."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def text(self) -> str:
        """The origin as browsers write it."""
        return f"{self.scheme}://{self.authority}"

    @property
    def secure(self) -> bool:
        """Whether it is https; http is for loopback alone."""
        return self.scheme == "https"


def parse_origin(text: str, what: str) -> Origin:
    """An origin exactly as a browser would write it; `InvalidInput` names `what` for anything else.

    http is refused off loopback: whoever listens on the way would have the session.
    """
    if len(text) > limits.origin_chars_max:
        raise InvalidInput(f"{what}: expected at most {limits.origin_chars_max} characters, found {len(text)}")
    fault = InvalidInput(
        f"{what}: expected an origin such as https://chat.example.org, found {text!r}",
        hint="scheme, host and perhaps port in lower case, nothing behind it; the port only if it is not the usual one",
    )
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise fault from None
    if parts.scheme not in _default_ports or port == _default_ports[parts.scheme] or port == 0:
        raise fault
    named, loopback = _host(host)
    origin = Origin(parts.scheme, named, port)
    if not named or origin.text != text:
        raise fault
    if not origin.secure and not loopback:
        raise InvalidInput(
            f"{what}: expected https off loopback, found {text!r}",
            hint="put a proxy with TLS before the node, or sign in under http://127.0.0.1 alone",
        )
    return origin


def _host(host: str) -> tuple[str, bool]:
    """The host as an origin writes it, empty if it is none, and whether only this machine can be meant."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (host if _host_name.fullmatch(host) else ""), host == "localhost"
    return (f"[{address}]" if address.version == 6 else str(address)), address.is_loopback
