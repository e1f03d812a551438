"""`blyan chat`: talk to a model, through the node that runs on the data directory or, if none does, in this process.

stdout is the answers alone. A PROMPT is one question, `-` is all of stdin; lines of a pipe are turns as they stand,
because what comes from elsewhere may not write files by `/save`. On a terminal there are commands, a history and lines
that are edited; Ctrl-C stops an answer there, and ends everything else.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from blyan.cli.chat_commands import Commands
from blyan.cli.conversation import Conversation
from blyan.cli.history import History
from blyan.cli.output import Output, json_text, printable
from blyan.cli.passphrase import passphrase_of
from blyan.cli.spent import computed_line, computed_value, cost_line, cost_value
from blyan.cli.typed import LineReader, as_text, can_edit, editor, is_quoted, read_plain, read_turn
from blyan.cli.wallet import add_sign_in
from blyan.node import data_directory
from blyan.node.config import read_config, state_dir_from_environment
from blyan.primitives import limits
from blyan.primitives.clock import system_monotonic
from blyan.primitives.errors import Fault, InvalidInput, UsageMistake

if TYPE_CHECKING:
    from blyan.cli.chat_client import Answer, ChatClient

_flags = ("temperature", "seed", "max_tokens")


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register `chat`."""
    chat = verbs.add_parser("chat", parents=[common, readable], help="talk to a model")
    chat.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="one question, `-` for all of stdin; without it, a conversation"
    )
    chat.add_argument(
        "--node", metavar="URL", help="default: the node of the data directory, started here if none runs"
    )
    chat.add_argument("--model", metavar="NAME", help="default: the node's first model")
    chat.add_argument("--system", metavar="TEXT", default="", help="what the model is told first")
    chat.add_argument("--temperature", metavar="T", help="0 always takes the likeliest token; default: the model's own")
    chat.add_argument("--seed", metavar="N", help="the same seed gives the same answer")
    chat.add_argument("--max-tokens", metavar="N", help="end an answer after so many")
    chat.add_argument("--verbose", action="store_true", help="tokens and tokens a second after each answer, on stderr")
    chat.add_argument("--no-history", action="store_true", help="neither read nor keep what is typed")
    add_sign_in(chat)
    chat.set_defaults(run=_chat)


def _chat(options: argparse.Namespace, output: Output) -> int:
    asked = Conversation("", options.system)
    for name in _flags:
        text = getattr(options, name)
        if text is not None:
            try:
                asked.set_text(name, text)
            except InvalidInput as reason:
                raise UsageMistake(f"--{name.replace('_', '-')}: {reason.message}") from None
    try:
        return asyncio.run(_converse(options, asked, output))
    except asyncio.CancelledError:  # by `_Interrupts`
        raise KeyboardInterrupt from None


async def _converse(options: argparse.Namespace, conversation: Conversation, output: Output) -> int:
    import aiohttp  # what only parses a command line does not need it

    from blyan.cli.chat_client import ChatClient
    from blyan.cli.sign_in import signed_in

    question = options.prompt if options.prompt != "-" else _all_of_stdin()
    if question is not None and not question.strip():
        raise UsageMistake("PROMPT: expected a question, found none")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_node_url(options))
        session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        who = await signed_in(options, session, url)
        if who is not None:
            output.note(f"signed in as {who.account}")
        client = ChatClient(session, url, system_monotonic, who.headers if who else None)
        models = [options.model] if options.model and question else await client.models()
        conversation.model = options.model or models[0]
        chat = _Chat(client, Commands(conversation, models, output, verbose=options.verbose), output)
        if question is not None:
            await chat.ask(question)
        elif sys.stdin.isatty():
            with _Interrupts() as interrupts:
                await chat.talk(interrupts, History(None if options.no_history else state_dir_from_environment()))
        else:
            while (line := await read_plain("")) is not None and line.strip():
                await chat.ask(line.strip())
    return 0


