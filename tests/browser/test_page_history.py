"""The history: kept, searched, named, deleted, carried out and in, and shared by tabs."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from chat_page import ask, open_page, say
from running_node import RunningNode

pytestmark = pytest.mark.browser


def titles(page: Page) -> list[str]:
    return page.get_by_test_id("history-open").all_inner_texts()


def export(page: Page, folder: Path) -> dict[str, Any]:
    """Exports all and returns what the file holds; it lies at `folder`/export.json."""
    with page.expect_download() as download:
        page.get_by_test_id("export").click()
    assert download.value.suggested_filename.endswith(".json")
    download.value.save_as(folder / "export.json")
    return json.loads((folder / "export.json").read_text())


def bring(page: Page, folder: Path, value: object) -> None:
    """Imports a file with this value."""
    (folder / "import.json").write_text(value if isinstance(value, str) else json.dumps(value))
    page.get_by_test_id("import").set_input_files(folder / "import.json")


def test_a_conversation_is_there_after_a_reload(page: Page, node: RunningNode) -> None:
    """The same tab shows it again, with its answer, its experts and its speed; a new tab finds it in the list."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    remarks = (page.get_by_test_id("remarks").text_content() or "").strip()
    assert "experts worked" in remarks  # and its speed, unless the pieces came too close together to tell
    page.reload()
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    expect(page.get_by_test_id("remarks")).to_have_text(remarks)
    other = page.context.new_page()
    other.goto(node.url)
    other.get_by_test_id("history-open").click()
    expect(other.get_by_test_id("answer-text")).to_contain_text("68")


def test_search_finds_words_of_titles_and_of_answers(page: Page, node: RunningNode) -> None:
    """In any case of letters, and what is not there is said."""
    open_page(page, node.url)
    say(page, "About Zebras and more")
    page.get_by_test_id("new-chat").click()
    ask(page, "Hello")
    page.keyboard.press("Control+k")
    expect(page.get_by_test_id("search")).to_be_focused()
    page.get_by_test_id("search").fill("zEBRAS")
    expect(page.get_by_test_id("history-line")).to_have_count(1)
    assert titles(page) == ["?"]
    page.get_by_test_id("search").fill("hello")
    expect(page.get_by_test_id("history-open")).to_have_text("Hello")
    page.get_by_test_id("search").fill("nowhere")
    expect(page.get_by_test_id("history-none")).to_be_visible()


def test_a_conversation_is_renamed(page: Page, node: RunningNode) -> None:
    """Enter keeps the new title, Escape does not; a title is text, whatever stands in it."""
    hostile = "<i>sum</i> \u202eabc"
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    for title, key in (("never", "Escape"), (hostile, "Enter")):
        page.get_by_test_id("history-line").hover()
        page.get_by_test_id("history-rename").click()
        page.get_by_test_id("rename-text").fill(title)
        page.get_by_test_id("rename-text").press(key)
        expect(page.get_by_test_id("rename-text")).to_have_count(0)
    expect(page.get_by_test_id("history-open")).to_have_text(hostile)
    page.reload()
    expect(page.get_by_test_id("history-open")).to_have_text(hostile)
    expect(page).to_have_title(f"{hostile} · Blyan")


def test_a_deleted_conversation_comes_back_when_asked(page: Page, node: RunningNode) -> None:
    """Delete takes it from the list and the page at once; Undo brings both back; without it, a reload shows none."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    page.get_by_test_id("history-line").hover()
    page.get_by_test_id("history-delete").click()
    expect(page.get_by_test_id("history-line")).to_have_count(0)
    expect(page.get_by_test_id("message-user")).to_have_count(0)
    page.get_by_test_id("undo").click()
    expect(page.get_by_test_id("history-line")).to_have_count(1)
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    page.get_by_test_id("history-line").hover()
    page.get_by_test_id("history-delete").click()
    expect(page.get_by_test_id("undo")).to_be_visible()
    page.reload()
    expect(page.get_by_test_id("history-none")).to_be_visible()


def test_an_export_comes_back_whole(page: Page, node: RunningNode, tmp_path: Path) -> None:
    """Branches, settings and experts included; what is already there is not doubled."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    page.get_by_test_id("again").click()
    expect(page.get_by_test_id("branches")).to_contain_text("2/2")
    expect(page.get_by_test_id("send")).to_be_visible()
    held = export(page, tmp_path)
    assert (held["format"], held["version"]) == ("blyan/conversations", 1)
    bring(page, tmp_path, held)
    expect(page.get_by_test_id("notice")).to_contain_text("Imported 0 conversations; 1 were here already")
    page.get_by_test_id("history-line").hover()
    page.get_by_test_id("history-delete").click()
    expect(page.get_by_test_id("history-line")).to_have_count(0)
    bring(page, tmp_path, held)
    page.get_by_test_id("history-open").click()
    expect(page.get_by_test_id("branches")).to_contain_text("2/2")
    again = export(page, tmp_path)["conversations"][0]["messages"]
    assert len(again) == 3
    before = {(each["role"], each["text"], str(each.get("experts"))) for each in held["conversations"][0]["messages"]}
    assert {(each["role"], each["text"], str(each.get("experts"))) for each in again} == before
    assert [each["parent"] for each in again].count(None) == 1


