"""How answers look: marks, code, hostile texts, long ones; and that they come at one drawing a frame."""

import json
import time

import pytest
from playwright.sync_api import Page, expect

from chat_page import answer_with, ask, finished, open_page, say, text_chunks
from running_node import RunningNode

pytestmark = pytest.mark.browser

MARKDOWN = """# Title

A **strong**, *slanted*, ~~struck~~ word, `code <b>`, 5 &lt; 6 and a [link](https://example.org/a?b=1).
Next line.

1. one
2. two
   - [x] done
   - [ ] open

> quoted

| left | right |
|:-----|------:|
| 1    | 2 `x` |

```python
def answer(question: str) -> int:
    return 42  # always
```

---
"""
# Nobody may load, run or leave the page by any of these.
HOSTILE = """<img src=http://elsewhere.test/a.png onerror=alert(1)> <script>window.wasRun = 1</script>

![picture](http://elsewhere.test/b.png) [click](javascript:window.wasRun=1) [data](data:text/html,x)

<div style="position:fixed">
<iframe src="http://elsewhere.test/"></iframe>
</div>

<http://elsewhere.test/c> \u202eright to left\u202c
"""


def test_marks_of_markdown_become_elements(page: Page, node: RunningNode, faults: list[str]) -> None:
    """Headings, marks, lists with boxes, quotes, tables and their alignment, code in its language, lines as written."""
    open_page(page, node.url)
    say(page, MARKDOWN)
    answer = page.get_by_test_id("answer-text")
    for selector, words in {
        "h3.d1": "Title",
        "strong": "strong",
        "em": "slanted",
        "del": "struck",
        "p code": "code <b>",
        "blockquote p": "quoted",
        "th.right": "right",
        "td.right code": "x",
        "pre .hl-keyword >> nth=0": "def",
        "pre .hl-comment": "# always",
        "figcaption bdi": "python",
    }.items():
        expect(answer.locator(selector).first).to_have_text(words)
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer.locator(".box.checked")).to_have_count(1)
    expect(answer.locator("p").first).to_contain_text("5 < 6")
    expect(answer.locator("p br")).to_have_count(1)
    link = answer.locator("p a")
    expect(link).to_have_attribute("href", "https://example.org/a?b=1")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    assert faults == []


def test_copying_code_copies_the_code_alone(page: Page, node: RunningNode) -> None:
    """The button of a code block copies its text without the fence, and says so to a screen reader."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_page(page, node.url)
    say(page, "Take this:\n\n```sh\nls -l | wc\n```\n")
    page.get_by_test_id("code").get_by_test_id("copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "ls -l | wc"


def test_hostile_answers_are_text(page: Page, node: RunningNode, faults: list[str]) -> None:
    """Markup stays letters, images and foreign addresses are never fetched, script addresses are no links."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, node.url)
    say(page, HOSTILE)
    answer = page.get_by_test_id("answer-text")
    expect(answer).to_contain_text("<script>window.wasRun = 1</script>")
    expect(answer).to_contain_text("image: picture")
    assert answer.locator("img, script, iframe, div[style]").count() == 0
    assert page.evaluate("window.wasRun") is None
    hrefs = answer.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert hrefs == ["http://elsewhere.test/b.png", "http://elsewhere.test/c"]
    assert [url for url in asked if not url.startswith(f"{node.url}/")] == []
    assert faults == []


def test_a_hostile_model_name_is_text_that_keeps_to_itself(page: Page, node: RunningNode, faults: list[str]) -> None:
    """Markup in a name is letters; a right-to-left override in it does not turn what stands beside it."""
    models = page.request.get(f"{node.url}/v1/models").json()
    name = '<b onclick="alert(1)">\u202egnorw' + "w" * 300
    models["data"] = [models["data"][0] | {"id": name}, models["data"][0]]
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.goto(node.url)
    shown = page.get_by_test_id("model-name")
    expect(shown).to_have_text(name)
    assert shown.evaluate("each => [each.tagName, each.querySelector('b')]") == ["BDI", None]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_test_id("model-picker").select_option("blyan-genesis")
    expect(shown).to_have_text("blyan-genesis")
    assert [fault for fault in faults if "404" not in fault] == []


def test_a_line_of_a_megabyte_leaves_the_page_usable(page: Page, node: RunningNode) -> None:
    """It is shown whole, and the page answers a key within two seconds."""
    open_page(page, node.url)
    piece = "wide " * 2000
    answer_with(page, *text_chunks(*[piece] * 100))
    page.get_by_test_id("prompt").fill("?")
    page.get_by_test_id("prompt").press("Enter")
    finished(page)
    began = time.monotonic()
    page.get_by_test_id("prompt").press_sequentially("next")
    expect(page.get_by_test_id("prompt")).to_have_value("next")
    assert time.monotonic() - began < 2
    assert len(page.get_by_test_id("answer-text").text_content() or "") == len(piece) * 100


