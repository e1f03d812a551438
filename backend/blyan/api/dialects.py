"""How the two OpenAI endpoints word their bodies: chat and text completions, streamed and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blyan.api.answer import Gathered
from blyan.inference.answer_form import AnswerForm, AnswerReader
from blyan.inference.reader import Delta, TokenReport
from blyan.model.choosing import Candidate
from blyan.model.loading import LoadedModel
from blyan.model.tools import ToolCall
from blyan.node.node import Node
from blyan.wire.openai import ChatRequest, CompletionRequest


class ChatDialect:
    """`chat.completion` bodies."""

    prompt_field = "messages"

    def __init__(self, asked: ChatRequest, model: LoadedModel, node: Node, form: AnswerForm) -> None:
        self.options = asked.options
        self._asked = asked
        self._model = model
        self._entropy = node.sources.entropy
        self._form = form
        self._readers: dict[int, AnswerReader] = {}  # of streamed choices
        self._id = f"chatcmpl-{node.sources.entropy(12).hex()}"
        self._created = node.sources.now()

    def opening(self, index: int) -> dict[str, Any] | None:
        """The role comes in a chunk of its own."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        """A streamed choice."""
        reader = self._readers.setdefault(index, self._form.reader())
        before = reader.calls
        piece = reader.feed(delta.text) if finish is None else reader.finish()
        content: dict[str, Any] = {}
        if piece.thought:
            content["reasoning_content"] = piece.thought
        if piece.calls:
            content["tool_calls"] = [{"index": before + at, **self._call(call)} for at, call in enumerate(piece.calls)]
        if piece.said or (finish is None and not content):
            content["content"] = piece.said
        finish = "tool_calls" if finish == "stop" and reader.calls else finish
        return {
            "index": index,
            "delta": content,
            "logprobs": self._logprobs(delta.tokens) if delta.tokens else None,
            "finish_reason": finish,
        }

    def choice(self, index: int, gathered: Gathered) -> dict[str, Any]:
        """A whole choice."""
        assert gathered.finished is not None, "called at the end"
        finish: str = gathered.finished.reason
        reader = self._form.reader()
        pieces = (reader.feed(gathered.text), reader.finish())
        message: dict[str, Any] = {"role": "assistant", "content": "".join(p.said for p in pieces), "refusal": None}
        thought = "".join(piece.thought for piece in pieces)
        if thought:
            message["reasoning_content"] = thought
        if reader.calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [self._call(call) for piece in pieces for call in piece.calls]
            finish = "tool_calls" if finish == "stop" else finish
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(gathered.tokens),
            "finish_reason": finish,
        }

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The body around choices."""
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if chunk else "chat.completion",
            "created": self._created,
            "model": self._model.name,
        }

    def _call(self, call: ToolCall) -> dict[str, Any]:
        short = self._form.tool_format == "mistral"  # whose templates want nine letters and digits
        identity = self._entropy(5).hex()[:9] if short else f"call_{self._entropy(12).hex()}"
        return {"id": identity, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def _logprobs(self, tokens: Sequence[TokenReport]) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        return {
            "content": [
                self._named(report.token, report.logprob or 0.0)
                | {"top_logprobs": [self._named(candidate.token, candidate.logprob) for candidate in report.top]}
                for report in tokens
            ],
            "refusal": None,
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        assert self._model.tokenizer is not None, "chat needs a tokenizer"
        raw = self._model.tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


class CompletionDialect:
    """`text_completion` bodies."""

    prompt_field = "prompt"

    def __init__(self, asked: CompletionRequest, model: LoadedModel, node: Node) -> None:
        self.options = asked.options
        self._asked = asked
        self._model = model
        self._id = f"cmpl-{node.sources.entropy(12).hex()}"
        self._created = node.sources.now()

    def opening(self, index: int) -> dict[str, Any] | None:
        """None in this dialect."""
        del index
        return None

    def piece(self, index: int, delta: Delta, finish: str | None) -> dict[str, Any]:
        """A streamed choice."""
        return {
            "index": index,
            "text": delta.text,
            "logprobs": self._logprobs(delta.tokens) if delta.tokens else None,
            "finish_reason": finish,
        }

    def choice(self, index: int, gathered: Gathered) -> dict[str, Any]:
        """A whole choice."""
        assert gathered.finished is not None, "called at the end"
        return {
            "index": index,
            "text": gathered.text,
            "logprobs": self._logprobs(gathered.tokens),
            "finish_reason": gathered.finished.reason,
        }

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The body around choices; the same for both."""
        del chunk
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model.name}

    def _logprobs(self, tokens: Sequence[TokenReport]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        return {
            "tokens": [self._token_text(report.token) for report in tokens],
            "token_logprobs": [report.logprob for report in tokens],
            "top_logprobs": [
                self._named_candidates(report.top) if report.logprob is not None else None for report in tokens
            ],
            "text_offset": [report.text_at for report in tokens],
        }

    def _named_candidates(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """By text, as the dialect has it; a second token of the same text goes by its id, so that none is lost."""
        named: dict[str, float] = {}
        for candidate in candidates:
            text = self._token_text(candidate.token)
            named[f"token_id:{candidate.token}" if text in named else text] = candidate.logprob
        return named

    def _token_text(self, token: int) -> str:
        """The token as text; bytes that are no whole characters as `bytes:\\x..`, ids where there is no tokenizer."""
        if self._asked.tokens_as_ids or self._model.tokenizer is None:
            return f"token_id:{token}"
        raw = self._model.tokenizer.token_bytes(token)
        if not raw:  # an id that the tokenizer does not name: vocabularies are padded
            return f"token_id:{token}"
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
