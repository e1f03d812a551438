"""One answer, two tabs: the one that writes it, and one that only shows it."""

import pytest
from playwright.sync_api import Page, expect

from chat_page import SLOW_ANSWERS, finished, open_page
from running_node import RunningNode

pytestmark = pytest.mark.browser


def begin_slowly(page: Page, node: RunningNode) -> Page:
    """Asks in one tab, with time between the words; returns a second tab on the same conversation."""
    page.add_init_script(SLOW_ANSWERS)
    open_page(page, node.url)
    page.get_by_test_id("prompt").fill("What is Blyan?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("answer-text")).not_to_be_empty()
    other = page.context.new_page()
    open_page(other, page.url)
    return other


def test_a_second_tab_follows_an_answer_and_leaves_it_alone(page: Page, node: RunningNode) -> None:
    """It says who writes, offers neither Continue nor Send, and has the whole answer when that is done."""
    other = begin_slowly(page, node)
    expect(other.get_by_test_id("elsewhere")).to_be_visible()
    expect(other.get_by_test_id("continue")).to_have_count(0)
    other.get_by_test_id("prompt").fill("And more?")
    expect(other.get_by_test_id("send")).to_be_disabled()
    other.get_by_test_id("prompt").press("Enter")
    expect(other.get_by_test_id("message-user")).to_have_count(1)
    page.evaluate("window.eventMs = 0")
    finished(page)
    expect(other.get_by_test_id("elsewhere")).to_have_count(0)
    expect(other.get_by_test_id("message-assistant")).to_have_attribute("data-state", "done")
    expect(other.get_by_test_id("answer-text")).to_have_text(page.get_by_test_id("answer-text").inner_text())
    expect(other.get_by_test_id("send")).to_be_enabled()


def test_an_answer_whose_tab_died_is_cut_and_goes_on_in_another(page: Page, node: RunningNode) -> None:
    """The browser takes the answer from a tab that is gone; then Continue is offered, and works."""
    other = begin_slowly(page, node)
    expect(other.get_by_test_id("answer-text")).not_to_be_empty()
    expect(other.get_by_test_id("elsewhere")).to_be_visible()
    page.close()
    expect(other.get_by_test_id("message-assistant")).to_have_attribute("data-state", "failed")
    expect(other.get_by_test_id("elsewhere")).to_have_count(0)
    other.get_by_test_id("continue").click()
    expect(other.get_by_test_id("message-assistant")).to_have_attribute("data-state", "done")
