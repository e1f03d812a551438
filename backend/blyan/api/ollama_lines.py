"""How one answer words its lines in the Ollama dialect: pieces, the last line with counts and durations, logprobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from blyan.inference.answer_form import Piece
from blyan.inference.reader import Finished, TokenReport
from blyan.model.tokenizer import Tokenizer
from blyan.node.node import Node
from blyan.wire.ollama import OllamaRequest

nanoseconds: Final = 1_000_000_000
nothing: Final = Piece("", "", ())


class Lines:
    """One answer, streamed or gathered into one line."""

    def __init__(self, node: Node, asked: OllamaRequest, tokenizer: Tokenizer | None) -> None:
        self._node = node
        self._asked = asked
        self._tokenizer = tokenizer
        self._began = node.sources.monotonic()
        self._first: float | None = None  # when the first token came
        self._gathered = nothing
        self._tokens: list[TokenReport] = []

    def line(self, piece: Piece, tokens: Sequence[TokenReport]) -> dict[str, Any] | None:
        """One piece of a streamed answer; None where there is nothing to send yet."""
        if self._first is None:
            self._first = self._node.sources.monotonic()
        self._tokens += tokens
        if not self._asked.options.stream:
            self._gathered = _joined(self._gathered, piece)
            return None
        if piece == nothing and not (self._asked.logprobs and self._tokens):
            return None
        return self._body(piece) | {"done": False}

    def last(self, piece: Piece, finished: Finished, context: list[int], usage: Mapping[str, Any]) -> dict[str, Any]:
        """The end, with counts and durations, and the whole answer where nothing was streamed."""
        now = self._node.sources.monotonic()
        first = now if self._first is None else self._first
        body = self._body(_joined(self._gathered, piece)) | {"done": True, "done_reason": finished.reason}
        if not self._asked.chat:
            body["context"] = context
        if usage:
            body["usage"] = dict(usage)
        return body | {
            "total_duration": round((now - self._began) * nanoseconds),
            "load_duration": 0,
            "prompt_eval_count": finished.prompt_tokens,
            "prompt_eval_duration": round((first - self._began) * nanoseconds),
            "eval_count": finished.completion_tokens,
            "eval_duration": round((now - first) * nanoseconds),
        }

    def nothing_asked(self) -> dict[str, Any]:
        """The answer to a request without a prompt, by which clients load and unload."""
        return self._body(nothing) | {"done": True, "done_reason": "unload" if self._asked.keep == 0 else "load"}

    def _body(self, piece: Piece) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._asked.options.model,
            "created_at": time_text(self._node.sources.now()),
        }
        said: dict[str, Any] = {"role": "assistant", "content": piece.said} if self._asked.chat else body
        if piece.thought:
            said["thinking"] = piece.thought
        if piece.calls:
            said["tool_calls"] = [
                {"function": {"name": call.name, "arguments": orjson.loads(call.arguments)}} for call in piece.calls
            ]
        body |= {"message": said} if self._asked.chat else {"response": piece.said}
        if self._asked.logprobs:
            body["logprobs"] = [self._logprob(report) for report in self._tokens]
            self._tokens.clear()
        return body

    def _logprob(self, report: TokenReport) -> dict[str, Any]:
        named = self._named(report.token, report.logprob or 0.0)
        if self._asked.top_logprobs:
            named["top_logprobs"] = [self._named(candidate.token, candidate.logprob) for candidate in report.top]
        return named

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        raw = b"" if self._tokenizer is None else self._tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


def time_text(seconds: int) -> str:
    """RFC 3339, as the dialect has it."""
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _joined(one: Piece, two: Piece) -> Piece:
    return Piece(one.thought + two.thought, one.said + two.said, (*one.calls, *two.calls))
