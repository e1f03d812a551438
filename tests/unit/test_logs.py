"""Logs of a node: one line a record, the request's id in each, and nothing of what callers wrote."""

import io
import json
import logging
import stat
import threading
from contextvars import copy_context
from pathlib import Path

import pytest

from blyan.node.config import LogConfig
from blyan.node.logs import fields_attribute, logging_as, printable, redacted
from blyan.node.tracing import begin_trace
from blyan.primitives.errors import Denied, InvalidInput

LOG = logging.getLogger("blyan.test")


def said(config: LogConfig, folder: Path, *messages: str) -> list[str]:
    stream = io.StringIO()
    with logging_as(config, folder, stream):
        for message in messages:
            LOG.warning("%s", message)
    return stream.getvalue().splitlines()


HOSTILE = (
    "line\nblyan: request status=200",
    "carriage\rreturn",
    "\x1b[2J\x1b]0;title\x07",
    "c1 \x9b31m and \x85",
    "right \u202e to left \u2066",
    "separators \u2028 \u2029",
    "zero\x00",
)


@pytest.mark.parametrize("message", HOSTILE)
@pytest.mark.parametrize("kind", ["text", "json"])
def test_no_value_begins_a_line_or_steers_a_terminal(message: str, kind: str, tmp_path: Path) -> None:
    [line] = said(LogConfig(format=kind), tmp_path, message)
    assert line.isprintable()
    if kind == "json":
        assert json.loads(line)["message"].isprintable()


def test_text_of_other_scripts_stays_as_it_is() -> None:
    assert printable("한국어 – ok") == "한국어 – ok"


def test_a_long_message_is_cut_and_says_so() -> None:
    assert printable("a" * 100_000).endswith("(100000 characters)")
    assert len(printable("a" * 100_000)) < 5000


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdefghijkl", "Authorization: [redacted]"),
        ("headers {'authorization': 'Basic dXNlcjpwYXNz'}", "headers {'authorization': [redacted]}"),
        ("GET /x?api_key=verysecret&y=1", "GET /x?api_key=[redacted]&y=1"),
        ("at postgresql://me:p@ss@db:5432/x now", "at postgresql://(redacted)@db:5432/x now"),
        (
            "asked https://eth.org/v2/Abcdefghij0123456789-_ twice",
            "asked https://eth.org/v2/(redacted) twice",
        ),
        (f"from http://peer/blobs/{'0a' * 32}", f"from http://peer/blobs/{'0a' * 32}"),
        ("passphrase=open-sesame", "passphrase=[redacted]"),
        ("Cookie: session=abc; more", "Cookie: [redacted]; more"),
        ("sent sk-abcdefghijklmnop", "sent [redacted]"),
        ("bearer eyJhbGciOi.abc.def", "[redacted]"),
        ("12 tokens, tokens_max 5", "12 tokens, tokens_max 5"),
    ],
)
def test_what_looks_like_a_credential_is_cut_out(text: str, left: str) -> None:
    assert redacted(text) == left


def test_a_traceback_names_types_and_frames_and_not_what_the_exception_says(tmp_path: Path) -> None:
    """A message of an exception may quote a prompt."""
    stream = io.StringIO()
    with logging_as(LogConfig(format="json"), tmp_path, stream):
        try:
            try:
                raise KeyError("my secret prompt")
            except KeyError as reason:
                raise InvalidInput("my secret prompt again") from reason
        except InvalidInput:
            LOG.exception("a generation failed")
    line = json.loads(stream.getvalue())
    assert "secret" not in stream.getvalue()
    assert [frame.rpartition(".")[2] for frame in line["traceback"] if ".py:" not in frame] == [
        "InvalidInput",
        "KeyError",
    ]
    assert any("test_logs.py:" in frame for frame in line["traceback"])


def test_every_line_of_a_request_has_its_id_in_other_threads_too(tmp_path: Path) -> None:
    stream = io.StringIO()

    def request() -> None:
        begin_trace("given-1", b"")
        LOG.warning("here")
        other = threading.Thread(target=copy_context().run, args=(LOG.warning, "there"))
        other.start()
        other.join()

    with logging_as(LogConfig(format="json"), tmp_path, stream):
        copy_context().run(request)
        LOG.warning("nobody's")
    assert [json.loads(line).get("request") for line in stream.getvalue().splitlines()] == ["given-1", "given-1", None]


@pytest.mark.parametrize("given", [None, "", "a b", "a\nb", "é", "a" * 129, "<script>"])
def test_an_id_that_is_not_well_formed_is_replaced(given: str | None) -> None:
    assert begin_trace(given, b"\x01\x02").identity == "0102"


def test_fields_cannot_replace_what_every_line_has(tmp_path: Path) -> None:
    stream = io.StringIO()
    with logging_as(LogConfig(format="json"), tmp_path, stream):
        LOG.warning("message", extra={fields_attribute: {"message": "forged", "status": 200}})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["status"]) == ("message", 200)


def test_the_file_rotates_by_size_and_nobody_else_reads_it(tmp_path: Path) -> None:
    config = LogConfig(file=True, file_bytes_max=1024, files_kept=2)
    said(config, tmp_path, *("x" * 500 for _ in range(20)))
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["node.log", "node.log.1", "node.log.2"]
    assert all(file.stat().st_size <= 1024 for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_folder_of_logs_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Denied, match="symbolic link"):
        said(LogConfig(file=True), tmp_path, "x")


def test_levels_below_the_configured_one_are_left_out(tmp_path: Path) -> None:
    assert said(LogConfig(level="error"), tmp_path, "a warning") == []
