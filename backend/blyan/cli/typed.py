"""What people type into `blyan chat`: lines from a terminal or a pipe, and turns made of several lines.

On a terminal prompt_toolkit edits the line, if it is installed (`pip install blyan[chat]`); without it, and on a
terminal that cannot move its cursor, the terminal's own line editing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from blyan.cli.history import History
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

# The next line after a prompt sign, without its line feed; None at the end. `KeyboardInterrupt`: begin the turn anew.
LineReader: TypeAlias = Callable[[str], Awaitable[str | None]]
Words: TypeAlias = Callable[[], Mapping[str, Any]]  # nested words that Tab completes

_quotes = '"""'


async def read_turn(read: LineReader) -> str | None:
    """The next turn, None at the end of the input.

    A line that ends with a backslash goes on; lines between three double quotes are one turn as they stand.
    """
    line = await read("> ")
    if line is None:
        return None
    if line.startswith(_quotes):
        lines = [line.removeprefix(_quotes)]
        while not lines[-1].rstrip().endswith(_quotes):
            more = await read(". ")
            if more is None:
                return "\n".join(lines).strip("\n")
            lines.append(more)
        lines[-1] = lines[-1].rstrip().removesuffix(_quotes)
        return "\n".join(lines).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        more = await read(". ")
        if more is None:
            break
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(more)
    return "\n".join(lines).strip()


def is_quoted(line: str) -> bool:
    """Whether a line begins a quoted turn, in which nothing is a command."""
    return line.startswith(_quotes)


async def read_plain(prompt: str) -> str | None:
    """A line of stdin, whatever it is."""
    if sys.stdin.isatty():
        sys.stderr.write(prompt)
        sys.stderr.flush()
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        # without a buffer, whose lock this thread would still hold while the interpreter ends
        try:
            with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
                found = stdin.readline(limits.request_body_bytes_max)
        except OSError:  # a terminal that went away
            found = b""
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody asks any more
            loop.call_soon_threadsafe(_tell, line, found)

    # A daemon, because nothing can end a read of a terminal: one of asyncio's threads would hold up Ctrl-C until Enter.
    threading.Thread(target=read, daemon=True).start()
    raw = await line
    return as_text(raw).removesuffix("\n") if raw else None


def as_text(raw: bytes) -> str:
    """UTF-8, or `InvalidInput` with the place."""
    try:
        return raw.decode()
    except UnicodeDecodeError as reason:
        raise InvalidInput(f"question: expected UTF-8 text, found {reason.reason} at byte {reason.start}") from None


def _tell(line: asyncio.Future[bytes], found: bytes) -> None:
    if not line.done():
        line.set_result(found)


def can_edit() -> bool:
    """Whether there is a terminal with a cursor, and the library that moves it."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        import prompt_toolkit  # pyright: ignore[reportUnusedImport] # noqa: F401
        from prompt_toolkit.utils import is_dumb_terminal
    except ImportError:
        return False
    return not is_dumb_terminal()


def editor(history: History, words: Words) -> LineReader:
    """Lines edited by prompt_toolkit: arrows, history, search by Ctrl-R, Tab for commands, Alt-Enter for a new line.

    It draws on stderr, because stdout is the answers alone, and leaves SIGINT to its caller. Bytes that are no UTF-8
    become U+FFFD.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import DynamicCompleter, NestedCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output.vt100 import Vt100_Output

    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    class _Kept(InMemoryHistory):
        """The lines of before; what is new is added by turns, not by lines."""

        def append_string(self, string: str) -> None:
            """Nothing: see `History.add`."""

    output = Vt100_Output.from_pty(sys.stderr)
    output.enable_cpr = False  # no question to the terminal, whose answer would stand in a slow line
    session: PromptSession[str] = PromptSession(
        key_bindings=bindings,
        completer=DynamicCompleter(lambda: NestedCompleter.from_nested_dict(dict(words()))),
        complete_while_typing=False,
        enable_history_search=False,
        reserve_space_for_menu=4,
        output=output,
    )

    async def read(prompt: str) -> str | None:
        kept = _Kept(history.entries)
        session.history = session.default_buffer.history = kept
        session.default_buffer.reset()
        try:
            text = await session.prompt_async([("ansigreen", prompt)], handle_sigint=False)
        except EOFError:
            return None
        return os.fsencode(text).decode("utf-8", "replace")  # the surrogates of bytes that were no UTF-8

    return read
