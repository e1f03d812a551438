"""The chat page in a real browser, against a real node with the built-in model."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, expect

from blyan.api.packing import read_module
from blyan.api.page import page_folder
from chat_page import SLOW_ANSWERS, answer_with, ask, open_page
from running_node import RunningNode

pytestmark = pytest.mark.browser

SUBTILE_BYTES = 256 * 1024
MARKUP = '<img src="x" onerror="window.wasRun = true"><b>bold</b> & <script>window.wasRun = true</script>'


def tokens_by_cell(page: Page) -> dict[tuple[int, int], int]:
    """(layer, expert) -> tokens of the shown answer."""
    cells = page.get_by_test_id("cell").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.layer, cell.dataset.expert, cell.dataset.tokens].map(Number))"
    )
    return {(layer, expert): tokens for layer, expert, tokens in cells}


def test_an_addition_streams_its_sum_and_lights_up_experts(page: Page, node: RunningNode) -> None:
    """The page answers an addition, in several chunks, and counts top-k experts per token in every layer."""
    page.add_init_script(SLOW_ANSWERS)  # else all of it may come within a frame
    open_page(page, node.url)
    before = tokens_by_cell(page)
    page.evaluate("""() => {
      window.lengths = new Set();
      window.lit = 0;
      new MutationObserver(() => {
        window.lengths.add(document.querySelector('[data-testid="answer-text"]')?.textContent.length ?? 0);
        window.lit = Math.max(window.lit, document.querySelectorAll('[data-working="true"]').length);
      }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
    }""")
    ask(page, "What is 23 + 45?")
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    after = tokens_by_cell(page)
    assert set(before.values()) == {0}
    by_layer = [sum(tokens for (layer, _), tokens in after.items() if layer == at) for at, _ in after]
    assert min(by_layer) > 0
    assert len(set(by_layer)) == 1  # every layer saw the same tokens
    assert page.evaluate("window.lit") > 0
    assert len(page.evaluate("[...window.lengths]")) > 2  # nothing, a part, the whole


def test_every_block_is_said_to_be_verified(page: Page, node: RunningNode) -> None:
    """The page says in words how many blocks were checked against which checkpoint, and shows each in its cell."""
    open_page(page, node.url)
    count = page.get_by_test_id("cell").count()
    line = page.get_by_test_id("verified-line")
    expect(line).to_contain_text(
        re.compile(rf"{count} of {count} expert blocks verified .*checkpoint size \d+, root [0-9a-f]+")
    )
    assert page.locator('[data-testid="cell"][data-state="verified"]').count() == count > 0
    expect(page.get_by_test_id("model-name")).to_have_text("blyan-genesis")
    expect(page.get_by_test_id("model-manifest")).to_have_text(re.compile(r"[0-9a-f]{8}"))


def test_a_conversation_breaks_no_rule_of_the_security_policy(page: Page, faults: list[str], node: RunningNode) -> None:
    """Under the strict policy that the node sends, a conversation leaves no violation, console error or exception."""
    response = page.goto(node.url)
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    expect(page.get_by_test_id("cell").first).to_be_visible()
    ask(page, "What is 23 + 45?")
    page.get_by_test_id("lang").click()
    page.get_by_test_id("theme").click()
    page.get_by_test_id("cell").first.hover()
    page.get_by_test_id("new-chat").click()
    page.get_by_test_id("example").first.click()
    expect(page.get_by_test_id("remarks")).to_be_visible()
    assert faults == []


def test_the_page_loads_nothing_from_elsewhere(page: Page, node: RunningNode) -> None:
    """Every request of the page goes to the node itself."""
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    assert [url for url in asked if not url.startswith(f"{node.url}/")] == []


def test_stop_keeps_what_arrived(page: Page, node: RunningNode) -> None:
    """Stop ends the answer where it is, marks it as stopped, and the page takes the next question."""
    page.add_init_script(SLOW_ANSWERS)
    open_page(page, node.url)
    page.get_by_test_id("prompt").fill("What is Blyan?")
    page.get_by_test_id("send").click()
    answer = page.get_by_test_id("answer-text")
    expect(answer).not_to_be_empty()
    page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("message-assistant")).to_have_attribute("data-state", "stopped")
    kept = answer.text_content()
    expect(page.get_by_test_id("remarks")).to_contain_text("Stopped")
    page.wait_for_timeout(700)  # longer than two events take to arrive
    assert answer.text_content() == kept != ""
    expect(page.get_by_test_id("error")).to_have_count(0)
    expect(page.get_by_test_id("send")).to_be_visible()


def test_shift_enter_makes_a_line_and_enter_sends(page: Page, node: RunningNode) -> None:
    """Shift+Enter starts a new line, Enter sends both, and Enter inside an input method's composition sends nothing."""
    open_page(page, node.url)
    box = page.get_by_test_id("prompt")
    box.fill("Hello")
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    box.press("Shift+Enter")
    box.press_sequentially("there")
    box.press("Enter")
    expect(page.get_by_test_id("message-user").locator(".text")).to_have_text("Hello\nthere", use_inner_text=True)


def test_the_language_is_switched_and_remembered(page: Page, node: RunningNode) -> None:
    """The page changes to Korean at a click and is still Korean after a reload."""
    open_page(page, node.url)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.get_by_test_id("lang").click()
    expect(page.get_by_test_id("new-chat")).to_contain_text("새 대화")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.get_by_test_id("verified-line")).to_contain_text("확인됨")


