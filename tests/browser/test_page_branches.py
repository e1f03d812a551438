"""What can be done to a conversation: edit, answer again, continue, branches, settings."""

from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from chat_page import SLOW_ANSWERS, answer_with, ask, finished, open_page, say, text_chunks
from running_node import RunningNode

pytestmark = pytest.mark.browser


@pytest.fixture
def sent(page: Page) -> list[dict[str, Any]]:
    """The bodies of the chat requests that reach the node."""
    bodies: list[dict[str, Any]] = []

    def keep(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        route.fallback()

    page.route("**/v1/chat/completions", keep)
    return bodies


def user_texts(page: Page) -> list[str]:
    return page.locator('[data-testid="message-user"] .text').all_inner_texts()


def test_a_thought_stands_folded_beside_the_answer(page: Page, node: RunningNode) -> None:
    """As text, kept with the conversation, and no part of what is sent back."""
    open_page(page, node.url)
    thinking = {"choices": [{"index": 0, "delta": {"reasoning_content": "<b>so</b>\nso"}, "finish_reason": None}]}
    answer_with(page, thinking, *text_chunks("42"), times=1)
    ask(page, "?")
    for _ in range(2):
        thought = page.get_by_test_id("thought")
        expect(thought).not_to_have_attribute("open", "")
        thought.locator("summary").click()
        expect(thought.locator("p")).to_have_text("<b>so</b> so")
        expect(page.get_by_test_id("answer-text")).to_have_text("42")
        page.reload()
        expect(page.get_by_test_id("answer-text")).to_have_text("42")


def test_an_edited_question_makes_a_branch(page: Page, node: RunningNode, sent: list[dict[str, Any]]) -> None:
    """The former question and its answer stay one click away, also after a reload."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    page.get_by_test_id("message-user").hover()
    page.get_by_test_id("edit").click()
    expect(page.get_by_test_id("edit-text")).to_have_value("What is 23 + 45?")
    page.get_by_test_id("edit-text").fill("What is 20 + 10?")
    page.get_by_test_id("edit-text").press("Enter")
    finished(page)
    expect(page.get_by_test_id("answer-text")).to_contain_text("30")
    assert [message["content"] for message in sent[-1]["messages"]] == ["What is 20 + 10?"]
    branches = page.get_by_test_id("message-user").get_by_test_id("branches")
    expect(branches).to_contain_text("2/2")
    page.reload()
    expect(branches).to_contain_text("2/2")
    page.get_by_test_id("branch-left").click()
    expect(branches).to_contain_text("1/2")
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    assert user_texts(page) == ["What is 23 + 45?"]
    page.reload()
    expect(branches).to_contain_text("1/2")


def test_an_edit_that_is_left_changes_nothing(page: Page, node: RunningNode) -> None:
    """Escape leaves the form, and the focus returns to where it came from."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    page.get_by_test_id("prompt").press("ArrowUp")
    page.get_by_test_id("edit-text").fill("other")
    page.get_by_test_id("edit-text").press("Escape")
    expect(page.get_by_test_id("edit-text")).to_have_count(0)
    expect(page.get_by_test_id("edit")).to_be_focused()
    assert user_texts(page) == ["What is 23 + 45?"]


def test_an_answer_asked_for_again_stands_beside_the_former(
    page: Page, node: RunningNode, sent: list[dict[str, Any]]
) -> None:
    """Both stay; the next question carries the one that is shown."""
    open_page(page, node.url)
    say(page, "first words")
    answer_with(page, *text_chunks("other words"), times=1)
    page.get_by_test_id("again").click()
    finished(page)
    expect(page.get_by_test_id("answer-text")).to_have_text("other words")
    page.get_by_test_id("branch-left").click()
    expect(page.get_by_test_id("answer-text")).to_have_text("first words")
    page.unroute("**/v1/chat/completions")
    bodies: list[Any] = []
    page.route("**/v1/chat/completions", lambda route: (bodies.append(route.request.post_data_json), route.continue_()))
    ask(page, "What is 23 + 45?")
    assert [message["content"] for message in bodies[0]["messages"]] == ["?", "first words", "What is 23 + 45?"]


def test_a_cut_answer_goes_on_to_the_same_end(page: Page, node: RunningNode, sent: list[dict[str, Any]]) -> None:
    """Cut by the length limit, continued by the node itself: the text is that of an answer that was never cut."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    whole = page.get_by_test_id("answer-text").text_content()
    page.get_by_test_id("new-chat").click()
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-max_tokens").fill("3")
    page.get_by_test_id("settings-save").click()
    ask(page, "What is 23 + 45?")
    expect(page.get_by_test_id("remarks")).to_contain_text("Cut off at the length limit")
    while page.get_by_test_id("continue").count():
        page.get_by_test_id("continue").click()
        finished(page)
    assert sent[-1]["continue_final_message"] is True
    assert sent[-1]["messages"][-1]["role"] == "assistant"
    expect(page.get_by_test_id("answer-text")).to_have_text(whole or "")
    expect(page.get_by_test_id("message-assistant")).to_have_count(1)


def test_a_stopped_answer_can_go_on(page: Page, node: RunningNode) -> None:
    """Stop keeps what came; Continue adds the rest."""
    page.add_init_script(SLOW_ANSWERS)
    open_page(page, node.url)
    page.get_by_test_id("prompt").fill("What is Blyan?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("answer-text")).not_to_be_empty()
    page.get_by_test_id("prompt").press("Escape")
    page.evaluate("window.eventMs = 0")
    kept = page.get_by_test_id("answer-text").text_content() or ""
    page.get_by_test_id("continue").click()
    finished(page)
    expect(page.get_by_test_id("message-assistant")).to_have_attribute("data-state", "done")
    text = page.get_by_test_id("answer-text").text_content() or ""
    assert text.startswith(kept)
    assert len(text) > len(kept)


def test_settings_belong_to_their_conversation(page: Page, node: RunningNode, sent: list[dict[str, Any]]) -> None:
    """System prompt and sampling go with each request of the conversation, also after a reload, and with no other."""
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 5, "seed": 7}
    wanted |= {"frequency_penalty": 0.5, "presence_penalty": -0.5, "repetition_penalty": 1.1}
    open_page(page, node.url)
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-system").fill("Be brief.")
    for name, value in wanted.items():
        page.get_by_test_id(f"setting-{name}").fill(str(value))
    page.get_by_test_id("setting-stop").fill("END\n끝")
    page.get_by_test_id("settings-save").click()
    expect(page.get_by_test_id("settings")).to_have_count(0)
    expect(page.get_by_test_id("open-settings")).to_contain_text("11")
    ask(page, "Hello")
    page.reload()
    expect(page.get_by_test_id("answer-text")).to_have_count(1)
    ask(page, "Hi")
    for body in sent:
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert {name: body.get(name) for name in wanted} == wanted
        assert body["stop"] == ["END", "끝"]
    page.get_by_test_id("new-chat").click()
    ask(page, "Hello")
    assert not {"temperature", "stop", "seed"} & set(sent[-1])
    assert len(sent[-1]["messages"]) == 1


def test_an_answer_goes_on_while_another_conversation_is_open(page: Page, node: RunningNode) -> None:
    """The history shows that it is being written, and it is whole when one comes back."""
    page.add_init_script(SLOW_ANSWERS)
    open_page(page, node.url)
    page.evaluate("window.eventMs = 100")
    page.get_by_test_id("prompt").fill("What is 23 + 45?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("history-line")).to_have_count(1)
    page.get_by_test_id("new-chat").click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    expect(page.locator(".busy")).to_have_count(1)
    expect(page.locator(".busy")).to_have_count(0)
    page.get_by_test_id("history-open").click()
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
