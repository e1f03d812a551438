"""The other end of `chat_template`: renders Jinja templates in a process of its own, under limits.

A template comes with a checkpoint, so it is foreign code: Jinja's sandbox keeps it from Python, this process's limits
of memory, files and processor time keep it from the machine, and it dies with the node. Reads one JSON line per request
on stdin, answers one on stdout; the argument is the seconds that a rendering may take, which the other end enforces.
Imports neither torch nor anything of the node.
"""

from __future__ import annotations

import ctypes
import json
import math
import resource
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.nodes import Extends, FromImport, Import, Include, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from blyan.primitives import limits

_compiled_kept_max = 16
# a template may refuse one message of a user; too much memory, depth or text is no refusal
_of_the_messages = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_pr_set_pdeathsig = 1  # linux/prctl.h


class GenerationMark(Extension):
    """`{% generation %}…{% endgeneration %}`, by which templates mark what a model learns: here it is only text."""

    tags = {"generation"}  # noqa: RUF012 - as the library declares it

    def parse(self, parser: Parser) -> Node | list[Node]:
        """What stands between the marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As `transformers` has it: Jinja's own would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _set_time(environment: ImmutableSandboxedEnvironment, seconds: int) -> None:
    """`strftime_now` as `transformers` has it; the time is the request's, and local already."""

    def strftime_now(format: str) -> str:  # noqa: A002 - templates may name it
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).strftime(format)

    environment.globals["strftime_now"] = strftime_now  # pyright: ignore[reportArgumentType]


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationMark]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse  # pyright: ignore[reportArgumentType]
    return environment


def _compile(environment: ImmutableSandboxedEnvironment, source: str) -> Template:
    """The template; `SecurityError` for one that reads others, for there are none and may be none."""
    for node in environment.parse(source).find_all((Include, Import, FromImport, Extends)):
        raise SecurityError(f"line {node.lineno} asks for another template ({type(node).__name__.lower()})")
    return environment.from_string(source)


def _render(environment: ImmutableSandboxedEnvironment, kept: dict[str, Template], request: Mapping[str, Any]) -> str:
    _set_time(environment, request["now"])
    source = request["template"]
    template = kept.get(source)
    if template is None:
        if len(kept) >= _compiled_kept_max:
            kept.clear()
        template = kept[source] = _compile(environment, source)
    pieces: list[str] = []
    rendered_bytes = 0
    for piece in template.generate(**request["variables"]):
        rendered_bytes += len(piece.encode("utf-8"))
        if rendered_bytes > limits.rendered_prompt_bytes_max:
            raise MemoryError(f"expected at most {limits.rendered_prompt_bytes_max} rendered bytes, found more")
        pieces.append(piece)
    return "".join(pieces)


def _check(environment: ImmutableSandboxedEnvironment, request: Mapping[str, Any]) -> str:
    """Compile, and render once: what it makes of the messages is its own affair, but it must stay within the limits.

    Nor may it reach out of its sandbox: no messages can be to blame for that.
    """
    _compile(environment, request["template"])
    try:
        _render(environment, {}, request)
    except SecurityError:
        raise
    except _of_the_messages:
        return ""
    return ""


def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.template_memory_bytes_max, limits.template_memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # The end of stdin is seen between renderings only. The kernel takes the thread that started this process for
        # its parent: when that thread ends before the node does, the next rendering starts a new worker.
        ctypes.CDLL(None).prctl(_pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _limit_next_rendering(seconds_max: float) -> None:
    """SIGXCPU ends a rendering that nobody is left to end; always later than the deadline at the other end."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + seconds_max) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def main() -> None:
    """Limit this process, then answer until stdin ends."""
    seconds_max = float(sys.argv[1])
    _limit_process()
    environment = _environment()
    kept: dict[str, Template] = {}
    for line in sys.stdin:
        _limit_next_rendering(seconds_max)
        try:
            request = json.loads(line)
            rendered = _check(environment, request) if request["check"] else _render(environment, kept, request)
            answer = {"text": rendered}
        # A foreign template may fail in any way Python can; each is its author's, and this process is disposable.
        except (Exception, RecursionError, MemoryError) as reason:  # noqa: BLE001 - any failure is the answer
            answer = {
                "error": f"{type(reason).__name__}: {str(reason)[:300]}",
                "forbidden": isinstance(reason, SecurityError),
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
