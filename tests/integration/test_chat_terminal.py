"""`blyan chat` on a pseudo-terminal, typed as a person would, with the built-in model."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from fakes import SlowNode
from nodes import running

pytestmark = pytest.mark.slow  # a node has to start first, and each test starts several processes
Spawn = Callable[..., "pexpect.spawn[str]"]
BOTH_LINES = r"12 \+ 34 = \d+"  # what stood in two lines came as one question; lessons have no question in two lines


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("chat") / "data") as node:
        yield node.url


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Spawn]:
    """Start `blyan chat --node URL …` with a state folder of its own; the first prompt sign has come."""
    begun: list[pexpect.spawn[str]] = []

    def start(url: str, *arguments: str, **environment: str) -> "pexpect.spawn[str]":
        told = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", **environment}
        command = ["-m", "blyan", "chat", "--node", url, *arguments]
        terminal = pexpect.spawn(
            sys.executable, command, env=told, encoding="utf-8", timeout=30, dimensions=(40, 120), cwd=tmp_path
        )
        begun.append(terminal)
        terminal.expect("Ctrl-D ends")
        prompted(terminal)
        return terminal

    yield start
    for terminal in begun:
        terminal.close(force=True)


def prompted(terminal: "pexpect.spawn[str]", sign: str = ">") -> None:
    """Wait until the editor shows its sign and reads."""
    terminal.expect(re.escape(sign) + r" \x1b")


def typed(terminal: "pexpect.spawn[str]", line: str, shown: str) -> None:
    """Type a line, see the words, and the sign again."""
    terminal.send(line + "\r")
    terminal.expect(shown)
    prompted(terminal)


def ended(terminal: "pexpect.spawn[str]") -> int | None:
    terminal.sendcontrol("d")
    terminal.expect(pexpect.EOF)
    terminal.close()
    return terminal.exitstatus


def test_a_conversation_in_korean_over_several_lines(node: str, chat: Spawn) -> None:
    """Hangul as it is typed, byte by byte; quotes and backslash go on in the next line; Ctrl-D ends with 0."""
    terminal = chat(node, "--temperature", "0")
    for byte in "안녕".encode():
        os.write(terminal.child_fd, bytes([byte]))
        time.sleep(0.02)
    typed(terminal, "", "안녕하세요! 저는 Blyan에 내장된")
    terminal.send('"""What is\r')
    prompted(terminal, ".")
    typed(terminal, '12 + 34?"""', BOTH_LINES)
    typed(terminal, "/clear", "forgotten")
    terminal.send("What is\\\r")
    prompted(terminal, ".")
    typed(terminal, "12 + 34?", BOTH_LINES)
    assert ended(terminal) == 0


def test_commands_say_what_holds_and_what_was_meant(node: str, chat: Spawn) -> None:
    """A mistake costs nothing but its line."""
    terminal = chat(node)
    typed(terminal, "/help", r"/retry +drop the last answer")
    typed(terminal, "/modle", "did you mean '/model'")
    typed(terminal, "/model", r"\* blyan-genesis")
    typed(terminal, "/model blyan-genesi", "did you mean 'blyan-genesis'")
    typed(terminal, "/set temperature 0.7", r"temperature +0\.7")
    typed(terminal, "/set temperature 7", "expected 0 to 2, found 7")
    typed(terminal, "/set temperature", r"temperature +the model's own")
    typed(terminal, "/set verbose on", r"verbose +on")
    typed(terminal, "/system Be concise.", "Be concise.")
    typed(terminal, "/retry", "expected a question before it")
    typed(terminal, "/load nowhere.json", "expected a saved conversation, found no file")
    typed(terminal, "12 + 34", r"= 46\s+\d+ tokens in, \d+ out.* tokens/s")
    typed(terminal, "/retry", "= 46")
    terminal.send("/bye\r")
    terminal.expect(pexpect.EOF)


