"""The command line as a tree of parsers: every group registers itself here, `completion` walks it.

A word that is none of ours is answered with the nearest that is. Options are not guessed from their beginnings: what
works today by a beginning would be something else once another option begins like it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

from blyan import __version__
from blyan.primitives.nearest import did_you_mean

# the modules here that register commands, in the order of --help, by their first words
_modules: Final[Mapping[str, str]] = {
    "up": "blyan.cli.up",
    "init": "blyan.cli.up",
    "serve": "blyan.cli.serve",
    "chat": "blyan.cli.chat",
    "model": "blyan.cli.model",
    "node": "blyan.cli.node",
    "doctor": "blyan.cli.doctor",
    "config": "blyan.cli.config",
    "blob": "blyan.cli.blob",
    "chain": "blyan.cli.chain",
    "db": "blyan.cli.db",
    "ledger": "blyan.cli.ledger",
    "account": "blyan.cli.account",
    "price": "blyan.cli.price",
    "receipt": "blyan.cli.receipt",
    "wallet": "blyan.cli.wallet",
    "keys": "blyan.cli.keys",
    "completion": "blyan.cli.completion",
}
_not_as_json: Final = frozenset({"blyan.cli.up", "blyan.cli.serve", "blyan.cli.completion"})
_choice: Final = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """argparse with our first line: what was wrong, and what was probably meant, comes before the usage."""

    def __init__(self, **arguments: Any) -> None:
        arguments.setdefault("allow_abbrev", False)
        super().__init__(**arguments)

    def error(self, message: str) -> NoReturn:
        """Say it on stderr and exit with 2."""
        if found := _choice.search(message):
            message += did_you_mean(found[1], [each.strip("' ") for each in found[2].split(",")])
        sys.stderr.write(f"blyan: {message}\n\n")
        self.print_usage(sys.stderr)
        sys.stderr.write(f"`{self.prog} --help` says more\n")
        sys.exit(2)

    def everything(self) -> Sequence[argparse.Action]:
        """Options and positionals, its own and those of its parents."""
        return self._actions

    def verbs(self) -> Mapping[str, Parser]:
        """The parsers one word further down."""
        group = self._group()
        return {} if group is None else group.choices

    def verb_helps(self) -> Mapping[str, str]:
        """What each verb is said to do."""
        group = self._group()
        return {} if group is None else {each.dest: each.help or "" for each in group._get_subactions()}

    def _group(self) -> Any:
        """argparse's action that holds the verbs; it has no public name."""
        return next((action for action in self._actions if isinstance(action.choices, dict)), None)

    def options(self) -> list[str]:
        """Every option by its names."""
        return [name for action in self.everything() for name in action.option_strings]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; a mistake is said on stderr and ends the process with 2."""
    parser = build(_needed(arguments))
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        leaf = leaf_of(parser, arguments)
        first = next((each for each in unknown if each.startswith("-")), unknown[0])
        guess = did_you_mean(first.partition("=")[0], leaf.options()) if first.startswith("-") else ""
        leaf.error(f"unrecognized arguments: {' '.join(unknown)}{guess}")
    return options


def leaf_of(parser: Parser, arguments: Sequence[str]) -> Parser:
    """The parser of the command that these words name, as far as they do."""
    for word in arguments:
        parser = parser.verbs().get(word, parser)
    return parser


def _needed(arguments: Sequence[str]) -> Iterable[str]:
    """The modules that this command line needs: importing all of them takes longer than most commands."""
    words = iter(arguments)
    for word in words:
        if word == "--version":
            return ()
        if word == "--data-dir":
            next(words, None)
        elif word != "--json" and not word.startswith("--data-dir="):
            return (_modules[word],) if word in _modules else _modules.values()  # help, or a mistake: it lists them all
    return _modules.values()


def build(modules: Iterable[str] = _modules.values()) -> Parser:
    """The commands of some modules, or all there are."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data-dir",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="where the node keeps everything (default: $BLYAN_DATA_DIR or ./.blyan)",
    )
    readable = argparse.ArgumentParser(add_help=False)
    readable.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
    parser = Parser(
        prog="blyan",
        description="Blyan: verified Mixture-of-Experts models.",
        epilog="Begin with `blyan up`; `blyan doctor` says what is wrong. Exit codes and examples: docs/cli.md.",
        parents=[common, readable],
    )
    parser.add_argument("--version", action="version", version=f"blyan {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for module in dict.fromkeys(modules):
        parents = (common,) if module in _not_as_json else (common, readable)
        import_module(module).add_commands(verbs, *parents)
    return parser
