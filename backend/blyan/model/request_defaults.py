"""What a model's publisher wants said and chosen where a request says nothing: what a Modelfile makes of a manifest.

A record of a manifest; one that says nothing is left out of it. It holds for every dialect: what a request says itself
goes before it, stop strings are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from blyan.model.sampling import Sampling
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

roles: Final = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in roles:
            raise InvalidInput(f"message role: expected system, user or assistant, found {self.role[:80]!r}")


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """Beside `GenerationDefaults`; every field's default asks for nothing."""

    system: str = ""  # the first message where a request has no system message
    messages: tuple[Said, ...] = ()  # the conversation that a request's goes on with
    stop: tuple[str, ...] = ()  # beside the request's
    seed: int | None = None
    tokens_max: int | None = None  # of an answer
    context_max: int | None = None  # prompt and answer together
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    template: str = ""  # the chat template as its author wrote it, where the tokenizer's was translated from it
    license: tuple[str, ...] = ()  # texts beside the manifest's SPDX id
    parent: str = ""  # NAME VERSION of the model whose blocks these are

    def __post_init__(self) -> None:
        Sampling(
            seed=self.seed or 0,
            min_p=self.min_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
        )
        for name, found in (("tokens_max", self.tokens_max), ("context_max", self.context_max)):
            if found is not None and not 0 <= found <= limits.canonical_integer_max:
                raise InvalidInput(f"{name}: expected 0 to {limits.canonical_integer_max}, found {found}")
        if len(self.messages) > limits.messages_max:
            raise InvalidInput(f"messages: expected at most {limits.messages_max}, found {len(self.messages)}")
        if len(self.stop) > limits.stop_strings_max or not all(
            0 < len(word) <= limits.stop_string_chars_max for word in self.stop
        ):
            raise InvalidInput(
                f"stop: expected at most {limits.stop_strings_max} strings of 1 to {limits.stop_string_chars_max} "
                f"characters, found {len(self.stop)}"
            )
        texts = [self.system, self.template, self.parent, *self.license, *(each.content for each in self.messages)]
        length = sum(len(text.encode("utf-8", "replace")) for text in texts)
        if length > limits.request_defaults_bytes_max:
            raise InvalidInput(
                f"defaults: expected at most {limits.request_defaults_bytes_max} bytes of text, found {length}"
            )

    def conversation(
        self, messages: Sequence[Mapping[str, Any]], *, continued: bool = False
    ) -> list[Mapping[str, Any]]:
        """The request's messages after what the model brings; a system message stays first.

        `continued`: an earlier answer's tokens come before these messages, and in them what the model brings.
        """
        own = list(messages)
        first = [own.pop(0)] if own and own[0].get("role") == "system" else []
        if not first and self.system:
            first = [{"role": "system", "content": self.system}]
        brought = [] if continued else [{"role": each.role, "content": each.content} for each in self.messages]
        return [*first, *brought, *own]

    def tokens_limit(self, asked: int | None, prompt: int, context: int) -> int | None:
        """How many tokens an answer to `prompt` tokens may have; None where nothing but the model's context says."""
        if asked is None:
            asked = self.tokens_max
            within = asked is not None
        else:
            within = False  # what a request says itself is refused where it does not fit, not shortened
        if self.context_max is None and not within:
            return asked
        room = max(min(context, self.context_max or context) - prompt, 0)
        return room if asked is None else min(asked, room)


nothing_said: Final = RequestDefaults()
