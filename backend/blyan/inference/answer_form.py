"""What form an answer must have: JSON by a schema, calls of tools, or both, for one loaded model."""

from __future__ import annotations

from dataclasses import dataclass

from blyan.model.grammar import Grammar, json_grammar
from blyan.model.loading import LoadedModel
from blyan.model.tokenizer import Tokenizer
from blyan.model.tools import ToolFormat, ToolReader, call_grammar, marks_of, tool_format_of
from blyan.primitives.errors import InvalidInput, UnsupportedParameter
from blyan.wire.tools import AnswerFormat, ToolChoice


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How one request's answers are constrained and read. The default: text, as it comes."""

    grammar: Grammar | None = None
    tools: ToolChoice | None = None
    tool_format: ToolFormat | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """Special tokens that the reader of calls must see."""
        return () if self.tool_format is None else marks_of(self.tool_format)

    def reader(self) -> ToolReader | None:
        """A new reader for one answer, where tools may be called."""
        if self.tools is None or self.tool_format is None:
            return None
        return ToolReader(self.tool_format, self.tools.tools)


def answer_form(
    model: LoadedModel, tokenizer: Tokenizer, tools: ToolChoice | None, wanted: AnswerFormat | None, what: str
) -> AnswerForm:
    """The form of answers that a request wants; `what` is the parameter that said `wanted`.

    `UnsupportedParameter` if this model's template has no place for tools, `InvalidInput` for a schema of which no
    grammar can be made.
    """
    ends = model.manifest.generation.eos
    if tools is None:
        if wanted is None:
            return AnswerForm()
        return AnswerForm(tokenizer.vocabulary.compile(json_grammar(wanted.schema), ends, what))
    form = tool_format_of(tokenizer.chat_template)
    if form is None:
        raise UnsupportedParameter(
            f"tools: expected a model whose chat template has tools, found {model.name}, whose template has none "
            "in a form that is known here"
        )
    markers = tokenizer.vocabulary.markers(*marks_of(form))
    schema = None if wanted is None else (wanted.schema or {"type": "object"})
    try:
        source = call_grammar(form, tools, markers, schema)
        grammar = tokenizer.vocabulary.compile(source, ends, "tools" if wanted is None else what)
    except InvalidInput:
        if wanted is not None or any(tool.strict for tool in tools.tools):
            raise
        source = call_grammar(form, tools, markers, schema, loose=True)
        grammar = tokenizer.vocabulary.compile(source, ends, "tools")
    return AnswerForm(grammar, tools, form)