def test_the_theme_is_switched_and_remembered(page: Page, node: RunningNode) -> None:
    """The page follows the system, changes its colours at a click, and keeps them after a reload."""
    ground = "getComputedStyle(document.body).backgroundColor"
    open_page(page, node.url)
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.get_by_test_id("theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(ground) == dark != light


def test_markup_in_a_question_is_text(page: Page, node: RunningNode) -> None:
    """A question with markup is shown letter by letter and runs nothing."""
    open_page(page, node.url)
    ask(page, MARKUP)
    expect(page.get_by_test_id("message-user").locator(".text")).to_have_text(MARKUP)
    assert page.locator("article img, article b, article script").count() == 0
    assert page.evaluate("window.wasRun") is None


def test_markup_in_an_answer_is_text(page: Page, node: RunningNode) -> None:
    """An answer with markup is shown letter by letter and runs nothing."""
    open_page(page, node.url)
    answer_with(page, {"choices": [{"index": 0, "delta": {"content": MARKUP}, "finish_reason": "stop"}]})
    ask(page, "Hello")
    expect(page.get_by_test_id("answer-text")).to_have_text(MARKUP)
    assert page.locator("article img, article b, article script").count() == 0
    assert page.evaluate("window.wasRun") is None


def test_the_next_question_carries_the_conversation(page: Page, node: RunningNode) -> None:
    """A second question is sent with the first one and its answer; New chat forgets both."""
    sent: list[list[dict[str, str]]] = []

    def keep(route: Route) -> None:
        sent.append(route.request.post_data_json["messages"])
        route.continue_()

    open_page(page, node.url)
    page.route("**/v1/chat/completions", keep)
    ask(page, "What is 23 + 45?")
    answer = page.get_by_test_id("answer-text").text_content()
    ask(page, "Hello")
    page.get_by_test_id("new-chat").click()
    ask(page, "Hi")
    assert [[message["content"] for message in messages] for messages in sent] == [
        ["What is 23 + 45?"],
        ["What is 23 + 45?", answer, "Hello"],
        ["Hi"],
    ]


def test_an_error_shows_the_servers_words_and_hint(page: Page, node: RunningNode) -> None:
    """A refused request shows the node's message and hint, when to come back, and a retry that works."""
    error = {"message": "The queue is full (16 of 16).", "type": "server_error", "param": None, "code": "queue_full"}
    error |= {"detail": {}, "hint": "Wait a moment."}
    open_page(page, node.url)
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, headers={"Retry-After": "3"}, json={"error": error}),
        times=1,
    )
    ask(page, "What is 23 + 45?")
    alert = page.get_by_test_id("error")
    for words in (error["message"], error["hint"], "about 3 s"):
        expect(alert).to_contain_text(str(words))
    page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    expect(alert).to_have_count(0)
    expect(page.get_by_test_id("message-user")).to_have_count(1)


def test_an_answer_that_breaks_off_is_not_passed_off_as_whole(page: Page, node: RunningNode) -> None:
    """A stream that ends without its end mark keeps its text, is marked as not finished, and raises an alert."""
    open_page(page, node.url)
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "The sum"}, "finish_reason": None}]})
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=f"data: {chunk}\n\n"),
    )
    ask(page, "What is 23 + 45?")
    expect(page.get_by_test_id("answer-text")).to_have_text("The sum")
    expect(page.get_by_test_id("message-assistant")).to_have_attribute("data-state", "failed")
    expect(page.get_by_test_id("error")).to_have_attribute("data-code", "stream_broken")