def conversation(**changes: Any) -> dict[str, Any]:
    """A good one, changed."""
    question = {"id": "b" * 32, "parent": None, "role": "user", "text": "hi", "time": 1}
    good = {"id": "a" * 32, "title": "t", "created": 1, "updated": 1, "model": None, "system": "", "sampling": {}}
    return good | {"chosen": {}, "messages": [question]} | changes


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "file: expected JSON"),
        ({"format": "other"}, "format: expected blyan/conversations"),
        ({"format": "blyan/conversations", "version": 2}, "version: expected 1, found 2"),
        (conversation(id="../../etc"), "id: expected 32 hexadecimal digits"),
        (conversation(title=5), "title: expected text"),
        (conversation(sampling={"seed": "x"}), "seed: expected a number"),
        (
            conversation(messages=[{"id": "b" * 32, "parent": None, "role": "system"}]),
            "role: expected user or assistant",
        ),
        (conversation(messages=[conversation()["messages"][0] | {"parent": "c" * 32}]), "its place below"),
        (conversation(messages=[conversation()["messages"][0] | {"parent": "b" * 32}]), "its place below"),
    ],
)
def test_a_file_that_is_no_export_changes_nothing(
    page: Page, node: RunningNode, tmp_path: Path, value: Any, said: str
) -> None:
    """What was expected and what was found is said, and nothing is kept."""
    if isinstance(value, dict) and "format" not in value:
        value = {"format": "blyan/conversations", "version": 1, "conversations": [value]}
    open_page(page, node.url)
    bring(page, tmp_path, value)
    expect(page.get_by_test_id("notice")).to_contain_text(said)
    expect(page.get_by_test_id("history-line")).to_have_count(0)


def test_drafts_are_kept_for_each_conversation(page: Page, node: RunningNode) -> None:
    """What was typed and not sent waits where it was typed, after changing the conversation and after a reload."""
    open_page(page, node.url)
    ask(page, "Hello")
    box = page.get_by_test_id("prompt")
    box.fill("about the first")
    page.get_by_test_id("new-chat").click()
    expect(box).to_have_value("")
    box.fill("for a new one")
    page.reload()
    expect(box).to_have_value("for a new one")
    page.get_by_test_id("history-open").click()
    expect(box).to_have_value("about the first")
    page.reload()
    expect(box).to_have_value("about the first")
    expect(page.get_by_test_id("send")).to_be_enabled()
    box.press("Enter")
    expect(page.get_by_test_id("message-user")).to_have_count(2)
    page.reload()
    expect(box).to_have_value("")


def test_two_tabs_lose_nothing_of_each_other(page: Page, node: RunningNode) -> None:
    """Each sees what the other adds; a title given in one and a question asked in the other both stay."""
    open_page(page, node.url)
    ask(page, "What is 23 + 45?")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_test_id("answer-text")).to_contain_text("68")
    other.get_by_test_id("history-line").hover()
    other.get_by_test_id("history-rename").click()
    other.get_by_test_id("rename-text").fill("Sums")
    other.get_by_test_id("rename-text").press("Enter")
    expect(page.get_by_test_id("history-open")).to_have_text("Sums")
    ask(page, "What is 20 + 10?")
    expect(other.get_by_test_id("answer-text")).to_have_count(2)
    expect(other.get_by_test_id("answer-text").last).to_contain_text("30")
    ask(other, "Hello")
    expect(page.get_by_test_id("answer-text")).to_have_count(3)
    page.reload()
    expect(page.get_by_test_id("message-user")).to_have_count(3)
    expect(page.get_by_test_id("history-open")).to_have_text(["Sums"])  # the list comes after the conversation
    other.get_by_test_id("history-line").hover()
    other.get_by_test_id("history-delete").click()
    expect(page.get_by_test_id("message-user")).to_have_count(0)


def test_a_browser_that_keeps_nothing_says_so(page: Page, node: RunningNode, faults: list[str]) -> None:
    """Without a database the page works as before, and says that the history ends with the tab."""
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined });")
    open_page(page, node.url)
    expect(page.get_by_test_id("history-fleeting")).to_be_visible()
    ask(page, "What is 23 + 45?")
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    page.get_by_test_id("new-chat").click()
    page.get_by_test_id("history-open").click()
    expect(page.get_by_test_id("answer-text")).to_contain_text("68")
    assert faults == []
