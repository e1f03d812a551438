"""Every setting with its value and origin, and all mistakes at once: what `blyan config` shows.

`node/config` stops at the first mistake, because a node must not run on half a configuration; here it is collected
with the line of the file where it stands. Lines are found by their beginnings, since tomllib does not tell them: a
table header or key inside a multi-line text can mislead the number, never the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, cast

from blyan.node.accounts_config import AccountsConfig
from blyan.node.config import (
    data_dir_from_environment,
    door_address,
    faults_of,
    file_name,
    from_environment,
    merge,
    process_environment,
    read_file,
    sections,
    unread_variables,
    variable_of,
)
from blyan.node.http_config import HttpConfig
from blyan.primitives import limits
from blyan.primitives.errors import Denied, Fault, InvalidInput, NotFound
from blyan.primitives.url_secrets import redacted, without_path, without_secrets
from blyan.storage import durable

_header: Final = re.compile(r"\s*\[+\s*([^\]\s]+)\s*\]")
_key: Final = re.compile(r"\s*([\w.\"'-]+)\s*=")
_at_line: Final = re.compile(r"\(at line (\d+), column \d+\)")
_secret: Final = re.compile(r"(?:^|_)(?:passphrase|password|secret|token|seed|key)$")
_paths_are_keys: Final = frozenset({"rpc_urls"})  # of whose URLs nothing is shown but where they lead

_Place = tuple[str, str | None]  # section and key


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it holds; secrets are not in it."""

    key: str  # section.key
    value: str | int | bool | tuple[str, ...]
    origin: str  # default, FILE:LINE, a variable, or flag


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something that a start would refuse."""

    where: str  # FILE:LINE or a variable
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Survey:
    """All settings, all mistakes, and what is worth a warning."""

    settings: tuple[Setting, ...]
    mistakes: tuple[Mistake, ...]
    warnings: tuple[str, ...]


def survey(data_dir: Path, environment: Mapping[str, str] | None = None) -> Survey:
    """Look at node.toml of a data directory and at the environment, as a start does, but to the end."""
    given = process_environment() if environment is None else environment
    notes = _Notes()
    path = data_dir / file_name
    if path.is_file():
        _take_file(notes, path)
    try:
        notes.warnings += unread_variables(given)
    except InvalidInput as reason:
        notes.mistakes.append(Mistake("environment", reason.message.removeprefix("environment: "), reason.hint))
    _take(notes, from_environment(given), "environment", {}, from_text=True)
    if data_dir == Path(given.get("BLYAN_DATA_DIR") or ".blyan"):
        origin = "BLYAN_DATA_DIR" if given.get("BLYAN_DATA_DIR") else "default"
    else:
        origin = "flag"
    return notes.survey(Setting("data_dir", str(data_dir), origin))


def survey_file(path: Path) -> Survey:
    """Look at one file alone; `NotFound` if it is not there."""
    if not path.is_file():
        raise NotFound(f"configuration: expected a file {path}, found none")
    notes = _Notes()
    _take_file(notes, path)
    return notes.survey(Setting("data_dir", str(data_dir_from_environment()), "default"))


def shown(key: str, value: Any) -> Any:
    """A value that may be printed: secrets, also those in URLs, are left out."""
    if isinstance(value, str):
        if value and _secret.search(key):
            return redacted
        return without_path(value) if key in _paths_are_keys else without_secrets(value)
    if isinstance(value, tuple):
        return tuple(shown(key, each) for each in cast("tuple[object, ...]", value))
    return value


class _Notes:
    """What has been found so far."""

    def __init__(self) -> None:
        self.merged: dict[str, dict[str, Any]] = {name: {} for name in sections()}
        self.origins: dict[_Place, str] = {}
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []

    def survey(self, first: Setting) -> Survey:
        """Everything, after values that are of the right kind were looked at more closely."""
        settings = [first]
        for section, kind in sections().items():
            values = self.merged[section]
            for key, fault in _faults_of_keys(section, values):
                self._add(self.origins[section, key], fault)
            made = kind()
            for f in fields(kind):
                value = values.get(f.name, getattr(made, f.name))
                origin = self.origins.get((section, f.name), "default")
                settings.append(Setting(f"{section}.{f.name}", shown(f.name, value), origin))
        self._look_at_door()
        return Survey(tuple(settings), tuple(sorted(self.mistakes, key=_order)), tuple(self.warnings))

    def _look_at_door(self) -> None:
        """What two sections say together; what one of them says wrong was said."""
        try:
            parts = (HttpConfig(**self.merged["http"]), AccountsConfig(**self.merged["accounts"]))
            door_address(*parts)
        except Denied as reason:
            self._add(self.origins["http", "listen"], reason)
        except Fault:
            return

    def _add(self, where: str, fault: Fault) -> None:
        self.mistakes.append(Mistake(where, fault.message, fault.hint))


def _faults_of_keys(section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Fault]]:
    """The keys that do not fit together with the most others that do, each with what is wrong with it."""
    fitting = dict(values)
    if not faults_of(section, fitting):
        return
    fitting.clear()
    left = list(values)
    while added := [key for key in left if not faults_of(section, {**fitting, key: values[key]})]:
        fitting[added[0]] = values[added[0]]  # one at a time: two may fit alone and not together
        left.remove(added[0])
    for key in left:
        for fault in faults_of(section, {**fitting, key: values[key]}):
            yield key, fault


def _order(mistake: Mistake) -> tuple[str, int]:
    """By file and line, as one reads it."""
    where, _, line = mistake.where.rpartition(":")
    return (where, int(line)) if line.isdecimal() else ("~" + mistake.where, 0)


def _take_file(notes: _Notes, path: Path) -> None:
    try:
        values = read_file(path)
        lines = _lines(durable.read_limited(path, limits.config_file_bytes_max).decode("utf-8"))
    except InvalidInput as reason:
        line = _at_line.search(reason.message)
        where = f"{path}:{line[1]}" if line else str(path)
        notes.mistakes.append(Mistake(where, reason.message.removeprefix(f"{path}: "), None))
        return
    _take(notes, values, str(path), lines, from_text=False)


def _take(
    notes: _Notes, values: Mapping[str, Any], origin: str, lines: Mapping[_Place, int], *, from_text: bool
) -> None:
    refused: set[_Place] = set()

    def place(section: str, key: str | None) -> str:
        if from_text:
            return variable_of(section, key or next(iter(values[section])))
        line = lines.get((section, key)) or lines.get((section, None))
        return f"{origin}:{line}" if line else origin

    def refuse(section: str, key: str | None, reason: InvalidInput) -> None:
        refused.add((section, key))
        message = reason.message.removeprefix(f"{origin}: ")
        notes.mistakes.append(Mistake(place(section, key), message, reason.hint))

    merge(notes.merged, values, origin, from_text=from_text, refuse=refuse)
    for section, entries in values.items():
        for key in cast("Mapping[str, Any]", entries) if isinstance(entries, Mapping) else ():
            if (section, key) not in refused:
                notes.origins[section, key] = place(section, key)


def _lines(text: str) -> dict[_Place, int]:
    """Section and key → number of the line where it is said first."""
    found: dict[_Place, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _header.match(line):
            section, _, inner = header[1].replace('"', "").replace("'", "").partition(".")
            found.setdefault((section, inner.partition(".")[0] or None), number)
        elif key := _key.match(line):
            name = key[1].replace('"', "").replace("'", "")
            first, _, rest = (f"{section}.{name}" if section else name).partition(".")
            found.setdefault((first, rest.partition(".")[0] or None), number)
    return found
