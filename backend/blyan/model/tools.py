"""How each kind of chat template writes the calls of tools: a grammar for them, and a reader that finds them.

Four ways of writing are known. `hermes` (Qwen2, Qwen3): `<tool_call>`, a JSON object of name and arguments,
`</tool_call>`. `qwen_xml` (Qwen3-Coder): between the same marks `<function=NAME>` and a `<parameter=NAME>` for each
argument. `mistral` (Mixtral 8x22B): `[TOOL_CALLS]` and a JSON list of all calls. `llama` (Llama 3.1): a JSON object of
name and parameters without marks, so that an answer that begins so is calls from end to end. Which one a model speaks,
its template says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from blyan.model.grammar import inline_json
from blyan.model.thinking import Thinking, thought_rules
from blyan.wire.tools import Tool, ToolChoice

ToolFormat: TypeAlias = Literal["hermes", "qwen_xml", "mistral", "llama"]
Markers: TypeAlias = Mapping[str, str]  # text → how a grammar names it: a token's id, or the text

_open, _close, _list = "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
_bare: Final = '{"name": "'  # how a call of Llama begins
_bare_told: Final = re.compile(
    r'(?:\{|\\x7b)"name": function name, "parameters":'
)  # a template says so, perhaps escaped
_any_object: Final[Mapping[str, Any]] = {"type": "object"}


def tool_format_of(template: str | None) -> ToolFormat | None:
    """How a model with this chat template writes calls; None if the template has no place for tools."""
    if template is None or not re.search(r"\btools\b", template):
        return None
    if _list in template:
        return None if "[ARGS]" in template else "mistral"  # name[ARGS]{…} of later ones is not read back
    if _open not in template:
        return "llama" if _bare_told.search(template) else None
    return "qwen_xml" if "<function=" in template else "hermes"


def marks_of(form: ToolFormat) -> tuple[str, ...]:
    """The texts around calls, which may be tokens of their own."""
    return {"mistral": (_list,), "llama": ()}.get(form, (_open, _close))


def call_grammar(
    form: ToolFormat,
    choice: ToolChoice,
    markers: Markers,
    answer: Mapping[str, Any] | None,
    thinking: Thinking = "none",
    *,
    loose: bool = False,
) -> str:
    """The source of a grammar: text or calls, or calls alone where they are required.

    `answer` is the schema of an answer without calls, if it has one. `loose` leaves arguments free, for schemas of
    which no grammar can be made.
    """
    tools = choice.tools
    rules = [_tool_rules(form, number, tool, loose=loose) for number, tool in enumerate(tools)]
    any_tool = " | ".join(f"tool_{number}" for number in range(len(tools)))
    before, thought = thought_rules(thinking, markers)
    if form == "llama":
        body = _bare_body(any_tool, choice, answer)
        return "\n".join([f"start: {before}({body})", *rules, *thought]) + "\n"
    if form == "mistral":
        more = " (/,[ ]?/ item)*" if choice.parallel else ""
        listed = f'list_body: /[ ]?/ "[" item{more} "]"'
        rules += [f"item: {any_tool}", listed]
        begin, rest = _list, "list_body"
    else:
        rules += [f"one_body: ({any_tool}) {_named(markers, _close)}"]
        begin, rest = _open, "one_body"
    many = choice.parallel and form != "mistral"
    forced = f"{_named(markers, begin)} {rest}"
    again = f" (/[\\n ]{{0,2}}/ {forced})*" if many else ""
    if choice.required:
        body = f"{forced}{again}"
    elif answer is not None:
        body = f"{forced}{again} | answer"
        rules.append(f"answer: /[ \\n]?/ {inline_json(answer)}")
    else:
        tail = "" if form == "mistral" else " TEXT"
        body = f"TEXT | lead {rest}{again}{tail}"
        is_token = markers[begin] != begin
        rules.append(f"lead: TEXT {markers[begin]}" if is_token else f"lead[lazy]: TEXT {json.dumps(begin)}")
        rules.append("TEXT: /(.|\\n)*/")
    return "\n".join([f"start: {before}({body})", *rules, *thought]) + "\n"


def _bare_body(any_tool: str, choice: ToolChoice, answer: Mapping[str, Any] | None) -> str:
    """Calls without marks, or what does not begin like one."""
    calls = f"({any_tool})" + (f" (/[;\\n ]{{1,2}}/ ({any_tool}))*" if choice.parallel else "")
    if choice.required:
        return calls
    return f"{calls} | " + (inline_json(answer) if answer is not None else "/([^{](.|\\n)*)?/")


def _tool_rules(form: ToolFormat, number: int, tool: Tool, *, loose: bool) -> str:
    schema = _any_object if loose or not tool.parameters else tool.parameters
    if form == "qwen_xml":
        return _xml_rules(number, tool, schema)
    arguments = "parameters" if form == "llama" else "arguments"
    opening = json.dumps('{"name": ' + json.dumps(tool.name) + f', "{arguments}": ')
    around = '"\\n"' if form == "hermes" else ""
    return f'tool_{number}: {around} {opening} {inline_json(schema)} "}}" {around}'


def _xml_rules(number: int, tool: Tool, schema: Mapping[str, Any]) -> str:
    """Each parameter in the order of the schema; text as it is, everything else as JSON."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or ()
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    rules: list[str] = []
    members: list[str] = []
    for at, (name, kind) in enumerate(properties.items()):
        rule = f"tool_{number}_{at}"
        head = json.dumps(f"<parameter={name}>\n")
        if _is_text(kind):
            rules.append(f"{rule}: {head} {rule}_text")
            rules.append(f'{rule}_text[lazy]: /(.|\\n)*/ "\\n</parameter>\\n"')
        else:
            inner = {**kind, **shared} if isinstance(kind, dict) else {}
            rules.append(f'{rule}: {head} {inline_json(inner)} "\\n</parameter>\\n"')
        members.append(rule if name in required else f"{rule}?")
    opening = json.dumps(f"\n<function={tool.name}>\n")
    rules.append(f'tool_{number}: {opening} {" ".join(members)} "</function>\\n"')
    return "\n".join(rules)


