"""The page's parser of server-sent events, run in the browser that will use it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

FRONTEND = Path(__file__).resolve().parents[2] / "frontend"
PARSE = """async (pieces) => {
  const { SseParser } = await import("/sse.js");
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
}"""
READ_BYTES = """async (pieces) => {
  const { eventsOf } = await import("/sse.js");
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(new Uint8Array(piece));
      controller.close();
    },
  });
  const events = [];
  for await (const event of eventsOf(body)) events.push(event);
  return events;
}"""


@pytest.fixture
def modules(page: Page) -> Page:
    """A page that can import the modules of the frontend; no node is needed for that."""

    def serve(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if name:
            route.fulfill(path=FRONTEND / name, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")

    page.route("http://modules.test/*", serve)
    page.goto("http://modules.test/")
    return page


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_cut_of_a_stream_gives_the_same_events(modules: Page, end: str) -> None:
    """Wherever the network cuts the stream, and whichever line end it uses, the events are the same."""
    stream = (
        f": hello{end}data: one{end}{end}data:two{end}data: three{end}{end}event: x{end}{end}data: [DONE]{end}{end}"
    )
    for cut in range(len(stream) + 1):
        assert modules.evaluate(PARSE, [stream[:cut], stream[cut:]]) == ["one", "two\nthree", "[DONE]"]


def test_a_letter_cut_in_two_arrives_whole(modules: Page) -> None:
    """A multi-byte letter may be split over two network reads."""
    stream = "data: 가🙂\n\n".encode()
    for cut in range(len(stream) + 1):
        assert modules.evaluate(READ_BYTES, [list(stream[:cut]), list(stream[cut:])]) == ["가🙂"]


def test_an_event_cut_off_by_the_end_is_dropped(modules: Page) -> None:
    """What the end of the stream cuts off is no event."""
    assert modules.evaluate(PARSE, ["data: whole\n\ndata: cut"]) == ["whole"]


def test_a_byte_order_mark_is_no_part_of_the_first_event(modules: Page) -> None:
    """A byte order mark at the very start is skipped, as the standard says."""
    assert modules.evaluate(READ_BYTES, [list(b"\xef\xbb\xbfdata: x\n\n")]) == ["x"]