def test_an_unreachable_node_can_be_tried_again(page: Page, node: RunningNode) -> None:
    """A page that finds no node says so, and its retry button brings the model once the node is there."""
    page.route("**/v1/models", lambda route: route.abort("connectionrefused"), times=1)
    page.goto(node.url)
    expect(page.get_by_test_id("error")).to_contain_text("cannot be reached")
    page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("model-name")).to_have_text("blyan-genesis")
    expect(page.get_by_test_id("error")).to_have_count(0)


def test_the_grid_is_walked_with_the_keyboard(page: Page, node: RunningNode) -> None:
    """Arrow keys move through the grid, which is one tab stop, and the focused cell's payload is shown."""
    open_page(page, node.url)
    payloads = {
        (block["layer"], block["expert"]): block["payload"]
        for block in page.request.get(f"{node.url}/network/experts?model=blyan-genesis").json()["blocks"]
    }
    assert page.locator('[role="gridcell"][tabindex="0"]').count() == 1
    page.get_by_test_id("cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    at = page.evaluate("[document.activeElement.dataset.layer, document.activeElement.dataset.expert].map(Number)")
    layers = sorted({layer for layer, expert in payloads if expert is not None})
    assert at == [layers[1], 1]
    expect(page.get_by_test_id("inspector")).to_contain_text(payloads[layers[1], 1])


def test_a_small_phone_needs_no_sideways_scrolling(page: Page, node: RunningNode) -> None:
    """At 360 pixels nothing is wider than the screen, with an answer and in both languages."""
    page.set_viewport_size({"width": 360, "height": 740})
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_test_id("toggle-side").click()
        page.get_by_test_id("lang").click()
        page.keyboard.press("Escape")
        expect(page.get_by_test_id("lang")).to_be_hidden()


def test_a_flipped_bit_is_named_by_the_page(page: Page, node: RunningNode, tmp_path: Path) -> None:
    """One bit of an expert's file is flipped: a chat gets no answer, and the page names the payload and the subtile."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    tokens = tokens_by_cell(page)
    layer, expert = max(tokens, key=lambda at: tokens[at])
    report = page.request.get(f"{node.url}/network/experts?model=blyan-genesis").json()
    block = next(block for block in report["blocks"] if (block["layer"], block["expert"]) == (layer, expert))
    node.stop()
    shutil.copytree(node.data_dir, tmp_path / "damaged")
    damaged = RunningNode(tmp_path / "damaged")
    node.start()
    position = block["bytes"] - 1000
    flip_bit(damaged.blob(block["payload"]), position)
    damaged.start()
    try:
        page.goto(damaged.url)
        cell = page.locator(f'[data-testid="cell"][data-layer="{layer}"][data-expert="{expert}"]')
        expect(cell).to_be_visible()
        ask(page, "What is 23 + 45?")
        expect(page.get_by_test_id("error")).to_have_attribute("role", "alert")
        expect(page.get_by_test_id("error-payload")).to_have_text(block["payload"])
        expect(page.get_by_test_id("error-part")).to_have_text(block["part"])
        expect(page.get_by_test_id("error-file")).to_contain_text(block["payload"])
        expect(page.get_by_test_id("error-subtiles")).to_have_text(str(position // SUBTILE_BYTES))
        expect(page.get_by_test_id("answer-text")).to_be_empty()
        expect(cell).to_have_attribute("data-state", "corrupt")
        expect(page.get_by_test_id("verified-line")).to_contain_text("1 corrupt")
    finally:
        damaged.stop()


def flip_bit(file: Path, position: int) -> None:
    """Flips the lowest bit of one byte."""
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)[0]
        opened.seek(position)
        opened.write(bytes([byte ^ 1]))


def test_no_name_of_a_module_is_one_of_the_browser(page: Page) -> None:
    """In a pack a name at the top of one module would hide the browser's own from all others."""
    modules = [read_module(path.name, path.read_text("utf-8")) for path in page_folder().glob("*.js")]
    names = sorted({name for module in modules for name in module.declared})
    assert len(names) > 300
    assert page.evaluate("names => names.filter((name) => name in globalThis)", names) == []


def test_the_source_works_as_a_page(page: Page, node: RunningNode, faults: list[str]) -> None:
    """Module by module, as people write it: for those who read, and who look for a mistake."""
    open_page(page, f"{node.url}/source/")
    ask(page, "What is 23 + 45?")
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    page.get_by_test_id("story").click()
    expect(page.get_by_test_id("sheet-body")).to_be_visible()
    assert faults == []