def test_a_megabyte_of_marks_is_drawn_while_it_comes(page: Page, node: RunningNode) -> None:
    """Two thousand pieces of markdown: no drawing takes long, and the result is as if read at once."""
    open_page(page, node.url)
    section = "## Part\n\nSome **words** here.\n\n- a\n- b\n\n```python\nx = 1\n```\n\n" + "Long text. " * 40 + "\n\n"
    text = section * 2000
    pieces = [text[at : at + 500] for at in range(0, len(text), 500)]
    page.evaluate("""() => {
      window.longest = 0;
      new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
      }).observe({ type: "longtask" });
    }""")
    answer_with(page, *text_chunks(*pieces))
    ask(page, "?")
    expect(page.locator(".md h3")).to_have_count(2000, timeout=120_000)  # so much work takes what the machine has left
    expect(page.locator(".md figure")).to_have_count(2000)
    assert page.evaluate("window.longest") < 8000  # on a machine that is busy with other things


def test_many_pieces_in_one_frame_are_drawn_once(page: Page, node: RunningNode) -> None:
    """A thousand pieces that arrive at once change the page a few times, not a thousand."""
    open_page(page, node.url)
    page.evaluate("""() => {
      window.drawings = 0;
      new MutationObserver(() => (window.drawings += 1)).observe(document.getElementById("scroll"), {
        subtree: true, childList: true, characterData: true,
      });
    }""")
    answer_with(page, *text_chunks(*["word "] * 1000))
    ask(page, "?")
    expect(page.get_by_test_id("answer-text")).to_contain_text("word " * 10)
    assert page.evaluate("window.drawings") < 100


@pytest.mark.parametrize("text", [MARKDOWN, "1. a\n\n2. b\n\n3. c\n", "[x]: http://a.b\n\ntext\n\n[x]\n\nmore\n"])
def test_a_text_that_grows_ends_as_one_that_is_read_at_once(page: Page, node: RunningNode, text: str) -> None:
    """However the stream cut it, the blocks are those of the whole text."""
    page.goto(node.url)
    grown, whole = page.evaluate(
        """async (text) => {
          const { MarkdownText } = await import("/source/markdown.js");
          const kinds = ({ groups, tail }) => JSON.stringify([...groups.flat(), ...tail]);
          const grown = new MarkdownText();
          for (let at = 1; at <= text.length; at++) grown.update(text.slice(0, at), false);
          grown.update(text, true);
          const whole = new MarkdownText();
          whole.update(text, true);
          return [kinds(grown), kinds(whole)];
        }""",
        text,
    )
    assert json.loads(grown) == json.loads(whole)


def test_code_of_a_megabyte_stays_code(page: Page, node: RunningNode) -> None:
    """In parts, none of its lines lost, and what comes after the fence is no code."""
    open_page(page, node.url)
    lines = [f"value_{number} = {number}" for number in range(30_000)]
    say(page, "```python\n" + "\n".join(lines) + "\n```\n\n**after**\n")
    expect(page.locator(".md strong")).to_have_text("after")
    shown = page.locator(".md pre").all_text_contents()
    assert "".join(shown).split() == "\n".join(lines).split()


def test_marks_nested_without_end_are_shown_as_they_came(page: Page, node: RunningNode, faults: list[str]) -> None:
    """Quotes in quotes deeper than any stack are plain text."""
    open_page(page, node.url)
    say(page, "> " * 8000 + "deep")
    expect(page.get_by_test_id("answer-text")).to_contain_text("> > > >")
    assert faults == []


@pytest.mark.parametrize(("columns", "rows"), [(2_000, 2_000), (50_000, 1)])
def test_a_table_of_too_many_cells_is_text(page: Page, node: RunningNode, columns: int, rows: int) -> None:
    """Rows are filled up to the columns of the first, so that twelve kilobytes could make four million cells."""
    open_page(page, node.url)
    say(page, "|a" * columns + "\n" + "|-" * columns + "\n" + "|\n" * rows)
    expect(page.get_by_test_id("answer-text").last).to_contain_text("|a|a")
    expect(page.locator("table")).to_have_count(0)
    say(page, "|a|b\n|-|-\n" + "|1|2\n" * 1_000)
    expect(page.locator("table tr")).to_have_count(1_001)


def test_the_view_follows_until_it_is_scrolled_up(page: Page, node: RunningNode) -> None:
    """At its end the view stays there; scrolled up it stays where it is, with a button that leads back."""
    open_page(page, node.url)
    say(page, "line\n\n" * 200)
    scroll = page.get_by_test_id("scroll")
    distance = "each => each.scrollHeight - each.scrollTop - each.clientHeight"
    assert scroll.evaluate(distance) < 2
    scroll.hover()
    page.mouse.wheel(0, -600)
    expect(page.get_by_test_id("jump")).to_be_visible()
    assert scroll.evaluate(distance) > 300
    page.get_by_test_id("jump").click()
    expect(page.get_by_test_id("jump")).to_have_count(0)
    assert scroll.evaluate(distance) < 2


def test_an_answer_that_came_in_one_piece_has_no_rate(page: Page, node: RunningNode) -> None:
    """Its tokens were not timed, only how fast the page read them: 70,000 a second, if it were believed."""
    page.goto(node.url)
    rates = page.evaluate("""async () => {
      const { Turn } = await import("/source/turn.js");
      return [0.1, 100].map((between) => {
        const turn = new Turn({ id: "a", conversation: "c", parent: "", time: 0, model: null });
        for (let at = 0; at < 5; at += 1) turn.absorb({ choices: [{ delta: { content: "x" } }] }, 1000 + at * between);
        turn.absorb({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 5 } }, 2000);
        return turn.rate;
      });
    }""")
    assert rates == [None, 10]
