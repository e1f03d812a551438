"""`blyan completion bash|zsh|fish`: what Tab completes, made from the parser, so that it is never behind it.

    eval "$(blyan completion bash)"          in ~/.bashrc
    eval "$(blyan completion zsh)"           in ~/.zshrc, after compinit
    blyan completion fish | source           in ~/.config/fish/config.fish

Commands, options and fixed values stand in the script; names of models are asked of `blyan completion --models`, of
the data directory that the line names.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from blyan.cli.completion_scripts import bash_end, fish_begin, zsh_end
from blyan.cli.output import Output
from blyan.node.data_directory import open_ground
from blyan.primitives.errors import Fault, UsageMistake

if TYPE_CHECKING:
    from blyan.cli.parser import Parser

Kind: TypeAlias = Literal["model", "file", "dir", "any"]

shells: Final = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Value:
    """What may stand in one place: fixed words, or something of a kind."""

    kind: Kind
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """`--name`, what it is for, and its value if it takes one."""

    name: str
    help: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Command:
    """One node of the tree: its words, what comes next."""

    path: str  # words with a space between them, "" for `blyan` itself
    verbs: dict[str, str]  # and what they do
    options: tuple[Option, ...]
    positionals: tuple[Value, ...]
    repeats: bool  # the last positional may come again


def add_commands(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Register `completion`."""
    completion = verbs.add_parser("completion", parents=[common], help="what Tab completes, for your shell")
    completion.add_argument("shell", metavar="bash|zsh|fish", nargs="?", choices=shells)
    completion.add_argument("--models", action="store_true", help="names of models only, as the scripts ask for them")
    completion.set_defaults(run=_completion)


def _completion(options: argparse.Namespace, output: Output) -> int:
    if (options.shell is None) != options.models:
        raise UsageMistake("completion: expected bash, zsh or fish")
    if options.models:
        try:
            names = sorted(open_ground(options.data_dir).chains.state.models)
        except Fault:
            names = []  # Tab is no place for errors
        output.data([{"name": each} for each in names], "\n".join(names))
        return 0
    from blyan.cli.parser import build  # which imports this module

    output.data({}, script(build(), options.shell).rstrip("\n"))
    return 0


def script(parser: Parser, shell: str) -> str:
    """The whole script for one of `shells`."""
    tree = list(commands(parser))
    if shell == "fish":
        leaves = " ".join(f'"{each.path}"' for each in tree if not each.verbs)
        begin = f"set -g __blyan_leaves {leaves}\n" + fish_begin.replace("@TAKES@", _fish_takes(tree))
        return begin + "\n".join(_fish(tree)) + "\n"
    end = bash_end if shell == "bash" else zsh_end
    begin = "#compdef blyan\n" if shell == "zsh" else ""
    return begin + _tables(tree) + end


def commands(parser: Parser, path: str = "") -> Iterator[Command]:
    """The tree, from its root down."""
    options: list[Option] = []
    positionals: list[Value] = []
    repeats = False
    for action in parser.everything():
        if isinstance(action.choices, dict) and not action.option_strings:
            continue  # the verbs themselves
        value = None if action.nargs == 0 else _value(action, path)
        if action.option_strings:
            options += [Option(each, action.help or "", value) for each in action.option_strings]
        else:
            positionals.append(value or Value("any"))
            repeats = action.nargs in ("*", "+")
    yield Command(path, dict(parser.verb_helps()), tuple(options), tuple(positionals), repeats)
    for verb, inner in parser.verbs().items():
        yield from commands(inner, f"{path} {verb}".strip())


def _value(action: argparse.Action, path: str) -> Value:
    if action.choices is not None:
        return Value("any", tuple(str(each) for each in action.choices))
    named = not action.option_strings and path.startswith("model ") and action.metavar == "NAME"
    if action.dest == "model" or named:
        return Value("model")
    if action.metavar == "DIR":
        return Value("dir")
    return Value("file" if action.metavar == "FILE" or action.type is Path else "any")


def _tables(tree: list[Command]) -> str:
    """Functions that both bash and zsh understand: words, options and kinds of values by the path of a command."""
    words, described, options, kinds = list[str](), list[str](), list[str](), list[str]()
    for command in tree:
        key = shlex.quote(command.path) if command.path else "''"
        if command.verbs:
            words.append(f"    {key}) echo {shlex.quote(' '.join(command.verbs))} ;;")
            lines = [shlex.quote(f"{verb}:{told.replace(':', ' -')}") for verb, told in command.verbs.items()]
            described.append(f"    {key}) printf '%s\\n' {' '.join(lines)} ;;")
        options.append(f"    {key}) echo {shlex.quote(' '.join(each.name for each in command.options))} ;;")
        for each in command.options:
            if each.value is not None:
                kinds.append(f"    {shlex.quote(f'{command.path} {each.name}')}) echo {_told(each.value)} ;;")
        for at, value in enumerate(command.positionals):
            last = command.repeats and at == len(command.positionals) - 1
            pattern = shlex.quote(f"{command.path} ") + ("*" if last else str(at))
            kinds.append(f"    {pattern}) echo {_told(value)} ;;")
    tables = (("words", words), ("described", described), ("options", options))
    text = "".join(_function(name, '"$1"', lines) for name, lines in tables)
    return text + _function("kind", '"$1 $2"', kinds)


def _function(name: str, subject: str, lines: list[str]) -> str:
    return f"_blyan_{name}() {{\n  case {subject} in\n" + "\n".join(lines) + "\n  esac\n}\n"


def _told(value: Value) -> str:
    return shlex.quote(" ".join(("words", *value.words)) if value.words else value.kind)


def _fish_takes(tree: list[Command]) -> str:
    taking = sorted({each.name for command in tree for each in command.options if each.value is not None})
    return " ".join(taking)


def _fish(tree: list[Command]) -> Iterator[str]:
    for command in tree:
        at = f"""complete -c blyan -n '__blyan_is "{command.path}"'"""
        for verb, told in command.verbs.items():
            yield f"{at} -a {verb} -d {_fish_text(told)}"
        for option in command.options:
            dashes = f"-l {option.name[2:]}" if option.name.startswith("--") else f"-s {option.name[1:]}"
            told = _fish_text(option.help)
            yield f"{at} {dashes} -d {told}{_fish_value(option.value)}"
        for value in command.positionals:
            if value.words or value.kind != "any":
                yield f"{at}{_fish_value(value).replace(' -r', '').replace(' -x', '')}"


def _fish_value(value: Value | None) -> str:
    if value is None:
        return ""
    if value.words:
        return f" -x -a {_fish_text(' '.join(value.words))}"
    return {
        "model": " -x -a '(__blyan_models)'",
        "file": " -r -F",
        "dir": " -x -a '(__fish_complete_directories)'",
        "any": " -x",
    }[value.kind]


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%") + "'"
