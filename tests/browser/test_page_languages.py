"""Korean and English: the same journeys, and the Enter key beside an input method."""

import re

import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from chat_page import ask, finished, open_page
from running_node import RunningNode

pytestmark = pytest.mark.browser

ENTER = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
COMPOSED_ENTER = {"key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229}
HANGUL = re.compile("[\uac00-\ud7a3]")


@pytest.fixture
def ime(page: Page) -> CDPSession:
    """Chromium's own door for input methods: compositions as the browser tells them to a page."""
    return page.context.new_cdp_session(page)


def compose(ime: CDPSession, text: str) -> None:
    ime.send("Input.imeSetComposition", {"text": text, "selectionStart": len(text), "selectionEnd": len(text)})


@pytest.mark.parametrize("repeats", [False, True])
def test_enter_in_a_hangul_syllable_sends_once_after_the_composition(
    page: Page, node: RunningNode, ime: CDPSession, repeats: bool
) -> None:
    """Nothing is sent while the syllable is composed; one question once it is, whether or not the key is repeated."""
    open_page(page, node.url)
    page.get_by_test_id("prompt").focus()
    for text in ("ㅎ", "하", "한"):
        compose(ime, text)
    ime.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **COMPOSED_ENTER})
    page.wait_for_timeout(150)
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    ime.send("Input.insertText", {"text": "한"})
    if repeats:
        ime.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **ENTER})
    expect(page.get_by_test_id("message-user").locator(".text")).to_have_text("한")
    finished(page)
    page.wait_for_timeout(150)
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    expect(page.get_by_test_id("prompt")).to_have_value("")


def test_enter_on_a_japanese_candidate_sends_nothing(page: Page, node: RunningNode, ime: CDPSession) -> None:
    """There Enter accepts the candidate; the next Enter sends."""
    open_page(page, node.url)
    page.get_by_test_id("prompt").focus()
    compose(ime, "にほん")
    ime.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **COMPOSED_ENTER})
    ime.send("Input.insertText", {"text": "日本"})
    page.wait_for_timeout(200)
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("message-user").locator(".text")).to_have_text("日本")


def test_a_korean_browser_gets_a_korean_page(browser: Browser, node: RunningNode) -> None:
    """Every journey's words are Korean: asking, editing, settings, history, keys, an error."""
    context = browser.new_context(locale="ko-KR", service_workers="block")
    page = context.new_page()
    try:
        open_page(page, node.url)
        expect(page.locator("html")).to_have_attribute("lang", "ko")
        ask(page, "23 더하기 45는?")
        expect(page.get_by_test_id("answer-text")).to_contain_text("68")
        expect(page.get_by_test_id("remarks")).to_contain_text("토큰")
        page.get_by_test_id("prompt").press("ArrowUp")
        expect(page.get_by_test_id("edit-send")).to_have_text("보내기")
        page.get_by_test_id("edit-text").press("Escape")
        for opener, dialog in (("open-settings", "settings"), ("keys", "keys-sheet")):
            page.get_by_test_id(opener).click()
            for words in page.get_by_test_id(dialog).locator("h2, .field-about, dt, button").all_inner_texts():
                assert HANGUL.search(words) or not words.strip(), words
            page.keyboard.press("Escape")
            expect(page.get_by_test_id(dialog)).to_have_count(0)
        page.get_by_test_id("history-line").hover()
        page.get_by_test_id("history-delete").click()
        expect(page.get_by_test_id("undo")).to_have_text("되돌리기")
        page.route("**/v1/chat/completions", lambda route: route.abort())
        ask(page, "안녕")
        expect(page.get_by_test_id("error")).to_contain_text("노드에 연결할 수 없습니다")
        for element in page.locator("button:visible, input:visible, textarea:visible").all():
            name = element.get_attribute("aria-label") or element.inner_text()
            assert HANGUL.search(name) or name in {"Show this page in English", "안녕", ""}, name
    finally:
        context.close()
