"""Go templates, in which Modelfiles are written, parsed; `go_to_jinja` writes what was found as Jinja.

Known: text, comments, trim markers, `if`, `with` and `range` with their `else`s, `break`, `continue`, variables, `$`,
fields, literals, functions and pipes. What they mean, `go_to_jinja` and `go_values` know. Everything else is refused by
its line and name, because a template that is nearly right prompts a model wrongly in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from blyan.primitives.errors import InvalidInput

_space: Final = " \t\r\n"
# outside of strings an action holds no brace, so that finding its end costs its own length
_action: Final = re.compile(
    r"""\{\{(?P<left>-(?=\s))?(?P<inside>(?:"(?:[^"\\\n]|\\.)*"|`[^`]*`|[^"`{}])*?)(?P<right>(?<=\s)-)?\}\}"""
)
_comment_begin: Final = re.compile(r"\{\{(?P<left>-(?=\s))?\s*/\*")
_comment_end: Final = re.compile(r"\s*(?P<right>(?<=\s)-)?\}\}")
_token: Final = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>-?\d+(?![\w.]))|(?P<declare>:=)|(?P<punctuation>[(),=|])"""
    r"""|(?P<field>(?:\$\w*)?(?:\.\w+)+)|(?P<variable>\$\w*)|(?P<dot>\.)|(?P<word>\w+)|(?P<other>\S))"""
)
_depth_max: Final = 64


def parsed(text: str) -> list[Node]:
    """The nodes of a template; `InvalidInput` names what is none of those that are known."""
    return _Parser(_pieces(text)).whole()


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, a whole number, or true or false."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class Field:
    """What is read from the dot, the root, a variable or a value; without names, that itself."""

    base: str | Expression  # "." for the dot, "$" for the root, "$name" for a variable
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its operands."""

    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Text between actions, as it is printed."""

    text: str


@dataclass(frozen=True, slots=True)
class Print:
    """An action that prints a value."""

    value: Expression
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Assign:
    """An action that sets a variable."""

    name: str
    declares: bool
    value: Expression
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Block:
    """`if`, `with` or `range` with its bodies."""

    kind: str  # if, with, range
    variables: tuple[str, ...]
    value: Expression
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Leave:
    """`break` or `continue`."""

    kind: str


Expression: TypeAlias = Literal | Field | Call
Node: TypeAlias = Text | Print | Assign | Block | Leave


def refused(what: str) -> InvalidInput:
    """The fault for something that is not translated."""
    return InvalidInput(
        f"template: expected what can be translated from a Go template, found {what[:160]}",
        hint="write the template in Jinja, as chat templates of checkpoints are",
    )


@contextmanager
def at_line(line: int) -> Generator[None]:
    """A refusal within says the line, if none within it has said one."""
    try:
        yield
    except InvalidInput as fault:
        if line and "line" not in fault.detail:
            fault.detail = {**fault.detail, "line": line}
            fault.message = fault.message.replace("template:", f"template line {line}:", 1)
            fault.args = (fault.message,)
        raise


@dataclass(frozen=True, slots=True)
class _Action:
    tokens: list[re.Match[str]]
    line: int


def _pieces(text: str) -> list[str | _Action]:
    """Texts and the tokens of actions in turn, trim markers applied, comments left out."""
    pieces: list[str | _Action] = []
    at, trims, line, counted = 0, False, 1, 0
    while (begin := text.find("{{", at)) >= 0:
        line, counted = line + text.count("\n", counted, begin), begin
        found = _comment_begin.match(text, begin)
        if found:
            end = text.find("*/", found.end())
            action = _comment_end.match(text, end + 2) if end >= 0 else None
        else:
            action = found = _action.match(text, begin)
        if action is None or found is None:
            with at_line(line):
                raise refused(f"an action that does not end: {text[begin : begin + 40]!r}")
        before = text[at:begin].lstrip(_space) if trims else text[at:begin]
        pieces.append(before.rstrip(_space) if found["left"] else before)
        if found is action:
            tokens = list(_token.finditer(action["inside"].strip()))
            if not tokens:
                with at_line(line):
                    raise refused("an empty action")
            pieces.append(_Action(tokens, line))
        at, trims = action.end(), bool(action["right"])
    return [*pieces, text[at:].lstrip(_space) if trims else text[at:]]


class _Parser:
    """Pieces to nodes, by recursive descent."""

    def __init__(self, pieces: list[str | _Action]) -> None:
        self._pieces = pieces
        self._at = 0
        self._line = 1  # of the present action
        self._ranges = 0  # that the present action is in
        self._tokens: list[re.Match[str]] = []  # what is left of the present action
        self._depth = 0

    def whole(self) -> list[Node]:
        """The nodes of the whole template."""
        try:
            nodes, ended = self._list()
            if ended:
                raise refused(f"{{{{ {ended} }}}} outside of a block")
        except InvalidInput:
            with at_line(self._line):
                raise
        return nodes

    def _list(self) -> tuple[list[Node], str]:
        """Nodes up to `end`, an `else`, or the end of the text (""), which is consumed."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if isinstance(piece, str):
                if piece:
                    nodes.append(Text(piece))
                continue
            self._tokens, self._line = list(piece.tokens), piece.line
            first = self._tokens[0]["word"]
            if first in ("end", "else"):
                self._tokens.pop(0)
                return nodes, str(first)
            nodes.append(self._node(first))
            self._done()
        return nodes, ""

    def _done(self) -> None:
        if self._tokens:
            raise refused(repr(self._tokens[0][0].strip()))

    def _node(self, first: str | None) -> Node:
        if first in ("if", "with", "range"):
            self._tokens.pop(0)
            return self._block(first)
        if first in ("break", "continue"):
            self._tokens.pop(0)
            if not self._ranges:
                raise refused(f"{{{{ {first} }}}} outside of a range")
            return Leave(first)
        if first in ("define", "template", "block"):
            raise refused(f"{{{{ {first} }}}}")
        names, declares = self._declared()
        value = self._pipe()
        return Assign(names[0], declares, value, self._line) if names else Print(value, self._line)

    def _declared(self) -> tuple[tuple[str, ...], bool]:
        """Variables before `:=` or `=`, and whether they are new."""
        end = next((n for n, token in enumerate(self._tokens) if token["declare"] or token["punctuation"] == "="), None)
        if end is None:
            return (), False
        names = tuple(token["variable"] or "" for token in self._tokens[:end:2])
        commas = [token["punctuation"] for token in self._tokens[1:end:2]]
        if not all(name[1:] for name in names) or any(comma != "," for comma in commas) or len(names) > 2:
            raise refused(f"{self._tokens[end][0].strip()} after something that is no variable")
        declares = bool(self._tokens[end]["declare"])
        del self._tokens[: end + 1]
        return names, declares

    def _block(self, kind: str) -> Block:
        self._depth += 1
        if self._depth > _depth_max:
            raise refused(f"more than {_depth_max} blocks in each other")
        names, declares = self._declared()
        if (names and not declares) or (len(names) > 1 and kind != "range"):
            raise refused(f"{{{{ {kind} }}}} that sets {', '.join(names)}")
        line, value = self._line, self._pipe()
        self._done()
        self._ranges += kind == "range"
        body, ended = self._list()
        self._ranges -= kind == "range"
        otherwise: list[Node] = []
        if ended == "else" and self._tokens:  # else if, else with
            again = self._tokens[0]["word"]
            if again not in ("if", "with") or kind == "range":
                raise refused(f"{{{{ else {self._tokens[0][0].strip()} }}}}")
            self._tokens.pop(0)
            otherwise = [self._block(again)]
        elif ended == "else":
            otherwise, ended = self._list()
            if ended == "else":
                raise refused("{{ else }} after {{ else }}")
            self._done()
        if not ended:
            self._line = line
            raise refused(f"{{{{ {kind} }}}} without its {{{{ end }}}}")
        self._done()
        self._depth -= 1
        return Block(kind, names, value, tuple(body), tuple(otherwise), line)

    def _pipe(self) -> Expression:
        """Commands; what one gives is the last operand of the next."""
        value = self._expression()
        while self._tokens and self._tokens[0]["punctuation"] == "|":
            self._tokens.pop(0)
            after = self._expression()
            if not isinstance(after, Call):
                raise refused("'|' before something that is no function")
            value = Call(after.name, (*after.arguments, value))
        return value

    def _expression(self) -> Expression:
        """One operand, or a function and its operands."""
        if self._tokens and (name := self._tokens[0]["word"]) and name not in ("true", "false", "nil"):
            self._tokens.pop(0)
            arguments: list[Expression] = []
            while self._tokens and self._tokens[0]["punctuation"] not in (")", "|"):
                arguments.append(self._operand())
            return Call(name, tuple(arguments))
        return self._operand()

    def _operand(self) -> Expression:
        if not self._tokens:
            raise refused("an action without a value")
        token = self._tokens.pop(0)
        if token["punctuation"] == "(":
            self._depth += 1
            if self._depth > _depth_max:
                raise refused(f"more than {_depth_max} parentheses in each other")
            value = self._pipe()
            if not self._tokens or (closing := self._tokens.pop(0))["punctuation"] != ")":
                raise refused("a parenthesis that does not close")
            self._depth -= 1
            after = self._tokens[0] if self._tokens else None
            if after is not None and (after["field"] or "").startswith(".") and after.start() == closing.end():
                return Field(value, tuple(self._tokens.pop(0)["field"][1:].split(".")))
            return value
        if token["string"]:
            return Literal(_string(token["string"]))
        if token["number"]:
            return Literal(int(token["number"]))
        if token["field"]:
            base, *names = token["field"].split(".")
            return Field(base or ".", tuple(names))
        if token["variable"] or token["dot"]:
            return Field(token["variable"] or ".", ())
        if token["word"] in ("true", "false"):
            return Literal(token["word"] == "true")
        raise refused(repr(token[0].strip()))


def _string(quoted: str) -> str:
    if quoted[0] == "`":
        return quoted[1:-1]
    try:
        return json.loads(quoted)
    except ValueError:  # Go's \x41, \a and others, which nobody writes here
        raise refused(f"the string {quoted}") from None


def fields_of(nodes: Sequence[Node]) -> Iterator[str]:
    """Names of the fields that a template reads."""
    for node in nodes:
        if isinstance(node, Block):
            yield from fields_of(node.body)
            yield from fields_of(node.otherwise)
        if not isinstance(node, Text | Leave):
            yield from _read(node.value)


def _read(value: Expression) -> Iterator[str]:
    if isinstance(value, Field):
        yield from value.names
        if not isinstance(value.base, str):
            yield from _read(value.base)
    elif isinstance(value, Call):
        for argument in value.arguments:
            yield from _read(argument)


def up_to_response(nodes: Sequence[Node]) -> tuple[list[Node], bool]:
    """The nodes up to the first that prints the response, and whether there was one."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Block):
            body, cut = up_to_response(node.body)
            otherwise, cut_there = up_to_response(node.otherwise)
            if (cut or cut_there) and node.otherwise:
                raise refused("{{ .Response }} in one branch of two")
            kept.append(replace(node, body=tuple(body), otherwise=tuple(otherwise)))
        else:
            kept.append(node)
            cut = isinstance(node, Print) and "Response" in _read(node.value)
        if cut:
            return kept, True
    return kept, False


def decided(nodes: Sequence[Node], field: str, *, given: bool) -> list[Node]:
    """The nodes with every `if` that asks for nothing but this field of the root decided."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Block):
            body, otherwise = (decided(each, field, given=given) for each in (node.body, node.otherwise))
            if node.kind == "if" and not node.variables and node.value in (Field(".", (field,)), Field("$", (field,))):
                kept += body if given else otherwise
            else:
                kept.append(replace(node, body=tuple(body), otherwise=tuple(otherwise)))
        else:
            kept.append(node)
    return kept


def shown(value: Expression) -> str:
    """An expression as it was written, more or less."""
    match value:
        case Literal(found):
            return json.dumps(found)
        case Field(base, names) if not isinstance(base, str):
            return ".".join((shown(base), *names))
        case Field(base, names):
            return "." + ".".join(names) if base == "." else ".".join((str(base), *names))
        case Call(name, arguments):
            return f"({' '.join([name, *map(shown, arguments)])})"
