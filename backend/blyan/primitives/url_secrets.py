"""URLs without what must not be read by others: user and password, values that are named as secrets, keys in a path.

Services give each customer a URL whose path is the key; ids of payloads (64 hex digits) are as long and no secrets.
"""

from __future__ import annotations

import re
from typing import Final

redacted: Final = "(redacted)"
_user: Final = re.compile(r"(?<=://)[^\s/]+(?=@)")
_value: Final = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:pass|key|secret|token|auth)[^=&\s]*)=[^&\s#\"'>]+")
_url: Final = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
_key_in_path: Final = re.compile(r"/(?![0-9a-f]{64}(?![A-Za-z0-9_-]))[A-Za-z0-9_-]{20,}")


def without_secrets(text: str) -> str:
    """A text with what is secret in its URLs left out, as far as that shows by its form."""
    if "://" not in text:
        return text
    return _url.sub(lambda found: _of_url(found[0]), text)


def without_path(text: str) -> str:
    """A text with nothing of its URLs but where they lead: for those whose path or query may be the key itself."""
    return _url.sub(lambda found: _origin(found[0]), text)


def _of_url(url: str) -> str:
    scheme, _, rest = _user.sub(redacted, url).partition("://")
    host, slash, path = rest.partition("/")
    kept = _key_in_path.sub(f"/{redacted}", slash + path)
    return _value.sub(rf"\1={redacted}", f"{scheme}://{host}{kept}")


def _origin(url: str) -> str:
    scheme, _, rest = _user.sub(redacted, url).partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{host}" + (f"/{redacted}" if len(rest) > len(host) + 1 else "")
