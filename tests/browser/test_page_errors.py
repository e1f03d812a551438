"""What goes wrong is said in the page's own words, with what helps, and nothing is cut in silence."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from chat_page import ask, open_page, put
from running_node import RunningNode

pytestmark = pytest.mark.browser

TEXT_BYTES_MAX = 2 * 1024 * 1024


def refuse(page: Page, status: int, code: str, **more: Any) -> None:
    """The next question gets this error in place of an answer."""
    error = {"message": "expected 1, found 2", "type": "t", "param": None, "code": code, "detail": {}, "hint": None}
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=status, json={"error": error | more}), times=1
    )


@pytest.fixture
def korean(browser: Browser) -> Iterator[Page]:
    """A page of a Korean browser."""
    context = browser.new_context(locale="ko-KR", service_workers="block")
    yield context.new_page()
    context.close()


def test_a_context_that_is_full_offers_what_helps(page: Page, node: RunningNode) -> None:
    """No retry, which could not help: a new chat with the question, editing it, or the settings."""
    open_page(page, node.url)
    ask(page, "Hello")
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-max_tokens").fill("999999")
    page.get_by_test_id("settings-save").click()
    ask(page, "And what is 23 + 45?")
    alert = page.get_by_test_id("error")
    expect(alert).to_contain_text("too long for this model")
    expect(alert.get_by_test_id("retry")).to_have_count(0)
    alert.get_by_test_id("settings").click()
    expect(page.get_by_test_id("setting-max_tokens")).to_be_visible()
    page.keyboard.press("Escape")
    alert.get_by_test_id("edit").click()
    expect(page.get_by_test_id("edit-text")).to_have_value("And what is 23 + 45?")
    alert.get_by_test_id("new").click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(page.get_by_test_id("prompt")).to_have_value("And what is 23 + 45?")
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")


def test_errors_of_the_node_are_said_in_korean(korean: Page, node: RunningNode) -> None:
    """Title and next step are the page's; the node's own words stand below, marked as English, with the log's id."""
    open_page(korean, node.url)
    alert = korean.get_by_test_id("error")
    for status, code, title, step in (
        (429, "queue_full", "노드가 바쁩니다", "잠시 뒤 다시 시도하세요"),
        (503, "unavailable", "노드가 지금 질문을 받지 않습니다", "잠시 뒤 다시 시도하세요"),
        (400, "unsupported_parameter", "노드가 이 요청을 받아들이지 않았습니다", "고치고 다시 시도하세요"),
        (503, "block_corrupt", "블록 하나가 손상되었습니다", "다른 모델을 고르세요"),
        (500, "internal_error", "노드에서 오류가 났습니다", "노드의 로그와 함께"),
        (500, "never_heard_of", "요청을 처리하지 못했습니다", "노드의 로그를 살펴보세요"),
    ):
        refuse(korean, status, code, request_id="f00d")
        ask(korean, "안녕")
        expect(alert.locator("h2")).to_contain_text(title)
        expect(korean.get_by_test_id("error-hint")).to_contain_text(step)
        expect(korean.get_by_test_id("error-said").locator("q[lang=en]")).to_contain_text("expected 1, found 2")
        expect(korean.get_by_test_id("error-log")).to_have_text(re.compile("로그.*f00d"))  # ours, not the node's words


def test_a_model_that_is_gone_is_looked_for_again(page: Page, node: RunningNode) -> None:
    """The button reads the node's models anew."""
    open_page(page, node.url)
    refuse(page, 404, "not_found")
    ask(page, "Hello")
    with page.expect_response("**/v1/models"):
        page.get_by_test_id("error").get_by_test_id("models").click()
    expect(page.get_by_test_id("error")).to_have_count(0)
    ask(page, "What is 23 + 45?")
    expect(page.get_by_test_id("answer-text").last).to_contain_text("68")


def test_a_text_above_the_nodes_limit_is_said_and_not_cut(page: Page, node: RunningNode) -> None:
    """It stays whole in its field, with its size and the limit; Send and Enter wait until it is shortened."""
    open_page(page, node.url)
    excess = "async (text) => (await import('/source/lengths.js')).excessOf(text)"
    fits = "한" * (TEXT_BYTES_MAX // 3) + "xx"
    assert (page.evaluate(excess, fits), page.evaluate(excess, fits + "x") == "") == ("", False)
    lines = ("x" * 1023 + "\n") * 2049
    put(page, lines)
    assert page.get_by_test_id("prompt").evaluate("each => each.value.length") == len(lines)
    expect(page.get_by_test_id("send")).to_be_disabled()
    expect(page.get_by_test_id("excess")).to_contain_text("Too long by 1 KiB")
    expect(page.get_by_test_id("excess")).to_contain_text("2 MiB")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    page.get_by_test_id("prompt").fill("")
    expect(page.get_by_test_id("excess")).to_have_count(0)


def test_a_setting_that_is_too_long_is_said_and_not_cut(page: Page, node: RunningNode) -> None:
    """A stop text above the limit keeps the dialog open with words at its field."""
    open_page(page, node.url)
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-stop").fill("x" * 257)
    page.get_by_test_id("settings-save").click()
    expect(page.get_by_test_id("settings")).to_be_visible()
    assert "16 lines" in page.get_by_test_id("setting-stop").evaluate("each => each.validationMessage")
    page.get_by_test_id("setting-stop").fill("x" * 256)
    page.get_by_test_id("settings-save").click()
    expect(page.get_by_test_id("settings")).to_have_count(0)
