"""The parts of `blyan chat` that need no terminal: settings, saved files, turns, history, and the stream's lines."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from blyan.cli.chat_client import EventLines
from blyan.cli.conversation import Conversation, load
from blyan.cli.history import History
from blyan.cli.output import json_text, printable
from blyan.cli.typed import read_turn
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, NotFound, PeerFault

STREAM = 'data: {"choices": [{"delta": {"content": "안녕 🌍"}}]}\r\n\n: note\ndata: [DONE]\n'.encode()


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_lines_of_a_stream_are_the_same_wherever_it_is_cut(at: int) -> None:
    """Hangul and emoji too: bytes become text only where a line is whole."""
    lines = EventLines()
    assert STREAM.replace(b"\r", b"").splitlines() == lines.feed(STREAM[:at]) + lines.feed(STREAM[at:])


def test_a_line_that_never_ends_is_the_nodes_fault() -> None:
    """Bounded, however it comes; one of a megabyte passes."""
    lines = EventLines()
    assert lines.feed(b"x" * limits.MIB + b"\n") == [b"x" * limits.MIB]
    for _ in range(4):
        assert lines.feed(b"x" * limits.MIB) == []
    with pytest.raises(PeerFault, match="expected lines of at most"):
        lines.feed(b"x" * limits.MIB)


def test_what_turns_or_commands_a_terminal_is_not_printed() -> None:
    """Escape, C1, overrides of direction, separators; in JSON they are escaped, which a parser reads again."""
    hostile = "a\x1b[2J\x9b2J\u202eb\u2028\ud800\r한\tc\n"
    assert printable(hostile) == "a[2J2Jb한\tc\n"
    text = json_text({"a": hostile})
    assert printable(text) == text
    assert json.loads(text) == {"a": hostile}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.7", 0.7),
        ("temperature", "0", 0),
        ("seed", "-3", -3),
        ("top_k", "40", 40),
        ("max_tokens", "12", 12),
        ("stop", "끝", ["끝"]),
        ("stop", "3", ["3"]),
        ("stop", '["a", "b"]', ["a", "b"]),
    ],
)
def test_a_setting_is_read_from_what_is_typed(name: str, text: str, value: object) -> None:
    """And goes into the request as it is."""
    conversation = Conversation("m")
    conversation.set_text(name, text)
    assert conversation.request()[name] == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("temprature", "1", "did you mean 'temperature'"),
        ("temperature", "hot", "expected a number, found 'hot'"),
        ("temperature", "3", "expected 0 to 2"),
        ("temperature", "NaN", "expected 0 to 2"),
        ("temperature", "true", "expected a number"),
        ("top_k", "1.5", "expected an integer"),
        ("max_tokens", "0", "expected 1 to"),
        ("stop", '[""]', "expected strings of 1"),
        ("seed", "[" * 100_000, "expected an integer"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(name: str, text: str, words: str) -> None:
    """By the ranges of the sampler, before anything is asked; nothing is set."""
    conversation = Conversation("m")
    with pytest.raises(InvalidInput, match=words):
        conversation.set_text(name, text)
    assert conversation.settings == {}


def saved() -> dict[str, Any]:
    return {
        "format": "blyan-chat",
        "version": 1,
        "model": "m",
        "system": "s",
        "settings": {"temperature": 0.5},
        "messages": [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "하이"}],
    }


def test_a_saved_conversation_loads_as_it_was(tmp_path: Path) -> None:
    """For the owner alone; saved again over itself."""
    value = saved()
    conversation = Conversation("m", "s", value["settings"], value["messages"])
    for _ in range(2):
        conversation.save(tmp_path / "c.json")
    assert load(tmp_path / "c.json") == conversation
    assert (tmp_path / "c.json").stat().st_mode & 0o777 == 0o600


def test_saving_replaces_no_other_file(tmp_path: Path) -> None:
    """A slip of the fingers must not cost a key."""
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(InvalidInput, match="found another file"):
        Conversation("m").save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"version": 2},
        {"more": 1},
        {"model": 3},
        {"system": None},
        {"settings": []},
        {"settings": {"temperature": 9}},
        {"settings": {"shell": "rm"}},
        {"messages": {}},
        {"messages": [3]},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "user", "content": "x", "tool": 1}]},
        {"messages": [{"role": "user", "content": "x"}] * (limits.messages_max + 1)},
    ],
)
def test_a_file_that_is_no_conversation_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Whole, before anything of it holds."""
    (tmp_path / "c.json").write_text(json.dumps(saved() | change))
    with pytest.raises(InvalidInput):
        load(tmp_path / "c.json")


def test_a_file_that_is_not_there_or_too_large_is_said(tmp_path: Path) -> None:
    """A folder, something that is no text, and a file above the limit are no conversation either."""
    with pytest.raises(NotFound):
        load(tmp_path / "none.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b" " * (limits.saved_chat_bytes_max + 1))
    for name in (".", "bytes", "large"):
        with pytest.raises(InvalidInput):
            load(tmp_path / name)


async def turns(lines: Iterable[str]) -> list[str]:
    """Every turn of these lines."""
    waiting = iter(lines)

    async def read(_: str) -> str | None:
        return next(waiting, None)

    found: list[str] = []
    while (turn := await read_turn(read)) is not None:
        found.append(turn)
    return found


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["one", "", " two "], ["one", "", "two"]),
        (["one\\", "two\\", "three", "four"], ["one\ntwo\nthree", "four"]),
        (['"""one', "", '/two"""', "three"], ["one\n\n/two", "three"]),
        (['"""', "one", '"""'], ["one"]),
        (['"""all"""'], ["all"]),
        (['"""pasted', "C:\\", 'end"""  ', "x"], ["pasted\nC:\\\nend", "x"]),
        (["one\\"], ["one\\"]),
        (['"""one', "two"], ["one\ntwo"]),
        (["pasted\nat once", "x"], ["pasted\nat once", "x"]),
        (['"""pasted\nat once"""', "x"], ["pasted\nat once", "x"]),
    ],
)
async def test_a_turn_may_have_several_lines(lines: list[str], expected: list[str]) -> None:
    """By a backslash, by quotes, by a paste; the end of the input ends it as it stands."""
    assert expected == await turns(lines)


def test_history_is_kept_for_the_next_time(tmp_path: Path) -> None:
    """0600 in a 0700 folder; not what begins with a space, and not the same twice in a row."""
    history = History(tmp_path / "state")
    for text in ("하나", "two\nlines", "two\nlines", " secret", ""):
        history.add(text)
    assert History(tmp_path / "state").entries == ["하나", "two\nlines"]
    assert (tmp_path / "state/chat_history").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    """Entries and bytes are bounded; what is no entry is passed over."""
    path = tmp_path / "chat_history"
    path.write_text("".join(f"{json.dumps(str(at))}\n" for at in range(3_000)) + "{broken\n3\n")
    history = History(tmp_path)
    assert [str(at) for at in range(2_000, 3_000)] == history.entries
    assert path.read_bytes().count(b"\n") == limits.history_entries_max
    path.write_text(f"{json.dumps('x' * 1000)}\n" * 5_000)
    assert len(History(tmp_path).entries) <= limits.history_entries_max
    assert path.stat().st_size < limits.history_bytes_max / 2


def test_a_history_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    """A link in its place is not followed, a folder that is a file is let be, none at all is none."""
    (tmp_path / "target").write_text("precious")
    (tmp_path / "chat_history").symlink_to(tmp_path / "target")
    for folder in (tmp_path, tmp_path / "target", None):
        History(folder).add("x")
    assert (tmp_path / "target").read_text() == "precious"
