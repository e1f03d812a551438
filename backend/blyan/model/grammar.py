"""Answers that must follow a grammar: JSON, a JSON schema, or the calls of tools. Run by the library llguidance.

A grammar is compiled once for a request; each answer to it gets a `Constraint` of its own, which says before every
token which ones may come. The library bounds the size of grammars and the work at each token.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Final

import llguidance
import numpy as np
import tokenizers

from blyan.model.likeliest import Scores
from blyan.model.thinking import Thinking, thought_rules
from blyan.primitives.errors import InvalidInput, UnsupportedModel

# A model that is free to write spaces between the values of JSON may never stop doing so.
_whitespace: Final = r"[ \n\t]{1,32}"
_any_object: Final[Mapping[str, Any]] = {"type": "object"}


class Constraint:
    """One answer on its way through a grammar; not shared between threads."""

    def __init__(self, matcher: llguidance.LLMatcher, what: str) -> None:
        self._matcher = matcher
        self._what = what

    def allowed(self, scores: Scores) -> Scores:
        """Scores [vocab] with minus infinity for each token that may not come next."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._want_well()
        bits = np.unpackbits(packed, count=len(scores), bitorder="little").view(np.bool_)
        return np.where(bits, scores, np.float32(-np.inf))

    def take(self, token: int) -> None:
        """A token was chosen."""
        self._matcher.consume_token(token)
        self._want_well()

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: the answer is complete."""
        return self._matcher.is_stopped()

    def _want_well(self) -> None:
        if self._matcher.is_error():
            raise refused(self._what, self._matcher)


class Grammar:
    """A compiled grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, what: str) -> None:
        self._matcher = matcher
        self._what = what

    def begin(self) -> Constraint:
        """For one answer; `InvalidInput` where it turns out on the way that the grammar cannot be followed."""
        return Constraint(self._matcher.deep_copy(), self._what)


class GrammarVocabulary:
    """A model's tokens as the library wants them; made when a grammar is first asked for. Threads may share it."""

    def __init__(self, inner: tokenizers.Tokenizer, vocab_size: int) -> None:
        self._inner = inner
        self._vocab_size = vocab_size
        self._made: dict[tuple[int, ...], llguidance.LLTokenizer] = {}
        self._lock = threading.Lock()

    def compile(self, source: str, ends: tuple[int, ...], what: str) -> Grammar:
        """The grammar of a source, for a model whose answers end with any of the token ids `ends`.

        `InvalidInput` says why there is none, beginning with the parameter `what` that asked for it.
        """
        vocabulary = self._vocabulary(ends)
        matcher = llguidance.LLMatcher(vocabulary, source, log_level=0)
        if not matcher.is_error():
            first = matcher.deep_copy()
            first.compute_bitmask()  # some show only here that nothing can follow them
            if first.is_error() or (first.is_stopped() and not first.is_accepting()):
                raise refused(what, first)
            return Grammar(matcher, what)
        raise refused(what, matcher)

    def _vocabulary(self, ends: tuple[int, ...]) -> llguidance.LLTokenizer:
        with self._lock:
            if ends not in self._made:
                try:
                    self._made[ends] = llguidance.LLTokenizer(
                        self._inner.to_str(), n_vocab=self._vocab_size, eos_token=list(ends) or None
                    )
                except (ValueError, RuntimeError) as reason:
                    raise UnsupportedModel(
                        f"tokenizer: expected one that a grammar can be followed with, found {str(reason)[:200]}"
                    ) from None
            return self._made[ends]

    def token_id(self, text: str) -> int | None:
        """The token that stands for exactly this text, if there is one."""
        return self._inner.token_to_id(text)

    def markers(self, *texts: str) -> dict[str, str]:
        """How a grammar names these texts: as the one token that each is, or as text."""
        return {text: text if self.token_id(text) is None else f"<[{self.token_id(text)}]>" for text in texts}


def json_grammar(
    schema: Mapping[str, Any] | None, thinking: Thinking = "none", markers: Mapping[str, str] | None = None
) -> str:
    """The source of a grammar of JSON that follows a schema, or of any object, perhaps after a thought."""
    before, rules = thought_rules(thinking, markers or {})
    start = f"start: {before}/[ \\n]?/ {inline_json(_any_object if schema is None else schema)}"
    return "\n".join([start, *rules]) + "\n"


def inline_json(schema: Mapping[str, Any]) -> str:
    """A schema as it stands within a larger grammar."""
    return "%json " + json.dumps({**schema, "x-guidance": _style()})


def _style() -> dict[str, Any]:
    return {"whitespace_pattern": _whitespace}


def refused(what: str, matcher: llguidance.LLMatcher) -> InvalidInput:
    """The fault of a parameter of which no grammar can be made, in the library's first line."""
    reason = matcher.get_error().split("\n", maxsplit=1)[0][:300] or "one that nothing can follow"
    return InvalidInput(f"{what}: expected what a grammar can be made of, found: {reason}", detail={"param": what})
