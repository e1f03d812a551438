"""The rules of the house as functions from sources to complaints; tests/test_tidy.py applies them to the repository.

A rule reads syntax trees and text only, imports nothing it checks, and says in each complaint what to do. What ruff,
pyright and import-linter can hold is left to them.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

FUNCTION_LINES_MAX = 70
CLASS_LINES_MAX = 200
MODULE_LINES_MAX = 400
BROAD_EXCEPTS_MAX = 10

PACKAGE = PurePosixPath("backend/blyan")
CORE = {"primitives", "wire", "storage", "chain", "ledger", "governance"}
# The storeys that may read the environment, the clock and chance.
FROM_NODE_UP = {"node", "api", "cli"}
SOURCES_OF_CHANCE_AND_TIME = {"primitives/clock.py", "primitives/keys.py"}
BANNED_WORDS = {"util", "utils", "helper", "helpers", "common", "core", "manager", "misc"}
CODE_IN_BYTES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
TORCH_CHANCE = {"rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli"}


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the repository root, and its text."""

    path: PurePosixPath
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed text. Raises SyntaxError."""
        return ast.parse(self.text, filename=str(self.path))

    @property
    def inner(self) -> str:
        """The path inside the package, such as `storage/tile.py`; empty for files outside of it."""
        return str(self.path.relative_to(PACKAGE)) if self.path.is_relative_to(PACKAGE) else ""

    @property
    def storey(self) -> str:
        """The top-level package the file belongs to, such as `storage`; empty outside."""
        return self.inner.partition("/")[0] if "/" in self.inner else ""

    @property
    def module(self) -> str:
        """The dotted name, such as `blyan.storage.tile`; empty for files outside the package."""
        if not self.inner:
            return ""
        parts = ["blyan", *PurePosixPath(self.inner).with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_sources(root: Path, folders: Iterable[str]) -> list[Source]:
    """Every Python file under the named folders of the repository, in order of path."""
    return [
        Source(PurePosixPath(path.relative_to(root).as_posix()), path.read_text(encoding="utf-8"))
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        if "__pycache__" not in path.parts
    ]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def named_definitions(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Each class and function with its qualified name, nested ones included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function | ast.ClassDef):
                name = f"{prefix}{child.name}"
                yield name, child
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    return walk(tree, "")


def oversize(sources: Iterable[Source]) -> dict[str, int]:
    """Lines of every module, class and function above its limit, by `path` or `path::name`."""
    found: dict[str, int] = {}
    for source in sources:
        lines = len(source.text.splitlines())
        if lines > MODULE_LINES_MAX:
            found[str(source.path)] = lines
        for name, node in named_definitions(source.tree):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > (CLASS_LINES_MAX if isinstance(node, ast.ClassDef) else FUNCTION_LINES_MAX):
                found[f"{source.path}::{name}"] = lines
    return found


def ratchet(actual: Mapping[str, int], recorded: Mapping[str, int]) -> list[str]:
    """Complaints where sizes grew, are new, or shrank without the record following."""
    found: list[str] = []
    for key in sorted(actual.keys() | recorded.keys()):
        now, then = actual.get(key), recorded.get(key)
        if then is None:
            found.append(f"{key} has {now} lines, above its limit: split it (do not add it to tests/ratchet.json)")
        elif now is None:
            found.append(f"{key} is within its limit now: remove its line from tests/ratchet.json")
        elif now > then:
            found.append(f"{key} grew from {then} to {now} lines: split it")
        elif now < then:
            found.append(f"{key} shrank from {then} to {now} lines: write {now} into tests/ratchet.json")
    return found


def words(name: str) -> set[str]:
    """The lower-case words of a snake_case or CamelCase name."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def banned_names(sources: Iterable[Source]) -> list[str]:
    """Modules, packages and classes that are named after nothing in particular."""
    found: list[str] = []
    for source in sources:
        names = list(PurePosixPath(source.inner).with_suffix("").parts)
        names += [node.name for _, node in named_definitions(source.tree) if isinstance(node, ast.ClassDef)]
        found += [
            f"{source.path}: {name!r} does not say what it is: pool, table, queue, log, registry?"
            for name in names
            if words(name) & BANNED_WORDS
        ]
    return found


def broad_excepts(sources: Iterable[Source]) -> list[str]:
    """`except Exception` (or wider) that ends an error's way without a reason in a comment, and too many of them."""
    found: list[str] = []
    count = 0
    for source in sources:
        comments = {
            token.start[0]: re.sub(r"noqa(: *[A-Z0-9, ]+)?|[#\s—–-]+", " ", token.string).strip()
            for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
            if token.type == tokenize.COMMENT
        }
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler) and is_broad(node.type) and not raises_again(node):
                count += 1
                if not any(len(comments.get(node.lineno + offset, "")) >= 10 for offset in (-1, 0, 1)):
                    found.append(f"{source.path}:{node.lineno}: a broad except needs its reason in a comment beside it")
    if count > BROAD_EXCEPTS_MAX:
        found.append(f"{count} broad excepts, {BROAD_EXCEPTS_MAX} at most: catch what you can answer differently")
    return found


