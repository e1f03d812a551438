"""What a source is, and the memory of those that lied."""

from __future__ import annotations

from pathlib import Path

import pytest

from blyan.network.sources import Source, SourceBook, peer_source, source_url
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput
from blyan.primitives.ids import PayloadId, payload_id
from blyan.primitives.limits import bad_source_seconds, lies_per_source_max

NOW = 1_700_000_000
URL = "http://a.example:8645/blobs"


def payload(number: int) -> PayloadId:
    return payload_id(f"{number:064x}")


NO_URLS = "a.example ftp://a.example http:// http://:80 http://a:0 http://a:x http://u@a http://a?q http://a#f http://ä"


@pytest.mark.parametrize("text", [*NO_URLS.split(), "", "http://a /b", "http://a/\n", "http://a/" + "b" * 1_100])
def test_what_is_no_base_url_is_refused(text: str) -> None:
    """With what was found."""
    with pytest.raises(InvalidInput, match=r"expected http://HOST\[:PORT\]\[/PATH\], found"):
        source_url(text, "models.mirrors")


def test_slashes_at_the_end_do_not_count() -> None:
    """Or one source would be two."""
    assert source_url("https://a.example/x//", "mirror") == "https://a.example/x"
    assert peer_source("http://a.example:8645/") == Source(URL)
    with pytest.raises(InvalidInput, match="without a slash"):
        Source(URL + "/")


def test_a_lie_is_remembered_for_hours_over_restarts(tmp_path: Path) -> None:
    """By URL and payload; not for ever, also if the clock is set back."""
    path = tmp_path / "book"
    SourceBook(path, lambda: NOW).condemn(URL, payload(1), "wrong bytes: subtile 3")
    again = SourceBook(path, lambda: NOW + bad_source_seconds - 1).against(URL)
    assert again.why_not(payload(1)) == "remembered: wrong bytes: subtile 3"
    assert again.why_not(payload(2)) is None
    assert SourceBook(path, lambda: NOW).against("http://b.example").why_not(payload(1)) is None
    for now in (NOW + bad_source_seconds, NOW - 1):
        assert SourceBook(path, lambda now=now: now).against(URL).why_not(payload(1)) is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_lied_about_several_payloads_is_asked_for_none(tmp_path: Path) -> None:
    """Telling the same lie twice is one."""
    book = SourceBook(tmp_path / "book", lambda: NOW)
    for number in (*range(1, lies_per_source_max), 1):
        book.condemn(URL, payload(number), "wrong")
    assert book.against(URL).why_not(payload(99)) is None
    book.condemn(URL, payload(lies_per_source_max), "wrong")
    assert book.against(URL).why_not(payload(99)) == f"remembered: wrong bytes of {lies_per_source_max} payloads"


def test_the_oldest_lie_is_forgotten_for_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays small, whatever is said of whoever."""
    monkeypatch.setattr(limits, "bad_sources_max", 5)
    path = tmp_path / "book"
    for number in range(7):
        book = SourceBook(path, lambda number=number: NOW + number)
        book.condemn(f"http://{number}.example", payload(1), "\x1bé" + "x" * 400)
    again = SourceBook(path, lambda: NOW + 7)
    known = [again.against(f"http://{number}.example").why_not(payload(1)) for number in range(7)]
    assert known == [None, None, *["remembered: ??" + "x" * 254] * 5]


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"v":2,"lies":[]}', b'{"v":1,"lies":[{"url":"x"}]}', b"[" * 9_999, b"\xff"]
)
def test_a_record_that_cannot_be_read_is_begun_anew(raw: bytes, tmp_path: Path) -> None:
    """Forgetting is harmless; the next lie is remembered."""
    path = tmp_path / "book"
    path.write_bytes(raw)
    book = SourceBook(path, lambda: NOW)
    assert book.against(URL).why_not(payload(1)) is None
    book.condemn(URL, payload(1), "wrong")
    assert SourceBook(path, lambda: NOW).against(URL).why_not(payload(1)) == "remembered: wrong"
