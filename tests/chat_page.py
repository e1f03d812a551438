"""How the browser tests use the page: opening it, asking, and answers that no model gave.

The crafted answers stand in for the node's stream where a test needs a text that the built-in model cannot say, or time
to press a button while it comes.
"""

import json
from typing import Any

from playwright.sync_api import Page, expect

# Hands over the node's own events one by one, so that there is time to press Stop.
SLOW_ANSWERS = """const fetchFast = window.fetch;
window.fetch = async (input, options) => {
  const response = await fetchFast(input, options);
  if (!String(input).endsWith("/v1/chat/completions")) return response;
  const source = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  const body = new ReadableStream({
    start(controller) {
      options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
    },
    async pull(controller) {
      let end;
      while ((end = held.indexOf("\\n\\n")) === -1) {
        const { done, value } = await source.read();
        if (done) return controller.close();
        held += value;
      }
      await new Promise((resolve) => setTimeout(resolve, window.eventMs ?? 300));
      if (options.signal.aborted) return;
      controller.enqueue(new TextEncoder().encode(held.slice(0, end + 2)));
      held = held.slice(end + 2);
    },
  });
  return new Response(body, { status: response.status, headers: response.headers });
};"""


def open_page(page: Page, url: str) -> None:
    """Opens the page and waits until its model and its grid stand."""
    page.goto(url)
    expect(page.get_by_test_id("cell").first).to_be_attached()


def ask(page: Page, question: str) -> None:
    """Sends a question and waits until the page takes the next one."""
    page.get_by_test_id("prompt").fill(question)
    page.get_by_test_id("prompt").press("Enter")
    finished(page)


def finished(page: Page) -> None:
    """Waits until no answer is on its way."""
    expect(page.get_by_test_id("stop")).to_have_count(0)
    expect(page.get_by_test_id("send")).to_be_visible()


def put(page: Page, text: str) -> None:
    """Makes a long text the draft at once: the browser's own typing of it takes many seconds."""
    page.get_by_test_id("prompt").evaluate(
        "(box, text) => { box.value = text; box.dispatchEvent(new InputEvent('input', { bubbles: true })); }", text
    )


def text_chunks(*pieces: str, reason: str = "stop") -> list[dict[str, Any]]:
    """The chunks of a stream that says these pieces."""
    said = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    return [*said, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}]


def answer_with(page: Page, *chunks: dict[str, Any], end: str = "data: [DONE]\n\n", times: int | None = None) -> None:
    """Lets the page receive this stream in place of the node's."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
        times=times,
    )


def say(page: Page, text: str) -> None:
    """Asks, and lets this text be the answer."""
    answer_with(page, *text_chunks(text), times=1)
    ask(page, "?")