def _is_text(kind: object) -> bool:
    return isinstance(kind, dict) and kind.get("type") == "string" and "enum" not in kind and "const" not in kind


def _named(markers: Markers, mark: str) -> str:
    return markers[mark] if markers[mark] != mark else json.dumps(mark)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model wrote."""

    name: str
    arguments: str  # JSON text of an object


class ToolReader:
    """Takes an answer's text as it comes and tells calls from what is said; what is no whole call is text."""

    def __init__(self, form: ToolFormat, tools: Sequence[Tool]) -> None:
        self._form: ToolFormat = form
        self._tools = {tool.name: tool for tool in tools}
        self._mark = "" if form == "llama" else marks_of(form)[0]
        self._held = ""
        self._inside = False
        self._said = False  # llama: the answer is text
        self.calls = 0

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """What is certain now: text that was said, and calls."""
        self._held += text
        said, calls = "", list[ToolCall]()
        if self._form == "llama":  # only its end shows whether it is calls
            begin = self._held.lstrip()[: len(_bare)]
            self._inside = self._inside or (begin == _bare and not self._said)
            return ("" if self._inside or (_bare.startswith(begin) and not self._said) else self._begun_text()), calls
        while True:
            if not self._inside:
                at = self._held.find(self._mark)
                if at < 0:
                    keep = _begun(self._held, self._mark)
                    said += self._let(len(self._held) - keep)
                    break
                said += self._let(at)
                self._inside = True
            end = self._held.find(_close) if self._form != "mistral" else -1
            if end < 0:
                break
            whole = self._let(end + len(_close))
            self._inside = False
            found = self._parsed(whole)
            calls += found
            said += "" if found else whole
        self.calls += len(calls)
        return self._without_gaps(said), calls

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The same at the end."""
        rest = self._let(len(self._held))
        calls = self._parsed(rest) if self._inside and self._form in ("mistral", "llama") else []
        self.calls += len(calls)
        return ("", calls) if calls else (self._without_gaps(rest), [])

    def _begun_text(self) -> str:
        """All that is held, of an answer that is text from here on."""
        self._said = True
        return self._let(len(self._held))

    def _let(self, count: int) -> str:
        out, self._held = self._held[:count], self._held[count:]
        return out

    def _without_gaps(self, said: str) -> str:
        """Line ends around calls are not said."""
        return "" if (self.calls or self._inside) and not said.strip() else said

    def _parsed(self, whole: str) -> list[ToolCall]:
        """The calls of what stands from one mark to the other; none if it is not what the format says."""
        if self._form == "llama":
            return _in_a_row(whole, self._tools)
        if self._form == "mistral":
            return _listed(whole.removeprefix(_list).strip())
        body = whole.removeprefix(_open).removesuffix(_close).strip()
        found = _xml_call(body, self._tools) if self._form == "qwen_xml" else _json_call(_loaded(body))
        return [] if found is None else [found]


def _begun(text: str, mark: str) -> int:
    """Length of the longest proper beginning of the mark that the text ends with."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_call(value: object) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))


def _listed(text: str) -> list[ToolCall]:
    value = _loaded(text)
    if not isinstance(value, list):
        return []
    found = [_json_call(item) for item in value]
    return [call for call in found if call is not None] if all(call is not None for call in found) else []


def _in_a_row(text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:
    """Objects one after the other, with `;` or white space between them; none if one of them is no call."""
    found: list[ToolCall] = []
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return []
        call = _json_call(value)
        if call is None or call.name not in tools:
            return []
        found.append(call)
        rest = rest[end:].lstrip("; \n")
    return found


_function: Final = re.compile(r"<function=([^>\n]+)>\n?(.*)</function>", re.DOTALL)
_parameter: Final = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _xml_call(body: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    found = _function.fullmatch(body)
    if found is None:
        return None
    tool = tools.get(found[1])
    properties: Mapping[str, Any] = (tool.parameters.get("properties") or {}) if tool else {}
    arguments: dict[str, Any] = {}
    for name, text in _parameter.findall(found[2]):
        if _is_text(properties.get(name, {"type": "string"})):
            arguments[name] = text
        else:
            value = _loaded(text)
            arguments[name] = text if value is None and text.strip() != "null" else value
    return ToolCall(found[1], json.dumps(arguments, ensure_ascii=False))
