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
    Leave,
    Literal,
    Node,
    Print,
    Text,
    at_line,
    decided,
    fields_of,
    parsed,
    refused,
    shown,
    up_to_response,
)
from blyan.model.go_values import Value, called, fields, lists, maps, printed, quoted, truth
from blyan.model.infill import variable
from blyan.model.thinking import begin as thought_begin
from blyan.primitives.errors import InvalidInput

_root_fields: Final = {
    "System": ("system", "text"),
    "Prompt": ("prompt", "text"),
    "Response": ("response", "text"),
    "Messages": ("messages", "messages"),
    "Tools": ("(tools or [])", "tools"),
    "Suffix": (f"({variable} or '')", "text"),
    "ThinkLevel": ("(reasoning_effort|default(''))", "text"),
}
# whether to think: a model that thinks does, unless it is told not to, as in Ollama
_thinking: Final = {
    True: {"Think": "(enable_thinking|default(true))", "IsThinkSet": "true"},
    False: {"Think": "(enable_thinking|default(false))", "IsThinkSet": "(enable_thinking is defined)"},
}
# consecutive messages of one role become one, unless they call tools or answer calls; all system messages are `.System`
_collate: Final = (
    "{% set ns = namespace(system='', prompt='', response='', all=[], first=true) %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] if ns.first else ns.system + '\\n\\n' + m['content'] %}{% set ns.first = false %}"
    "{% endif %}"
    "{% set calls = m['tool_calls'] or [] %}"
    "{% set ns.one = {'role': m['role'], 'name': m['name'] or '', 'thinking': m['reasoning_content'] or '', "
    "'tool_call_id': m['tool_call_id'] or ''} %}"
    "{% if ns.all and ns.all[-1]['role'] == m['role'] != 'tool' and not (calls or ns.all[-1]['tool_calls']) %}"
    "{% set ns.one = dict(ns.all[-1], content=ns.all[-1]['content'] + '\\n\\n' + m['content']) %}"
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
    """The Jinja template that renders what this Go template renders.

    `InvalidInput` names what is not translated, and its line.
    """
    nodes = parsed(text)
    thinks = thought_begin in text
    if "Suffix" not in set(fields_of(nodes)):
        return _chat(nodes, thinks)
    gap = _Writer(thinks).block(decided(nodes, "Suffix", given=True), _Scope("root"))
    return (
        "{% macro gap(system, prompt, response, messages) %}{% set v = namespace() %}" + gap + "{% endmacro %}"
        f"{{% if {variable} %}}{{{{ gap('', messages[-1]['content'], '', []) }}}}{{% else %}}"
        + _chat(decided(nodes, "Suffix", given=False), thinks)
        + "{% endif %}"
    )


def _chat(nodes: list[Node], thinks: bool) -> str:
    """What prompts with messages."""
    used = set(fields_of(nodes))
    body = _Writer(thinks).block(nodes, _Scope("root"))
    if "Messages" in used:
        return (
            "{% macro whole(system, prompt, response, messages) %}{% set v = namespace() %}"
            + body
            + "{% endmacro %}"
            + _collate
            + "{{ whole(ns.system, '', '', ns.all) }}"
        )
    if used & {"Tools", "ToolCalls"}:
        raise refused(".Tools without .Messages, so that answers of tools have no place")
    if "Prompt" not in used:
        raise InvalidInput("template: expected one that uses .Prompt or .Messages, found neither")
    if "Response" not in used:  # as Ollama adds it
        nodes = [*nodes, Print(Field("$", ("Response",)))]
    macro = "{%% macro %s(system, prompt, response, messages) %%}{%% set v = namespace() %%}%s{%% endmacro %%}"
    turn = _Writer(thinks).block(nodes, _Scope("root"))
    last = _Writer(thinks).block(up_to_response(nodes)[0], _Scope("root"))
    return macro % ("turn", turn) + macro % ("last", last) + _collate + _turns


@dataclass(slots=True)
class _Scope:
    """What the dot is, and which variables are known."""

    dot: str  # root, or the Jinja name of a value
    kind: str = "root"
    variables: dict[str, Value] = field(default_factory=dict[str, Value])

    def inner(self, dot: str | None = None, kind: str | None = None) -> _Scope:
        """The scope of a block."""
        return _Scope(dot or self.dot, kind or self.kind, dict(self.variables))


class _Writer:
    """Nodes to Jinja. Every variable has a name of its own in the namespace `v`, which blocks share."""

    def __init__(self, thinks: bool) -> None:
        self._thinking = _thinking[thinks]
        self._names = 0

    def block(self, nodes: Sequence[Node], scope: _Scope) -> str:
        """The Jinja of some nodes; variables they declare are of this block."""
        return "".join(self._node(node, scope) for node in nodes)

    def _node(self, node: Node, scope: _Scope) -> str:
        match node:
            case Text(text):
                return "{{ " + quoted(text) + " }}"
            case Leave(kind):
                return "{% " + kind + " %}"
            case Print(value, line):
                with at_line(line):
                    text = printed(self._value(value, scope))
                    if text is None:
                        raise refused(f"an action that prints {shown(value)}, which is no text")
                return "{{ " + text + " }}"
            case Assign(name, declares, value, line):
                with at_line(line):
                    return self._assign(name, declares, value, scope)
            case Block():
                with at_line(node.line):
                    return self._branch(node, scope)

    def _new(self) -> str:
        self._names += 1
        return f"v.x{self._names}"

    def _assign(self, name: str, declares: bool, value: Expression, scope: _Scope) -> str:
        found = self._value(value, scope)
        if declares:
            scope.variables[name] = Value(self._new(), found.kind)
        known = scope.variables.get(name)
        if known is None or known.kind != found.kind:
            raise refused(f"{name}, which was not declared as {found.kind}")
        return f"{{% set {known.code} = {found.code} %}}"

    def _branch(self, node: Block, scope: _Scope) -> str:
        found = self._value(node.value, scope)
        if node.kind == "range":
            return self._range(node, found, scope)
        inner = scope.inner()
        begin = f"{{% if {truth(found)} %}}"
        if node.variables or node.kind == "with":
            held = Value(self._new(), found.kind)
            begin = f"{{% set {held.code} = {found.code} %}}{{% if {truth(held)} %}}"
            inner = scope.inner(held.code, held.kind) if node.kind == "with" else scope.inner()
            inner.variables |= dict.fromkeys(node.variables, held)
        otherwise = self.block(node.otherwise, scope.inner())
        return begin + self.block(node.body, inner) + (f"{{% else %}}{otherwise}" if otherwise else "") + "{% endif %}"

    def _range(self, node: Block, found: Value, scope: _Scope) -> str:
        keyed = found.kind in maps
        if not keyed and found.kind not in lists:
            raise refused(f"{{{{ range }}}} over {shown(node.value)}, which is no list and no map")
        element = Value(self._new(), maps[found.kind] if keyed else lists[found.kind])
        key = Value(self._new(), "text" if keyed else "number")
        inner = scope.inner(element.code, element.kind)
        inner.variables |= dict(zip(node.variables[::-1], (element, key), strict=False))
        item, name = element.code.replace(".", "_"), key.code.replace(".", "_")
        # kept in the namespace too, which `set` in blocks within can change and loops do not hide
        over = f"{name}, {item} in {found.code}.items()" if keyed else f"{item} in {found.code}"
        begin = f"{{% for {over} %}}{{% set {element.code} = {item} %}}"
        begin += f"{{% set {key.code} = {name if keyed else 'loop.index0'} %}}"
        loop = begin + self.block(node.body, inner) + "{% endfor %}"
        otherwise = self.block(node.otherwise, scope.inner())
        # the `else` of a loop in Jinja is also for one that went on to the next each time
        return f"{{% if {found.code} %}}{loop}{{% else %}}{otherwise}{{% endif %}}" if otherwise else loop

    def _value(self, value: Expression, scope: _Scope) -> Value:
        match value:
            case Literal(bool() as truth):
                return Value("true" if truth else "false", "truth")
            case Literal(int() as number):
                return Value(f"({number})", "number")
            case Literal(str() as text):
                return Value(quoted(text), "text")
            case Field():
                return self._field(value, scope)
            case Call(name, arguments):
                return called(name, [self._value(each, scope) for each in arguments], value)
        raise AssertionError("every expression has a case")

    def _field(self, value: Field, scope: _Scope) -> Value:
        found = self._base(value, scope)
        for name in value.names:
            if found.kind == "root" and name in _root_fields:
                found = Value(*_root_fields[name])
            elif found.kind == "root" and name in self._thinking:
                found = Value(self._thinking[name], "truth")
            elif name in fields.get(found.kind, {}):
                code, kind = fields[found.kind][name]
                found = Value(code.replace("@", found.code), kind)
            else:
                raise refused(shown(value))
        return found

    def _base(self, value: Field, scope: _Scope) -> Value:
        if not isinstance(value.base, str):
            return self._value(value.base, scope)
        if value.base == "$" or (value.base == "." and scope.kind == "root"):
            return Value("", "root")
        if value.base == ".":
            return Value(scope.dot, scope.kind)
        known = scope.variables.get(value.base)
        if known is None:
            raise refused(f"{value.base}, which was not declared")
        return known
