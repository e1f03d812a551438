"""The page's scripts and styles in few, small files: what a browser is sent, made from what people read.

A pack is all that one module needs, in the order in which a browser would run it and in one scope, so that names
can be short and compression sees it whole. The one rule that this asks of the modules is kept here: in a pack no
name stands at the top of two of them. A kept minifier (tdewolff/minify) then shortens it, in a process of its own,
because it brings the runtime of another language; without it the page is larger and otherwise the same.
Leaves out: imports of a whole module, renamed imports and default exports, which our modules do without.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from string import ascii_letters
from typing import Final

_log = logging.getLogger(__name__)

# Each pack by the module that it is named after: what else it brings, and the packs whose names it may import.
PACKS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "i18n.js": (("theme.js",), ()),
    "app.js": ((), ("i18n.js",)),
    "sheet.js": ((), ("i18n.js", "app.js")),
    "tile_root.js": ((), ("i18n.js", "app.js", "sheet.js")),
    "account.js": ((), ("i18n.js", "app.js")),
    "books_view.js": ((), ("i18n.js", "app.js", "sheet.js", "account.js")),
    "nodes.js": ((), ("i18n.js", "app.js")),
    "offline.js": ((), ("i18n.js",)),
    "worker.js": ((), ()),
}
STYLES: Final = ("page.css", "account.css", "nodes.css")
_minifier_seconds_max: Final = 20
_minifier: Final = (
    "import json, sys, minify\n"
    "json.dump([minify.string(kind, text) for kind, text in json.load(sys.stdin)], sys.stdout)"
)
_import: Final = re.compile(r'^import (?:\{([^{}"]*)\} from )?"/([\w./-]+)";\n', re.MULTILINE)
_style_import: Final = re.compile(r'^@import "/([\w.]+)";\n', re.MULTILINE)
_export: Final = re.compile(r"^export (?=(?:async )?(?:function|class|const)\b)", re.MULTILINE)
_odd: Final = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_declared: Final = re.compile(
    r"^(export )?(?:async )?(?:function\*?|class|const|let|var) (?:(\w+)|\{([\w, ]+)\})", re.MULTILINE
)


class PackingError(ValueError):
    """A module that cannot be packed: our own mistake, which a test finds before anybody else."""


@dataclass(frozen=True, slots=True)
class Module:
    """One script as it is written."""

    name: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]  # path under the root without the slash, names
    declared: frozenset[str]  # at the top
    exports: frozenset[str]
    body: str  # without imports and the word `export`

    @property
    def needs(self) -> list[str]:
        """Our own modules that run before this one."""
        return [path for path, _ in self.imports if "/" not in path]


def read_module(name: str, text: str) -> Module:
    """A script's parts.

    Raises:
        PackingError: an import or export of another form than those that the page uses.
    """
    imports = tuple((path, _names(names or "")) for names, path in _import.findall(text))
    declared: set[str] = set()
    exports: set[str] = set()
    for exported, one, several in _declared.findall(text):
        names = {one} if one else set(_names(several))
        declared |= names
        exports |= names if exported else set()
    body = _export.sub("", _import.sub("", text))
    odd = _odd.search(body)
    if odd is not None or any(" " in name for _, names in imports for name in names):
        found = odd.group() if odd is not None else "a renamed import"
        raise PackingError(f'{name}: expected `import {{names}} from "/module.js";`, found {found}')
    return Module(name, imports, frozenset(declared), frozenset(exports), body)


def pack_scripts(folder: Path) -> dict[str, str]:
    """The packs by name, not yet minified.

    Raises:
        PackingError: two modules of a pack have the same name at their top, or import what nobody exports.
    """
    modules = {path.name: read_module(path.name, path.read_text("utf-8")) for path in sorted(folder.glob("*.js"))}
    members: dict[str, list[Module]] = {}
    for pack, (more, lower) in PACKS.items():
        done = {module.name for below in lower for module in members[below]}
        members[pack] = [module for root in (pack, *more) for module in _in_order(root, modules, done)]
    left = modules.keys() - {module.name for found in members.values() for module in found}
    if left:
        raise PackingError(f"expected every module in a pack, found none that needs {sorted(left)}")
    homes = {
        pack: {module.name: below for below in lower for module in members[below]} for pack, (_, lower) in PACKS.items()
    }
    wanted = _wanted(modules, members, homes)
    given = {pack: _given(names, modules[pack].exports) for pack, names in wanted.items()}
    return {pack: _joined(found, homes[pack], given, given[pack]) for pack, found in members.items()}


def pack_styles(folder: Path) -> dict[str, str]:
    """The style sheets by name, with what they import in place."""
    texts = {name: (folder / name).read_text("utf-8") for name in STYLES}
    return {
        name: _style_import.sub(lambda found: (folder / found[1]).read_text("utf-8"), text)
        for name, text in texts.items()
    }


def minified(texts: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Each text, given with its media type, without what a browser does not need; as it is if there is no minifier."""
    # The program's text is ours; what it is given are the page's files.
    given = json.dumps(list(texts.values()))
    try:
        done = subprocess.run(
            [sys.executable, "-c", _minifier],
            input=given,
            capture_output=True,
            encoding="utf-8",
            timeout=_minifier_seconds_max,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as fault:
        _log.warning("page: expected tdewolff-minify to shorten it, found %s; it is served as written", fault)
        return {name: text for name, (_, text) in texts.items()}
    return dict(zip(texts, json.loads(done.stdout), strict=True))


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name for part in listed.split(",") if (name := part.strip()))


