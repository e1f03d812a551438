"""One conversation as a value: what is sent with each question, and the file that `/save` writes.

A saved conversation is JSON: `{"format": "blyan-chat", "version": 1, "model", "system", "settings", "messages"}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blyan.model.sampling import Sampling
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.primitives.nearest import did_you_mean
from blyan.storage import durable
from blyan.wire.fields import as_dict, as_list, brief, stop_strings

_format: Final = "blyan-chat"
_fields: Final = frozenset({"format", "version", "model", "system", "settings", "messages"})
_mode: Final = 0o600


def _tokens(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= limits.canonical_integer_max:
        raise InvalidInput(f"max_tokens: expected 1 to {limits.canonical_integer_max}, found {brief(value)}")
    return value


def _sampled(name: str, kinds: tuple[type, ...]) -> Callable[[Any], Any]:
    """A check by the sampler's own ranges."""

    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise InvalidInput(
                f"{name}: expected {'a number' if float in kinds else 'an integer'}, found {brief(value)}"
            )
        Sampling(**{name: value})
        return value

    return check


_number: Final = (int, float)
_checks: Final[Mapping[str, Callable[[Any], Any]]] = {
    **{name: _sampled(name, _number) for name in ("temperature", "top_p", "min_p")},
    **{name: _sampled(name, (int,)) for name in ("top_k", "seed")},
    **{name: _sampled(name, _number) for name in ("frequency_penalty", "presence_penalty", "repetition_penalty")},
    "max_tokens": _tokens,
    "stop": lambda value: list(stop_strings(value)),
}
setting_names: Final = tuple(_checks)


@dataclass(slots=True)
class Conversation:
    """Messages so far, the model that is asked, and how."""

    model: str
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])  # what is unsaid is the model's own default
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def set(self, name: str, value: Any) -> None:
        """Set one sampling setting; `InvalidInput` if there is none of that name, or the value does not fit."""
        check = _checks.get(name)
        if check is None:
            known = ", ".join(setting_names)
            raise InvalidInput(f"setting: expected one of {known}, found {name[:80]!r}{did_you_mean(name, _checks)}")
        self.settings[name] = check(value)

    def set_text(self, name: str, text: str) -> None:
        """The same from typed text: a JSON value, or words for `stop`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        self.set(name, text if name == "stop" and not isinstance(value, str | list) else value)

    def request(self) -> dict[str, Any]:
        """The body of the next chat completion, streamed, with its usage in the end."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": self.model,
            "messages": system + self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.settings,
        }

    def save(self, path: Path) -> None:
        """Write it for the owner alone; `InvalidInput` rather than replace a file that is no saved conversation."""
        if path.exists():
            try:
                load(path)
            except (InvalidInput, OSError) as reason:
                raise InvalidInput(f"{path}: expected no file, or a saved conversation, found another file") from reason
        body = {
            "format": _format,
            "version": 1,
            "model": self.model,
            "system": self.system,
            "settings": self.settings,
            "messages": self.messages,
        }
        raw = json.dumps(body, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"
        if len(raw) > limits.saved_chat_bytes_max:
            raise InvalidInput(f"{path}: expected at most {limits.saved_chat_bytes_max} bytes, found {len(raw)}")
        durable.write_file(path, raw, _mode)


def load(path: Path) -> Conversation:
    """Read a saved conversation, every field checked; `NotFound`, or `InvalidInput` with the field."""
    try:
        body = as_dict(json.loads(durable.read_limited(path, limits.saved_chat_bytes_max).decode("utf-8")))
    except FileNotFoundError:
        raise NotFound(f"{path}: expected a saved conversation, found no file") from None
    except (ValueError, RecursionError, IsADirectoryError) as reason:
        raise InvalidInput(f"{path}: expected a saved conversation, found {reason}") from None
    if body is None or body.get("format") != _format or body.get("version") != 1 or not body.keys() <= _fields:
        raise InvalidInput(f"{path}: expected a saved conversation of version 1, found {brief(body)}")
    model, system = body.get("model"), body.get("system", "")
    if not isinstance(model, str) or not isinstance(system, str):
        raise InvalidInput(f"{path}: expected texts as model and system, found {brief(model)} and {brief(system)}")
    settings = as_dict(body.get("settings", {}))
    if settings is None:
        raise InvalidInput(f"{path}: settings: expected an object, found {brief(body['settings'])}")
    messages = as_list(body.get("messages"))
    if messages is None or len(messages) > limits.messages_max:
        raise InvalidInput(f"{path}: messages: expected a list of at most {limits.messages_max}")
    loaded = Conversation(model, system, messages=[_message(path, each) for each in messages])
    for name, value in settings.items():
        loaded.set(name, value)
    return loaded


def _message(path: Path, value: object) -> dict[str, str]:
    given = as_dict(value) or {}
    role, content = given.get("role"), given.get("content")
    if role not in ("user", "assistant") or not isinstance(content, str) or len(given) != 2:
        raise InvalidInput(f"{path}: messages: expected role user or assistant and content, found {brief(value)}")
    return {"role": role, "content": content}