def test_a_conversation_is_saved_and_goes_on_later(node: str, chat: Spawn, tmp_path: Path) -> None:
    """/save, /clear, /load; the file is JSON for the owner alone, and other files stay."""
    terminal = chat(node, "--system", "Be concise.", "--temperature", "0")
    typed(terminal, "12 + 34", "= 46")
    (tmp_path / "mine.txt").write_text("precious")
    typed(terminal, "/save mine.txt", "found another file")
    typed(terminal, "/save nowhere/c.json", "No such file")
    typed(terminal, "/save c.json", "saved 2 messages")
    typed(terminal, "/clear", "forgotten")
    assert ended(terminal) == 0
    value = json.loads((tmp_path / "c.json").read_text())
    assert [each["role"] for each in value["messages"]] == ["user", "assistant"]
    assert (value["system"], value["settings"]) == ("Be concise.", {"temperature": 0})
    terminal = chat(node)
    typed(terminal, "/load c.json", "2 messages, model blyan-genesis")
    typed(terminal, "/system", "Be concise.")
    typed(terminal, "/retry", "= 46")
    assert ended(terminal) == 0


def test_what_was_typed_is_there_the_next_time(node: str, chat: Spawn, tmp_path: Path) -> None:
    """Up finds it, Hangul and several lines too; --no-history neither reads nor writes."""
    terminal = chat(node)
    typed(terminal, "안녕", "안녕하세요")
    assert ended(terminal) == 0
    kept = tmp_path / "state/blyan/chat_history"
    assert kept.stat().st_mode & 0o777 == 0o600
    before = kept.read_bytes()
    terminal = chat(node, "--no-history")
    typed(terminal, "12 + 34", "= 46")
    assert ended(terminal) == 0
    assert kept.read_bytes() == before
    terminal = chat(node)
    terminal.send("\x1b[A")
    terminal.expect("안녕")
    typed(terminal, "", "안녕하세요")
    assert ended(terminal) == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(chat: Spawn) -> None:
    """What had come of it stays, the node sees the caller leave, and the next question goes on."""
    with SlowNode(["begin", "ning"]) as slow:
        terminal = chat(slow.url)
        terminal.send("first\r")
        terminal.expect("beginning")
        began = time.monotonic()
        terminal.sendintr()
        terminal.expect("stopped")
        assert time.monotonic() - began < 2
        prompted(terminal)
        slow.pieces, slow.pause_seconds = ["done"], 0
        typed(terminal, "second", "done")
        assert [each["content"] for each in slow.asked[-1]["messages"]] == ["first", "beginning", "second"]
        terminal.sendintr()
        terminal.expect("Ctrl-D or /bye ends")
        prompted(terminal)
        terminal.kill(signal.SIGINT)
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 130


def test_a_node_that_fails_ends_the_turn_and_not_the_conversation(chat: Spawn) -> None:
    """The question of it does not stay; what a model says cannot move the cursor."""
    with SlowNode(["\x1b[2J\x1b]0;owned\x07fine"], pause_seconds=0) as slow:
        terminal = chat(slow.url)
        slow.broken = True
        typed(terminal, "first", "expected an answer|expected an error body|end of the connection")
        slow.broken = False
        typed(terminal, "second", r"2004l\[2J\]0;ownedfine")
        assert [each["content"] for each in slow.asked[-1]["messages"]] == ["second"]
        assert ended(terminal) == 0


def test_where_the_cursor_cannot_move_lines_are_read_as_they_come(node: str) -> None:
    """Also without the library that edits."""
    command = ["-m", "blyan", "chat", "--node", node]
    told = {**os.environ, "TERM": "dumb"}
    terminal = pexpect.spawn(sys.executable, command, env=told, encoding="utf-8", timeout=30, echo=False)
    terminal.expect("> ")
    terminal.send('"""12 +\n')
    terminal.expect(r"\. ")
    terminal.send('34"""\n')
    terminal.expect(BOTH_LINES)
    terminal.expect("> ")
    terminal.sendcontrol("d")
    terminal.expect(pexpect.EOF)