def _in_order(root: str, modules: Mapping[str, Module], done: set[str]) -> Iterator[Module]:
    """Those that `root` needs before it, itself last, none that is done; a circle is entered where it is met."""
    if root in done:
        return
    done.add(root)
    for name in modules[root].needs:
        yield from _in_order(name, modules, done)
    yield modules[root]


def _wanted(
    modules: Mapping[str, Module], members: Mapping[str, list[Module]], homes: Mapping[str, Mapping[str, str]]
) -> dict[str, set[str]]:
    """The names that each pack gives out: those that others import from it, and those of what it is named after."""
    wanted = {pack: set(modules[pack].exports) for pack in PACKS}
    for pack, found in members.items():
        for path, names in (each for module in found for each in module.imports):
            if "/" in path:
                continue
            missing = set(names) - modules[path].exports
            if missing:
                raise PackingError(
                    f"expected {path} to export {sorted(missing)}, found {sorted(modules[path].exports)}"
                )
            if path in homes[pack]:
                wanted[homes[pack][path]] |= set(names)
    return wanted


def _given(names: set[str], kept: frozenset[str]) -> dict[str, str]:
    """Each name by that under which a pack gives it out: a short one, but where `import()` asks by the name itself."""
    short = (f"${'' if turn == 0 else turn}{letter}" for turn in count() for letter in ascii_letters)
    return {name: name if name in kept else next(short) for name in sorted(names)}


def _joined(
    members: list[Module], homes: Mapping[str, str], given: Mapping[str, Mapping[str, str]], exports: Mapping[str, str]
) -> str:
    outer: dict[str, set[str]] = {}
    for path, names in (each for module in members for each in module.imports):
        if "/" in path or path in homes:
            outer.setdefault(homes.get(path, path), set()).update(names)
    owners: dict[str, str] = {name: path for path, names in outer.items() for name in names}
    for module in members:
        for name in module.declared:
            if owners.setdefault(name, module.name) != module.name:
                raise PackingError(f"expected one {name} in a pack, found it in {owners[name]} and {module.name}")
    imports = "".join(_import_of(path, names, given.get(path, {})) for path, names in outer.items())
    body = "".join(module.body for module in members)
    if not exports:
        return f"{imports}(() => {{\n{body}}})();\n"
    outside = ", ".join(exports.values())
    inside = ", ".join(f"{short}: {name}" if short != name else name for name, short in exports.items())
    return f"{imports}export const {{{outside}}} = (() => {{\n{body}return {{{inside}}};\n}})();\n"


def _import_of(path: str, names: set[str], given: Mapping[str, str]) -> str:
    named = (f"{given[name]} as {name}" if given.get(name, name) != name else name for name in sorted(names))
    return f'import {{{", ".join(named)}}} from "/{path}";\n'
