"""The rules that hold documents and code to each other; see tests/tidy_rules.py for those about code alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from tidy_rules import PACKAGE, Source, dotted

TREE = ("backend", "frontend", "contracts", "migrations", "scripts", "tests", "docker", "docs", ".ci")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"\.?[\w-][\w.-]*(?:/[\w.*-]+)+/?")
FIRST_COLUMN = re.compile(r"^\|\s*`([^`|]+)`", re.MULTILINE)
SECTION = re.compile(r"^#+.*\[([\w.]+)\]", re.MULTILINE)


def dead_paths(root: Path, document: Path) -> list[str]:
    """Relative links, backticked repository paths and fenced `scripts/…` commands that lead nowhere."""
    text = document.read_text(encoding="utf-8")
    prose = FENCE.sub("", text)
    found: list[str] = []
    for target in LINK.findall(INLINE_CODE.sub("", prose)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("#"):
            continue
        if not (document.parent / target.partition("#")[0]).exists():
            found.append(f"{document.relative_to(root)}: link to {target}, which does not exist")
    fenced = [line.strip().removeprefix("$ ") for block in FENCE.finditer(text) for line in block[0].splitlines()]
    commands = [line.split()[0] for line in fenced if line.startswith(("scripts/", "./scripts/"))]
    for target in INLINE_CODE.findall(prose) + commands:
        path = (target.split() or [""])[0].removeprefix("./").partition(":")[0]
        if PATH.fullmatch(path) and not names_something(root, path):
            found.append(f"{document.relative_to(root)}: `{path}` does not exist")
    return found


def names_something(root: Path, path: str) -> bool:
    """Whether a path that looks like one of ours exists; true for paths that do not look like ours."""
    first = path.partition("/")[0]
    if first in TREE:
        base = root
    elif path.endswith(".py") and (root / PACKAGE / first).is_dir():
        base = root / PACKAGE
    else:
        return True
    return any(base.glob(path.rstrip("/")))


def error_codes(sources: Iterable[Source]) -> set[str]:
    """Every error code in the package: `code = "…"` in a class, and `code="…"` in a call."""
    codes: set[str] = set()
    for source in sources:
        for node in ast.walk(source.tree):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                    if any(isinstance(target, ast.Name) and target.id == "code" for target in targets):
                        values.append(getattr(line, "value", None))
            elif isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            codes |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    return codes


def metrics(sources: Iterable[Source]) -> set[str]:
    """The first argument of every call that makes a metric of prometheus_client."""
    kinds = {
        f"{kind}{family}" for kind in ("Counter", "Gauge", "Histogram", "Tally") for family in ("", "MetricFamily")
    }
    return {
        call.args[0].value
        for source in sources
        for call in ast.walk(source.tree)
        if isinstance(call, ast.Call) and dotted(call.func) in kinds and call.args
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    }


def configuration_keys(*config: Source) -> set[str]:
    """`section.key` for each field of the dataclasses in the modules of the configuration.

    A dataclass that another one holds as a field is a section; the fields of one that nobody holds stand at the top.
    """
    classes = {
        node.name: [(f.target.id, f.annotation) for f in node.body if is_field(f)]
        for source in config
        for node in source.tree.body
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    }
    held = {dotted(kind) for fields in classes.values() for _, kind in fields} & classes.keys()

    def keys(name: str, prefix: str) -> set[str]:
        found: set[str] = set()
        for key, kind in classes[name]:
            found |= keys(dotted(kind), f"{prefix}{key}.") if dotted(kind) in classes else {f"{prefix}{key}"}
        return found

    holders = [name for name in classes if name not in held and any(dotted(k) in held for _, k in classes[name])]
    return set().union(*(keys(name, "") for name in holders)) if holders else set()


def is_field(line: ast.stmt) -> bool:
    """Whether a line of a class body is a dataclass field."""
    return (
        isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" not in ast.unparse(line.annotation)
    )


def documented(text: str) -> set[str]:
    """The backticked first cells of a document's tables, prefixed by the `[section]` of the heading above them."""
    found: set[str] = set()
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = SECTION.match(line)
            section = f"{heading[1]}." if heading else ""
        elif row := FIRST_COLUMN.match(line):
            name = row[1].strip()
            found.add(name if name.startswith(section) else f"{section}{name}")
    return found


def differences(in_code: set[str], in_document: set[str], what: str, document: str) -> list[str]:
    """Names on one side only."""
    return [f"{what} `{name}` is in the code and not in {document}" for name in sorted(in_code - in_document)] + [
        f"{what} `{name}` is in {document} and not in the code" for name in sorted(in_document - in_code)
    ]
