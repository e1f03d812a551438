"""Go templates, in which Modelfiles are written, parsed; `go_to_jinja` writes what was found as Jinja.

Known: text, comments, trim markers, `if`/`else if`/`else`, `range` over `.Messages`, `.Tools` and `.ToolCalls`, `with`,
`$variables`, `$`, `.System .Prompt .Response` and the fields of messages, tools and calls, literals, and the functions
`and or not eq ne lt le gt ge len slice index json currentDate`. Everything else is refused by name, because a template
that is nearly right prompts a model wrongly in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


def is_jinja(text: str) -> bool:
    """Whether a template is Jinja: it has statements, or expressions that Go's templates cannot have."""
    if "{%" in text or "{#" in text:
        return True
    found = [action["inside"].strip() for action in _action.finditer(text)]
    return bool(found) and not any(re.match(r"[.$/]|(if|range|with|else|end|and|or|eq|not)\b", each) for each in found)


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, a whole number, or true or false."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class Field:
    """What is read from the dot, the root or a variable; without names, that itself."""

    base: str  # "." for the dot, "$" for the root, "$name" for a variable
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


@dataclass(frozen=True, slots=True)
class Assign:
    """An action that sets a variable."""

    name: str
    declares: bool
    value: Expression


@dataclass(frozen=True, slots=True)
class Block:
    """`if`, `with` or `range` with its bodies."""

    kind: str  # if, with, range
    variables: tuple[str, ...]
    value: Expression
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


Expression: TypeAlias = Literal | Field | Call
Node: TypeAlias = Text | Print | Assign | Block


def refused(what: str) -> InvalidInput:
    """The fault for something that is not translated."""
    return InvalidInput(
        f"template: expected what can be translated from a Go template, found {what[:160]}",
        hint="write the template in Jinja, as chat templates of checkpoints are",
    )


def _pieces(text: str) -> list[str | list[re.Match[str]]]:
    """Texts and the tokens of actions in turn, trim markers applied, comments left out."""
    pieces: list[str | list[re.Match[str]]] = []
    at, trims = 0, False
    while (begin := text.find("{{", at)) >= 0:
        found = _comment_begin.match(text, begin)
        if found:
            end = text.find("*/", found.end())
            action = _comment_end.match(text, end + 2) if end >= 0 else None
        else:
            action = found = _action.match(text, begin)
        if action is None or found is None:
            raise refused(f"an action that does not end: {text[begin : begin + 40]!r}")
        before = text[at:begin].lstrip(_space) if trims else text[at:begin]
        pieces.append(before.rstrip(_space) if found["left"] else before)
        if found is action:
            tokens = list(_token.finditer(action["inside"].strip()))
            if not tokens:
                raise refused("an empty action")
            pieces.append(tokens)
        at, trims = action.end(), bool(action["right"])
    return [*pieces, text[at:].lstrip(_space) if trims else text[at:]]


class _Parser:
    """Pieces to nodes, by recursive descent."""

    def __init__(self, pieces: list[str | list[re.Match[str]]]) -> None:
        self._pieces = pieces
        self._at = 0
        self._tokens: list[re.Match[str]] = []  # what is left of the present action
        self._depth = 0

    def whole(self) -> list[Node]:
        """The nodes of the whole template."""
        nodes, ended = self._list()
        if ended:
            raise refused(f"{{{{ {ended} }}}} outside of a block")
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
            self._tokens = list(piece)
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
        if first in ("define", "template", "block", "break", "continue"):
            raise refused(f"{{{{ {first} }}}}")
        names, declares = self._declared()
        value = self._expression()
        return Assign(names[0], declares, value) if names else Print(value)

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
        value = self._expression()
        self._done()
        body, ended = self._list()
        otherwise: list[Node] = []
        if ended == "else" and self._tokens:  # else if
            if self._tokens[0]["word"] != "if" or kind == "range":
                raise refused(f"{{{{ else {self._tokens[0][0].strip()} }}}}")
            self._tokens.pop(0)
            otherwise = [self._block("if")]
        elif ended == "else":
            otherwise, ended = self._list()
            if ended == "else":
                raise refused("{{ else }} after {{ else }}")
            self._done()
        if not ended:
            raise refused(f"{{{{ {kind} }}}} without its {{{{ end }}}}")
        self._done()
        self._depth -= 1
        return Block(kind, names, value, tuple(body), tuple(otherwise))

    def _expression(self) -> Expression:
        """One operand, or a function and its operands."""
        if self._tokens and (name := self._tokens[0]["word"]) and name not in ("true", "false", "nil"):
            self._tokens.pop(0)
            arguments: list[Expression] = []
            while self._tokens and self._tokens[0]["punctuation"] != ")":
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
            value = self._expression()
            if not self._tokens or self._tokens.pop(0)["punctuation"] != ")":
                raise refused("a parenthesis that does not close")
            self._depth -= 1
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
        if not isinstance(node, Text):
            yield from _read(node.value)


def _read(value: Expression) -> Iterator[str]:
    if isinstance(value, Field):
        yield from value.names
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
            kept.append(Block(node.kind, node.variables, node.value, tuple(body), tuple(otherwise)))
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
                kept.append(Block(node.kind, node.variables, node.value, tuple(body), tuple(otherwise)))
        else:
            kept.append(node)
    return kept


def shown(value: Expression) -> str:
    """An expression as it was written, more or less."""
    match value:
        case Literal(found):
            return json.dumps(found)
        case Field(base, names):
            return base + ".".join(names) if base == "." else ".".join((base, *names))
        case Call(name, arguments):
            return f"({' '.join([name, *map(shown, arguments)])})"