def is_broad(caught: ast.expr | None) -> bool:
    """Whether an except clause catches everything."""
    if isinstance(caught, ast.Tuple):
        return any(is_broad(each) for each in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether a handler only cleans up: its last statement passes the same exception on."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def missing_docstrings(sources: Iterable[Source]) -> list[str]:
    """Modules, and their public classes and functions, that do not say what they are."""
    found: list[str] = []
    for source in sources:
        if source.text.strip() and not ast.get_docstring(source.tree):
            found.append(f"{source.path}: the module needs a docstring")
        for node in source.tree.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                overload = any(dotted(decorator).endswith("overload") for decorator in node.decorator_list)
                if not overload and not ast.get_docstring(node):
                    found.append(f"{source.path}:{node.lineno}: {node.name} is public and needs a docstring")
    return found


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a name or attribute chain; `?.c` where the chain starts with anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported; `from a import b` gives `a.b`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def impurities(sources: Iterable[Source]) -> list[str]:
    """Reads of the environment, the clock or chance below the storey `node`."""
    modules = {"time", "random", "secrets", "uuid"}
    names = {"os.environ", "os.getenv", "os.environb", "os.urandom", "datetime.now", "datetime.utcnow", "date.today"}
    found: list[str] = []
    for source in sources:
        if source.storey in FROM_NODE_UP or source.inner in SOURCES_OF_CHANCE_AND_TIME or "/" not in source.inner:
            continue
        reads = [(line, name) for line, name in imports(source) if name.partition(".")[0] in modules or name in names]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute):
                name = dotted(node)
                if name.startswith(("np.random", "numpy.random", "torch.random")) or any(
                    name == banned or name.endswith(f".{banned}") for banned in names
                ):
                    reads.append((node.lineno, name))
            elif isinstance(node, ast.Call) and draws_unseeded(node):
                reads.append((node.lineno, f"{dotted(node.func)} without generator="))
        found += [
            f"{source.path}:{line}: {name}: clock, chance and environment are arguments here (primitives/clock.py)"
            for line, name in reads
        ]
    return found


def draws_unseeded(call: ast.Call) -> bool:
    """Whether a call draws from torch's global generator."""
    receiver, _, name = dotted(call.func).rpartition(".")
    drawn = name in TORCH_CHANCE if receiver == "torch" else bool(receiver) and name == "multinomial"
    return drawn and all(keyword.arg != "generator" for keyword in call.keywords)


def executed_bytes(sources: Iterable[Source]) -> list[str]:
    """Anything that would turn bytes into running code."""
    found: list[str] = []
    for source in sources:
        uses = [(line, name) for line, name in imports(source) if name.partition(".")[0] in CODE_IN_BYTES]
        uses += [(line, name) for line, name in imports(source) if name in {"torch.load", "torch.save"}]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                name = dotted(node.func)
                if name in {"eval", "exec", "torch.load", "torch.save"}:
                    uses.append((node.lineno, f"{name}()"))
                uses += [(node.lineno, "allow_pickle") for keyword in node.keywords if keyword.arg == "allow_pickle"]
        found += [f"{source.path}:{line}: {name}: bytes are parsed, never executed" for line, name in uses]
    return found


def forbidden_imports(sources: Iterable[Source]) -> list[str]:
    """Imports that break the contracts between storeys, also in packages import-linter is not told of yet."""
    found: list[str] = []
    for source in sources:
        banned = {"transformers"}
        if source.storey in CORE:
            banned |= {"aiohttp", "torch", "stripe"}
        if source.inner == "storage/tensor_block.py":
            banned -= {"torch"}
        if source.storey in {"model", "validation"}:
            banned |= {"aiohttp", "blyan.network"}
        if source.inner != "anchoring/contract.py":
            banned |= {"web3"}
        found += [
            f"{source.path}:{line}: may not import {name}"
            for line, name in imports(source)
            if any(name == each or name.startswith(f"{each}.") for each in banned)
        ]
    return found


def dead_modules(sources: Iterable[Source], entries: Iterable[str]) -> list[str]:
    """Modules of the package that no entry point reaches. Files outside the package (scripts) are entries too."""
    sources = list(sources)
    by_name = {source.module: source for source in sources if source.module}
    reached: set[str] = set()
    pending = [source for source in sources if not source.module]
    pending += [by_name[name] for name in entries if name in by_name]
    while pending:
        source = pending.pop()
        strings = [n.value for n in ast.walk(source.tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        targets = [name for _, name in imports(source)] + [text for text in strings if text in by_name]
        for target in [source.module, *targets]:
            parts = target.split(".")
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                if name in by_name and name not in reached:
                    reached.add(name)
                    pending.append(by_name[name])
    return [
        f"{source.path}: no entry point reaches it: delete it, or use it"
        for name, source in sorted(by_name.items())
        if name not in reached
    ]
