"""Who cannot see, point, bear motion, or has a small screen: axe-core, the keyboard, phones, and no node at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from chat_page import ask, open_page, say
from running_node import RunningNode

pytestmark = pytest.mark.browser

MARKDOWN = (
    "# A\n\ntext `x` [l](https://a.b)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    "```python\ndef f(): return 'x'\n```\n\n- [x] y\n"
)


def assert_accessible(page: Page) -> None:
    """No finding of axe-core, of any weight."""
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found] == []


@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, node: RunningNode, locale: str, scheme: str) -> None:
    """In an empty page, a conversation with every mark, its form, the dialogs, an error, and the drawers of a phone."""
    context = browser.new_context(locale=locale, color_scheme=scheme, reduced_motion="reduce", service_workers="block")
    page = context.new_page()
    try:
        open_page(page, node.url)
        assert_accessible(page)
        say(page, MARKDOWN)
        expect(page.locator(".hl-keyword").first).to_be_visible()
        page.get_by_test_id("again").focus()
        assert_accessible(page)
        page.get_by_test_id("prompt").press("ArrowUp")
        assert_accessible(page)
        page.get_by_test_id("edit-text").press("Escape")
        for opener in ("open-settings", "keys"):
            page.get_by_test_id(opener).click()
            assert_accessible(page)
            page.keyboard.press("Escape")
        page.route("**/v1/chat/completions", lambda route: route.abort())
        ask(page, "?")
        expect(page.get_by_test_id("error")).to_be_visible()
        page.get_by_test_id("history-line").hover()
        page.get_by_test_id("history-delete").click()
        assert_accessible(page)
        page.set_viewport_size({"width": 390, "height": 844})
        for drawer in ("side", "panel"):
            page.get_by_test_id(f"toggle-{drawer}").click()
            assert_accessible(page)
    finally:
        context.close()


def test_the_keyboard_reaches_everything(page: Page, node: RunningNode) -> None:
    """The shortcuts of the sheet do what it says, and a dialog gives the focus back."""
    open_page(page, node.url)
    expect(page.get_by_test_id("prompt")).to_be_focused()
    page.get_by_test_id("prompt").press("?")
    expect(page.get_by_test_id("prompt")).to_have_value("?")
    page.get_by_test_id("prompt").fill("")
    page.get_by_test_id("new-chat").focus()
    page.keyboard.press("?")
    expect(page.get_by_test_id("shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("shortcuts")).to_have_count(0)
    expect(page.get_by_test_id("new-chat")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_test_id("prompt")).to_be_focused()
    page.keyboard.press("Control+,")
    expect(page.get_by_test_id("settings")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+b")
    expect(page.get_by_test_id("search")).to_be_hidden()
    page.keyboard.press("Control+k")
    expect(page.get_by_test_id("search")).to_be_focused()
    ask(page, "Hello")
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(page.get_by_test_id("prompt")).to_be_focused()


def test_a_phone_has_the_history_and_the_experts_in_drawers(page: Page, node: RunningNode) -> None:
    """They lie over the conversation, one at a time; Escape, a touch beside them, or a choice leaves them."""
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, node.url)
    ask(page, "Hello")
    expect(page.get_by_test_id("history")).to_be_hidden()
    page.get_by_test_id("toggle-panel").click()
    expect(page.get_by_test_id("cell").first).to_be_visible()
    page.get_by_test_id("toggle-side").click()
    expect(page.get_by_test_id("cell").first).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("toggle-side")).to_be_focused()
    page.get_by_test_id("toggle-side").click()
    expect(page.get_by_test_id("history")).to_be_visible()
    page.mouse.click(380, 500)
    expect(page.get_by_test_id("history")).to_be_hidden()
    page.get_by_test_id("toggle-side").click()
    expect(page.get_by_test_id("history")).to_be_visible()
    page.get_by_test_id("history-open").click()
    expect(page.get_by_test_id("history")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_reduced_motion_moves_nothing(page: Page, node: RunningNode) -> None:
    """No animation and no transition runs for a person who asked for none."""
    page.emulate_media(reduced_motion="reduce")
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[RunningNode]:
    """A node that the test may stop."""
    running = RunningNode(tmp_path / "node")
    running.start()
    yield running
    running.stop()


def test_without_a_node_the_page_says_how_to_start_one(browser: Browser, own_node: RunningNode) -> None:
    """An open page says so and what to do; one that is opened shows the splash; neither shows an old page."""
    context = browser.new_context(locale="en-US")
    page = context.new_page()
    try:
        open_page(page, own_node.url)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        own_node.stop()
        ask(page, "Hello")
        expect(page.get_by_test_id("error-hint")).to_contain_text("blyan up")
        page.goto(own_node.url)
        expect(page.locator("h1")).to_have_text("No node answers here")
        expect(page.locator("pre")).to_have_text("blyan up")
        assert_accessible(page)
    finally:
        context.close()
