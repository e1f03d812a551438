"""Go templates, in which Modelfiles are written, as the Jinja that models are stored with.

A template without `.Messages` is rendered as Ollama does (its template package): once for each turn of the
conversation, the last time up to its first `{{ .Response }}`. Text becomes string expressions and blocks stand without
white space between them, so that Jinja's own rules on white space have nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from blyan.model.go_template import (
    Assign,
    Block,
    Call,
    Expression,
    Field,
    Literal,
    Node,
    Print,
    Text,
    decided,
    fields_of,
    parsed,
    refused,
    shown,
    up_to_response,
)
from blyan.model.infill import variable
from blyan.model.tools import read_back, tool_format_of
from blyan.primitives.errors import InvalidInput

_root_fields: Final = {"System": "system", "Prompt": "prompt", "Response": "response", "Messages": "messages"}
# what may be read of each kind of value → its key, and the kind of what is found
_fields: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "message": {
        "Role": ("role", "text"),
        "Content": ("content", "text"),
        "ToolCalls": ("tool_calls", "calls"),
        "ToolName": ("name", "text"),
    },
    "tool": {"Type": ("type", "text"), "Function": ("function", "declared")},
    "declared": {
        "Name": ("name", "text"),
        "Description": ("description", "text"),
        "Parameters": ("parameters", "json"),
    },
    "call": {"Function": ("function", "called")},
    "called": {"Name": ("name", "text"), "Arguments": ("arguments", "json")},
}
_elements: Final = {"messages": "message", "tools": "tool", "calls": "call"}
_as_json: Final = frozenset({"tools", "tool", "declared", "json"})  # how these are printed
_comparisons: Final = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
# consecutive messages of one role become one, unless they call tools or answer calls; all system messages are `.System`
_collate: Final = (
    "{% set ns = namespace(system='', prompt='', response='', all=[], first=true) %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] if ns.first else ns.system + '\\n\\n' + m['content'] %}{% set ns.first = false %}"
    "{% endif %}"
    "{% set calls = m['tool_calls'] or [] %}{% set ns.one = {'role': m['role'], 'name': m['name'] or ''} %}"
    "{% if ns.all and ns.all[-1]['role'] == m['role'] != 'tool' and not (calls or ns.all[-1]['tool_calls']) %}"
    "{% set ns.one = dict(ns.one, content=ns.all[-1]['content'] + '\\n\\n' + m['content'], tool_calls=[]) %}"
    "{% set ns.all = ns.all[:-1] + [ns.one] %}"
    "{% else %}{% set ns.all = ns.all + [dict(ns.one, content=m['content'], tool_calls=calls)] %}{% endif %}"
    "{% endfor %}"
)
_turns: Final = (
    "{% set ns.system = '' %}{% for m in ns.all %}"
    "{% if m['role'] == 'system' %}"
    "{% if ns.prompt or ns.response %}@TURN@{% endif %}{% set ns.system = m['content'] %}"
    "{% elif m['role'] == 'user' %}{% if ns.response %}@TURN@{% endif %}{% set ns.prompt = m['content'] %}"
    "{% elif m['role'] == 'assistant' %}{% set ns.response = m['content'] %}{% endif %}"
    "{% endfor %}{{ last(ns.system, ns.prompt, ns.response, []) }}"
).replace(
    "@TURN@",
    "{{ turn(ns.system, ns.prompt, ns.response, []) }}"
    "{% set ns.system = '' %}{% set ns.prompt = '' %}{% set ns.response = '' %}",
)


def translated(text: str) -> str:
    """The Jinja template that renders what this Go template renders; `InvalidInput` names what is not translated."""
    nodes = parsed(text)
    if "Suffix" not in set(fields_of(nodes)):
        return _chat(nodes)
    gap = _Writer().block(decided(nodes, "Suffix", given=True), _Scope("root"))
    return (
        "{% macro gap(system, prompt, response, messages) %}{% set v = namespace() %}" + gap + "{% endmacro %}"
        f"{{% if {variable} %}}{{{{ gap('', messages[-1]['content'], '', []) }}}}{{% else %}}"
        + _chat(decided(nodes, "Suffix", given=False))
        + "{% endif %}"
    )


def _chat(nodes: list[Node]) -> str:
    """What prompts with messages."""
    used = set(fields_of(nodes))
    body = _Writer().block(nodes, _Scope("root"))
    if "Messages" in used:
        jinja = (
            "{% macro whole(system, prompt, response, messages) %}{% set v = namespace() %}"
            + body
            + "{% endmacro %}"
            + _collate
            + "{{ whole(ns.system, '', '', ns.all) }}"
        )
        if "Tools" in used and tool_format_of(jinja) is None:
            raise refused(
                ".Tools, with no form of calls that is read back here (" + ", ".join(read_back) + ")",
            )
        return jinja
    if used & {"Tools", "ToolCalls"}:
        raise refused(".Tools without .Messages, so that answers of tools have no place")
    if "Prompt" not in used:
        raise InvalidInput("template: expected one that uses .Prompt or .Messages, found neither")
    if "Response" not in used:  # as Ollama adds it
        nodes = [*nodes, Print(Field("$", ("Response",)))]
    macro = "{%% macro %s(system, prompt, response, messages) %%}{%% set v = namespace() %%}%s{%% endmacro %%}"
    turn = _Writer().block(nodes, _Scope("root"))
    last = _Writer().block(up_to_response(nodes)[0], _Scope("root"))
    return macro % ("turn", turn) + macro % ("last", last) + _collate + _turns


@dataclass(frozen=True, slots=True)
class _Value:
    """An expression in Jinja and what it is: text, number, truth, root, or one of `_fields` and `_elements`."""

    code: str
    kind: str


@dataclass(slots=True)
class _Scope:
    """What the dot is, and which variables are known."""

    dot: str  # root, or the Jinja name of a value
    kind: str = "root"
    variables: dict[str, _Value] = field(default_factory=dict[str, _Value])

    def inner(self, dot: str | None = None, kind: str | None = None) -> _Scope:
        """The scope of a block."""
        return _Scope(dot or self.dot, kind or self.kind, dict(self.variables))


class _Writer:
    """Nodes to Jinja. Every variable has a name of its own in the namespace `v`, which blocks share."""

    def __init__(self) -> None:
        self._names = 0

    def block(self, nodes: Sequence[Node], scope: _Scope) -> str:
        """The Jinja of some nodes; variables they declare are of this block."""
        return "".join(self._node(node, scope) for node in nodes)

    def _node(self, node: Node, scope: _Scope) -> str:
        match node:
            case Text(text):
                return "{{ " + _quoted(text) + " }}"
            case Print(value):
                found = self._value(value, scope)
                if found.kind in _as_json:
                    found = _json(found)
                if found.kind not in ("text", "number"):
                    raise refused(f"an action that prints {shown(value)}, which is no text")
                return "{{ " + found.code + " }}"
            case Assign(name, declares, value):
                return self._assign(name, declares, value, scope)
            case Block():
                return self._branch(node, scope)

    def _new(self) -> str:
        self._names += 1
        return f"v.x{self._names}"

    def _assign(self, name: str, declares: bool, value: Expression, scope: _Scope) -> str:
        found = self._value(value, scope)
        if declares:
            scope.variables[name] = _Value(self._new(), found.kind)
        known = scope.variables.get(name)
        if known is None or known.kind != found.kind:
            raise refused(f"{name}, which was not declared as {found.kind}")
        return f"{{% set {known.code} = {found.code} %}}"

    def _branch(self, node: Block, scope: _Scope) -> str:
        found = self._value(node.value, scope)
        if node.kind == "range":
            return self._range(node, found, scope)
        inner = scope.inner()
        begin = f"{{% if {found.code} %}}"
        if node.variables or node.kind == "with":
            held = _Value(self._new(), found.kind)
            begin = f"{{% set {held.code} = {found.code} %}}{{% if {held.code} %}}"
            inner = scope.inner(held.code, held.kind) if node.kind == "with" else scope.inner()
            inner.variables |= dict.fromkeys(node.variables, held)
        otherwise = self.block(node.otherwise, scope.inner())
        return begin + self.block(node.body, inner) + (f"{{% else %}}{otherwise}" if otherwise else "") + "{% endif %}"

    def _range(self, node: Block, found: _Value, scope: _Scope) -> str:
        if found.kind not in _elements:
            raise refused(f"{{{{ range }}}} over {shown(node.value)}, which is no list of messages, tools or calls")
        element, number = _Value(self._new(), _elements[found.kind]), _Value(self._new(), "number")
        inner = scope.inner(element.code, element.kind)
        inner.variables |= dict(zip(node.variables[::-1], (element, number), strict=False))
        item = element.code.replace(".", "_")
        # kept in the namespace too, which `set` in blocks within can change and loops do not hide
        begin = f"{{% for {item} in {found.code} %}}{{% set {element.code} = {item} %}}"
        begin += f"{{% set {number.code} = loop.index0 %}}"
        otherwise = self.block(node.otherwise, scope.inner())
        return begin + self.block(node.body, inner) + (f"{{% else %}}{otherwise}" if otherwise else "") + "{% endfor %}"

    def _value(self, value: Expression, scope: _Scope) -> _Value:
        match value:
            case Literal(bool() as truth):
                return _Value("true" if truth else "false", "truth")
            case Literal(int() as number):
                return _Value(f"({number})", "number")
            case Literal(str() as text):
                return _Value(_quoted(text), "text")
            case Field():
                return self._field(value, scope)
            case Call(name, arguments):
                return _called(name, [self._value(each, scope) for each in arguments], value)
        raise AssertionError("every expression has a case")

    def _field(self, value: Field, scope: _Scope) -> _Value:
        known = scope.variables.get(value.base)
        if value.base == "$" or (value.base == "." and scope.kind == "root"):
            found = _Value("", "root")
        elif value.base == ".":
            found = _Value(scope.dot, scope.kind)
        elif known is not None:
            found = known
        else:
            raise refused(f"{value.base}, which was not declared")
        for name in value.names:
            if found.kind == "root" and name in _root_fields:
                found = _Value(_root_fields[name], "messages" if name == "Messages" else "text")
            elif found.kind == "root" and name == "Suffix":
                found = _Value(f"({variable} or '')", "text")
            elif found.kind == "root" and name == "Tools":
                found = _Value("(tools or [])", "tools")
            elif name in _fields.get(found.kind, {}):
                key, kind = _fields[found.kind][name]
                found = _Value(f"{found.code}['{key}']", kind)
            else:
                raise refused(shown(value))
        return found


def _called(name: str, given: list[_Value], value: Call) -> _Value:
    codes = [each.code for each in given]
    kinds = {each.kind for each in given}
    if "root" in kinds:
        raise refused(shown(value))
    if name in ("and", "or") and given:  # the operand that decides, as in Jinja
        return _Value("(" + f" {name} ".join(codes) + ")", kinds.pop() if len(kinds) == 1 else "truth")
    if name == "not" and len(given) == 1:
        return _Value(f"(not {codes[0]})", "truth")
    comparable = len(kinds) == 1 and kinds <= {"text", "number", "truth"}
    if name == "eq" and len(given) >= 2 and comparable:
        return _Value("(" + " or ".join(f"{codes[0]} == {each}" for each in codes[1:]) + ")", "truth")
    if name in _comparisons and len(given) == 2 and comparable and (name == "ne" or kinds <= {"text", "number"}):
        return _Value(f"({codes[0]} {_comparisons[name]} {codes[1]})", "truth")
    if name == "json" and len(given) == 1 and kinds <= {"text", "number", *_as_json}:
        return _json(given[0])
    if name == "currentDate" and not given:
        return _Value("strftime_now('%Y-%m-%d')", "text")
    if name == "len" and len(given) == 1 and kinds <= _elements.keys():  # of a text Go counts bytes
        return _Value(f"({codes[0]}|length)", "number")
    numbers = all(each.kind == "number" for each in given[1:])
    if name == "slice" and 2 <= len(given) <= 3 and given[0].kind in _elements and numbers:
        return _Value(f"{codes[0]}[{':'.join(codes[1:]) + (':' if len(given) == 2 else '')}]", given[0].kind)
    if name == "index" and len(given) == 2 and given[0].kind in _elements and numbers:
        return _Value(f"{codes[0]}[{codes[1]}]", _elements[given[0].kind])
    raise refused(shown(value))


def _json(value: _Value) -> _Value:
    """As Ollama prints what is no text: JSON without spaces, in the order in which it was sent."""
    return _Value(f"({value.code}|tojson(separators=(',', ':')))", "text")


def _quoted(text: str) -> str:
    """A Jinja string; braces and percent signs are escaped, so that nothing in it can end an expression."""
    plain = {character for character in map(chr, range(0x20, 0x7F)) if character not in "'\\{}%#"}
    return "'" + "".join(each if each in plain else _escaped(each) for each in text) + "'"


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
