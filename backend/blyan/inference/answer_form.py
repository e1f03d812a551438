"""What form an answer has: text, JSON by a schema, calls of tools, a thought before it; and reading it apart."""

from __future__ import annotations

from dataclasses import dataclass

from blyan.model.grammar import Grammar, json_grammar
from blyan.model.loading import LoadedModel
from blyan.model.thinking import Thinking, ThoughtReader, can_be_told, can_think, thinking_of
from blyan.model.thinking import marks as thought_marks
from blyan.model.tokenizer import Tokenizer
from blyan.model.tools import ToolCall, ToolFormat, ToolReader, call_grammar, marks_of, tool_format_of
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.wire.tools import AnswerFormat, ToolChoice


@dataclass(frozen=True, slots=True)
class Piece:
    """What became certain of an answer."""

    thought: str
    said: str
    calls: tuple[ToolCall, ...]


class AnswerReader:
    """Takes one answer's text as it comes and tells thought, text and calls apart."""

    def __init__(self, thinking: Thinking, tools: ToolReader | None) -> None:
        self._thoughts = ThoughtReader(thinking)
        self._tools = tools

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return 0 if self._tools is None else self._tools.calls

    def feed(self, text: str) -> Piece:
        """What is certain after more text."""
        thought, said = self._thoughts.feed(text)
        said, calls = (said, []) if self._tools is None else self._tools.feed(said)
        return Piece(thought, said, tuple(calls))

    def finish(self) -> Piece:
        """The rest, at the end."""
        thought, said = self._thoughts.finish()
        if self._tools is None:
            return Piece(thought, said, ())
        said, calls = self._tools.feed(said)
        rest, last = self._tools.finish()
        return Piece(thought, said + rest, (*calls, *last))


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How one request's answers are constrained and read. The default: text, as it comes."""

    grammar: Grammar | None = None
    tools: ToolChoice | None = None
    tool_format: ToolFormat | None = None
    thinking: Thinking = "none"

    @property
    def shown(self) -> tuple[str, ...]:
        """Special tokens that the reader must see."""
        calls = () if self.tool_format is None else marks_of(self.tool_format)
        return (*calls, *(() if self.thinking == "none" else thought_marks))

    def reader(self) -> AnswerReader:
        """A new reader for one answer."""
        tools = None
        if self.tools is not None and self.tool_format is not None:
            tools = ToolReader(self.tool_format, self.tools.tools)
        return AnswerReader(self.thinking, tools)


def want_thinking(model: LoadedModel, tokenizer: Tokenizer, thinking: bool | str | None, what: str) -> None:
    """Refuse what parameter `what` says about thinking where this model cannot do so."""
    template = tokenizer.chat_template
    if thinking and not can_think(template):
        raise UnsupportedParameter(f"{what}: expected a model that thinks, found {model.name}, whose template does not")
    if thinking is False and can_think(template) and not can_be_told(template):
        raise UnsupportedParameter(
            f"{what}: expected a model whose template lets thinking be turned off, found {model.name}"
        )


def answer_form(
    model: LoadedModel,
    prompt: str | None,
    tools: ToolChoice | None,
    wanted: AnswerFormat | None,
    what: str,
) -> AnswerForm:
    """The form of answers to the rendered chat `prompt`, None where it is plain text; `what` said `wanted`.

    `UnsupportedParameter` if this model's template has no place for tools, `InvalidInput` for a schema of which no
    grammar can be made.
    """
    tokenizer, ends = model.tokenizer, model.manifest.generation.eos
    assert tokenizer is not None, "the prompt was tokenized"
    thinking = "none" if prompt is None else thinking_of(tokenizer.chat_template, prompt)
    vocabulary = tokenizer.vocabulary
    if tools is None:
        if wanted is None:
            return AnswerForm(thinking=thinking)
        source = json_grammar(wanted.schema, thinking, vocabulary.markers(*thought_marks))
        return AnswerForm(vocabulary.compile(source, ends, what), thinking=thinking)
    form = tool_format_of(tokenizer.chat_template)
    if form is None:
        raise UnsupportedParameter(
            f"tools: expected a model whose chat template has tools, found {model.name}, whose template has none "
            "in a form that is known here"
        )
    markers = vocabulary.markers(*marks_of(form), *thought_marks)
    schema = None if wanted is None else (wanted.schema or {"type": "object"})
    try:
        source = call_grammar(form, tools, markers, schema, thinking)
        grammar = vocabulary.compile(source, ends, "tools" if wanted is None else what)
    except InvalidInput:
        if wanted is not None or any(tool.strict for tool in tools.tools):
            raise
        source = call_grammar(form, tools, markers, schema, thinking, loose=True)
        grammar = vocabulary.compile(source, ends, "tools")
    return AnswerForm(grammar, tools, form, thinking)
