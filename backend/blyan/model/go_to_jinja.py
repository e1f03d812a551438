"""Go templates, in which Modelfiles are written, as the Jinja that models are stored with.

A template without `.Messages` is rendered as Ollama does (its template package): once for each turn of the
conversation, the last time up to its first `{{ .Response }}`. Text becomes string expressions and blocks stand without
white space between them, so that Jinja's own rules on white space have nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    fields_of,
    parsed,
    refused,
    shown,
    up_to_response,
)
from blyan.primitives.errors import InvalidInput

_root_fields: Final = {"System": "system", "Prompt": "prompt", "Response": "response", "Messages": "messages"}
_message_fields: Final = {"Role": "role", "Content": "content"}
_comparisons: Final = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
# consecutive messages of one role become one, and all system messages together are `.System`
_collate: Final = (
    "{% set ns = namespace(system='', prompt='', response='', all=[], first=true) %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] if ns.first else ns.system + '\\n\\n' + m['content'] %}{% set ns.first = false %}"
    "{% endif %}"
    "{% if ns.all and ns.all[-1]['role'] == m['role'] %}"
    "{% set ns.all = ns.all[:-1] + [{'role': m['role'], 'content': ns.all[-1]['content'] + '\\n\\n' + m['content']}] %}"
    "{% else %}{% set ns.all = ns.all + [{'role': m['role'], 'content': m['content']}] %}{% endif %}"
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
    used = set(fields_of(nodes))
    body = _Writer().block(nodes, _Scope("root"))
    if "Messages" in used:
        return (
            "{% macro whole(system, prompt, response, messages) %}{% set v = namespace() %}"
            + body
            + "{% endmacro %}"
            + _collate
            + "{{ whole(ns.system, '', '', ns.all) }}"
        )
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
    """An expression in Jinja and what it is: text, number, truth, message, messages or root."""

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
        if found.kind != "messages":
            raise refused(f"{{{{ range }}}} over {shown(node.value)}, which is no list of messages")
        element, number = _Value(self._new(), "message"), _Value(self._new(), "number")
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
            elif found.kind == "message" and name in _message_fields:
                found = _Value(f"{found.code}['{_message_fields[name]}']", "text")
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
    if name == "len" and len(given) == 1 and kinds == {"messages"}:  # of a text Go counts bytes
        return _Value(f"({codes[0]}|length)", "number")
    numbers = all(each.kind == "number" for each in given[1:])
    if name == "slice" and 2 <= len(given) <= 3 and given[0].kind == "messages" and numbers:
        return _Value(f"{codes[0]}[{':'.join(codes[1:]) + (':' if len(given) == 2 else '')}]", "messages")
    if name == "index" and len(given) == 2 and given[0].kind == "messages" and numbers:
        return _Value(f"{codes[0]}[{codes[1]}]", "message")
    raise refused(shown(value))


def _quoted(text: str) -> str:
    """A Jinja string; braces and percent signs are escaped, so that nothing in it can end an expression."""
    plain = {character for character in map(chr, range(0x20, 0x7F)) if character not in "'\\{}%#"}
    return "'" + "".join(each if each in plain else _escaped(each) for each in text) + "'"


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