class _Chat:
    """One conversation with one node."""

    def __init__(self, client: ChatClient, commands: Commands, output: Output) -> None:
        self._client = client
        self._commands = commands
        self._output = output
        self._last: Answer | None = None  # the newest that came to its end

    async def ask(self, question: str) -> None:
        """One turn; of one that fails nothing stays in the conversation."""
        held = self._commands.conversation.messages
        held.append({"role": "user", "content": question})
        await self.answer()

    async def answer(self) -> None:
        """The answer to the last message. Cancelled, it stays as far as it came; with no word of it, nothing stays."""
        from blyan.cli.chat_client import Answer

        conversation, answer, whole = self._commands.conversation, Answer(), False
        try:
            async for piece in self._client.ask(conversation, answer, self._show_thought):
                if answer.thought and not answer.text.removesuffix(piece) and self._shows_thoughts:
                    sys.stderr.write("\n\n")
                if not self._output.as_json:
                    sys.stdout.write(printable(piece))
                    sys.stdout.flush()
            whole, self._last = True, answer
        finally:
            if answer.text or whole:
                conversation.messages.append({"role": "assistant", "content": answer.text})
                if not self._output.as_json:
                    sys.stdout.write("\n")
                    sys.stdout.flush()
            else:
                conversation.messages.pop()
            if not whole and answer.cost is not None:  # a part was delivered, and there is a receipt for it
                self._last = answer
                self._say_cost(answer)
        self._report(answer)

    @property
    def _shows_thoughts(self) -> bool:
        return not self._output.as_json and (self._commands.verbose or sys.stderr.isatty())

    def _show_thought(self, thought: str) -> None:
        """On stderr, where it is no part of the answer."""
        if self._shows_thoughts:
            sys.stderr.write(printable(thought))
            sys.stderr.flush()

    def _report(self, answer: Answer) -> None:
        if answer.thought and not answer.text and answer.finish_reason == "length":
            self._output.note("the model was cut off while it thought: give it more tokens (--max-tokens, /set)")
        pace = answer.tokens_per_second
        if self._output.as_json:
            value = {
                "model": self._commands.conversation.model,
                "content": answer.text,
                "thought": answer.thought,
                "finish_reason": answer.finish_reason,
                "usage": {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens},
                **cost_value(answer.cost),
                **computed_value(answer.computed),
                "seconds_first": answer.seconds_first,
                "seconds": answer.seconds,
                "tokens_per_second": pace,
            }
            sys.stdout.write(json_text(value) + "\n")
            sys.stdout.flush()
        if self._commands.verbose:
            first = "" if answer.seconds_first is None else f", the first after {answer.seconds_first:.2f} s"
            speed = "" if pace is None else f", then {pace:.1f} tokens/s"
            self._output.note(
                f"{answer.prompt_tokens} tokens in, {answer.completion_tokens} out{first}{speed} "
                f"({answer.finish_reason})"
            )
        if answer.computed is not None and not self._output.as_json:
            self._output.note(computed_line(answer.computed))
        self._say_cost(answer)

    def _say_cost(self, answer: Answer) -> None:
        if answer.cost is not None and not self._output.as_json:
            self._output.note(cost_line(answer.cost, hint=sys.stdin.isatty()))

    async def talk(self, interrupts: _Interrupts, history: History) -> None:
        """Turns from a terminal until its end. A fault ends a turn, not the conversation."""
        model = self._commands.conversation.model
        self._output.note(f"{model} at {self._client.url}; /help says what can be typed, Ctrl-D ends")
        read = editor(history, self._commands.words) if can_edit() else read_plain
        while True:
            quoted = _Quoted(read)
            try:
                turn = await read_turn(quoted.read)
            except KeyboardInterrupt:  # Ctrl-C at the prompt of an editor
                self._output.note("(Ctrl-D or /bye ends)")
                continue
            except InvalidInput as fault:
                self._output.fault(fault)
                continue
            if turn is None:
                return
            if not turn:
                continue
            history.add(turn)
            try:
                if turn.startswith("/") and not quoted.found:
                    following = self._commands.run(turn)
                    if following == "end":
                        return
                    if following == "read":
                        continue
                    doing = self._save_receipt() if following == "receipt" else self.answer()
                    stopped = await interrupts.during(doing)
                else:
                    stopped = await interrupts.during(self.ask(turn))
                if stopped:
                    self._output.note("(stopped)")
            except Fault as fault:
                self._output.fault(fault)
            except OSError as reason:  # /save and /load
                self._output.note(f"blyan: {reason.filename or turn}: {reason.strerror or reason}")

    async def _save_receipt(self) -> None:
        from blyan.cli.chat_receipt import save_receipt

        await save_receipt(self._client, self._last, self._commands.receipt_file, self._output)


class _Quoted:
    """Notes whether the first line of a turn began with quotes."""

    def __init__(self, read: LineReader) -> None:
        self._read = read
        self.found: bool | None = None

    async def read(self, prompt: str) -> str | None:
        """The next line."""
        line = await self._read(prompt)
        if self.found is None:
            self.found = line is not None and is_quoted(line)
        return line


class _Interrupts:
    """What SIGINT does while people talk: it stops the answer that comes, and with none it ends the command."""

    def __enter__(self) -> _Interrupts:
        self._answer: asyncio.Task[None] | None = None
        self._main = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_signal_handler(signal.SIGINT)

    def _interrupt(self) -> None:
        task = self._answer or self._main
        assert task is not None, "a coroutine entered this"
        task.cancel()

    async def during(self, answering: Coroutine[Any, Any, None]) -> bool:
        """Run it; whether it was stopped."""
        self._answer = task = asyncio.create_task(answering)
        try:
            await asyncio.wait([task])
        finally:
            self._answer = None
            task.cancel()
        if task.cancelled():
            return True
        task.result()
        return False


def _all_of_stdin() -> str:
    raw = sys.stdin.buffer.read(limits.prompt_bytes_max + 1)
    if len(raw) > limits.prompt_bytes_max:
        raise InvalidInput(f"question: expected at most {limits.prompt_bytes_max} bytes on stdin, found more")
    return as_text(raw).strip()


@asynccontextmanager
async def _node_url(options: argparse.Namespace) -> AsyncGenerator[str, None]:
    """The given node, the one that runs on the data directory, or one that lives as long as this command."""
    if options.node is not None:
        if not options.node.startswith(("http://", "https://")):
            raise UsageMistake(f"--node: expected an http URL, found {options.node!r}")
        yield options.node.rstrip("/")
        return
    holder = data_directory.lock_holder(options.data_dir)
    if holder is not None and holder.get("url"):
        yield str(holder["url"])
        return
    from blyan.api.serve import served  # torch takes a second; a running node spares it

    config = read_config(options.data_dir, {"http": {"listen": "127.0.0.1:0"}, "storage": {"verify_at_start": False}})
    async with served(config, passphrase_of(config)) as (_, url):
        yield url
