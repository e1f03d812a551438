"""The map of an answer's experts in a browser: it adds up, needs no colour and no pointer, holds a large model."""

import itertools
import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from running_node import RunningNode

pytestmark = pytest.mark.browser

LAYERS, EXPERTS, EACH = 48, 128, 8
TOKENS = 300


def ask(page: Page, url: str, question: str = "What is 23 + 45?") -> None:
    """Opens the page, asks, and waits for the end of the answer."""
    page.goto(url)
    expect(page.get_by_test_id("cell").first).to_be_attached()
    page.get_by_test_id("prompt").fill(question)
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("remarks")).to_be_visible()


def open_map(page: Page, url: str) -> None:
    ask(page, url)
    page.get_by_test_id("expert-map").click()
    expect(page.get_by_test_id("heat-map")).to_be_visible()


def answer_with(page: Page, triples: list[list[int]], usage: dict[str, int] | None) -> None:
    """Lets the page receive an answer on which these experts worked."""
    finish = {"index": 0, "delta": {"content": "68"}, "finish_reason": "stop"}
    chunks: list[dict[str, Any]] = [{"choices": [finish], "blyan": {"experts": triples}}]
    if usage is not None:
        chunks.append({"choices": [], "usage": usage})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
    )


def numbers(text: str | None) -> list[int]:
    return [int(each.replace(",", "")) for each in re.findall(r"\d[\d,]*", str(text))]


def test_the_map_adds_up_to_tokens_times_layers_times_experts(page: Page, faults: list[str], node: RunningNode) -> None:
    """What the cells hold is what the answer's usage asks for, and the page says so with both numbers."""
    spoken: list[str] = []

    def listen(route: Route) -> None:
        answer = route.fetch()
        spoken.append(answer.text())
        route.fulfill(response=answer)

    page.route("**/v1/chat/completions", listen)
    open_map(page, node.url)
    expect(page.get_by_test_id("sum")).to_have_attribute("data-state", "holds")
    tokens, layers, each = numbers(page.get_by_test_id("sum-words").text_content())
    [usage] = [json.loads(line[6:])["usage"] for line in spoken[0].splitlines() if '"usage":{' in line]
    assert tokens == usage["prompt_tokens"] + usage["completion_tokens"] - 1
    read = "cells => cells.map(cell => Number(cell.dataset.tokens))"
    cells = page.get_by_test_id("heat-cell").evaluate_all(read)
    assert len(cells) == 4 * 8
    assert [sum(cells)] == [tokens * layers * each] == numbers(page.get_by_test_id("sum-found").text_content())
    written = page.get_by_test_id("heat-cell").all_text_contents()
    assert [int(text or 0) for text in written] == cells  # so few that each cell holds its number
    assert faults == []


@pytest.mark.parametrize(
    ("other", "said"),
    [([0, 1, 27], "≠ 223 in the map"), ([1, 2, 28], "The layers do not have the same share")],
    ids=["one call too few", "a layer's share in another"],
)
def test_a_map_that_does_not_add_up_says_so(page: Page, node: RunningNode, other: list[int], said: str) -> None:
    """A missing call is an expert that was left out; nothing is shown as whole then."""
    rest = [[layer, expert, 28] for layer in range(1, 4) for expert in (0, 1)]
    answer_with(page, [[0, 0, 28], other, *rest], {"prompt_tokens": 18, "completion_tokens": 11})
    open_map(page, node.url)
    expect(page.get_by_test_id("sum")).to_have_attribute("data-state", "differs")
    expect(page.get_by_test_id("sum")).to_contain_text(said)


def test_an_answer_without_usage_is_counted_from_its_map(page: Page, node: RunningNode) -> None:
    answer_with(page, [[layer, expert, 5] for layer in range(4) for expert in (3, 6)], None)
    open_map(page, node.url)
    expect(page.get_by_test_id("sum-words")).to_have_text("5 tokens × 4 layers × 2 experts a token")
    expect(page.get_by_test_id("sum")).to_contain_text("taken from the map")


def test_the_table_says_what_the_map_shows(page: Page, node: RunningNode) -> None:
    answer_with(page, [[layer, expert, 2 + expert] for layer in range(4) for expert in (3, 6)], None)
    open_map(page, node.url)
    page.get_by_test_id("table-open").click()
    rows = page.get_by_test_id("heat-table").locator("tbody tr")
    expect(rows).to_have_count(4)
    assert [numbers(row) for row in rows.all_inner_texts()] == [[layer, 13, 2, 6, 8, 3, 5] for layer in range(4)]


def test_the_map_is_walked_with_the_keyboard_and_a_proof_comes_back_to_its_cell(page: Page, node: RunningNode) -> None:
    """One tab stop, arrows move, each cell names itself; Enter opens its proof, Back returns to it, Escape closes."""
    open_map(page, node.url)
    expect(page.locator("#sheet-title")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "End", "ArrowLeft"):
        page.keyboard.press(key)
    cell = page.locator('[data-testid="heat-cell"][data-part="layer.2.expert.6"]')
    expect(cell).to_be_focused()
    expect(cell).to_have_attribute("aria-label", re.compile(r"Layer 2, expert 6: \d+ tokens"))
    expect(page.get_by_test_id("readout")).to_contain_text("Layer 2, expert 6")
    assert page.locator('[data-testid="heat-map"] [tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "part")
    page.get_by_test_id("sheet-back").click()
    expect(cell).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("expert-map")).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_more_tokens_are_told_by_lightness_alone(page: Page, node: RunningNode, theme: str) -> None:
    """Each shade of the ramp is darker (in the dark: lighter) than the one before: it reads without colour vision."""
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    answer_with(page, [[0, expert, tokens] for expert, tokens in enumerate([0, 1, 8, 20, 30, 46, 62, 80])], None)
    open_map(page, node.url)
    rgb = page.locator('[data-testid="heat-cell"][data-row="0"]').evaluate_all(
        "cells => cells.slice(1).map(cell => [...getComputedStyle(cell).backgroundColor.matchAll(/\\d+/g)].map(Number))"
    )
    lightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue, *_ in rgb]
    steps = sorted(set(lightness), reverse=theme == "light")
    assert list(dict.fromkeys(lightness)) == steps
    assert len(steps) >= 5
    assert min(abs(one - other) for one, other in itertools.pairwise(steps)) > 8


def test_every_number_has_a_shade_and_more_is_never_lighter(page: Page, node: RunningNode) -> None:
    """For every busiest expert up to 500 tokens: none is shade 0, the most is the strongest, and shades never fall."""
    page.goto(node.url)
    wrong = page.evaluate("""async () => {
      const { levelOf, scaleOf, LEVELS } = await import("/source/heat.js");
      const wrong = [];
      for (let most = 1; most <= 500; most += 1) {
        const bounds = scaleOf(most);
        const levels = Array.from({ length: most + 1 }, (_, tokens) => levelOf(tokens, bounds));
        const falls = levels.some((level, at) => at > 0 && level < levels[at - 1]);
        if (levels[0] !== 0 || levels[1] < 1 || levels[most] !== LEVELS || falls) wrong.push(most);
      }
      return wrong;
    }""")
    assert wrong == []


def large_model(page: Page) -> None:
    """Lets the page believe that the node's model has 48 layers of 128 experts, and answer with them."""
    payload = "ab" * 32
    blocks = [
        {
            "part": f"layer.{layer}.expert.{expert}",
            "layer": layer,
            "expert": expert,
            "payload": payload,
            "bytes": 9 << 20,
        }
        | {"entry": 1, "state": "verified", "bad_subtiles": [], "file": "blobs/ab"}
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
    ]

    def models(route: Route) -> None:
        found = route.fetch().json()
        found["data"][0]["blyan"] |= {"layers": LAYERS, "experts": EXPERTS, "experts_per_token": EACH}
        route.fulfill(json=found)

    checkpoint = {"chain": "parameter", "size": 9999, "root": payload}
    page.route("**/v1/models", models)
    page.route("**/network/experts?*", lambda route: route.fulfill(json={"blocks": blocks, "checkpoint": checkpoint}))
    triples = [
        [layer, expert, count]
        for layer in range(LAYERS)
        for expert, count in spread(TOKENS * EACH, (layer * 37) % EXPERTS).items()
    ]
    answer_with(page, triples, {"prompt_tokens": TOKENS - 100, "completion_tokens": 101})


def spread(calls: int, busiest: int) -> dict[int, int]:
    """So many calls over experts, one of them busier than the others and half of them idle."""
    weights = {(busiest + 2 * at) % EXPERTS: 1 / (at + 4) for at in range(EXPERTS // 2)}
    shares = {expert: int(calls * weight / sum(weights.values())) for expert, weight in weights.items()}
    shares[busiest] += calls - sum(shares.values())
    return {expert: count for expert, count in shares.items() if count > 0}


@pytest.mark.parametrize("width", [390, 1280])
def test_a_model_of_48_layers_and_128_experts_fits(page: Page, node: RunningNode, width: int) -> None:
    """6,144 cells open within seconds, the page itself never scrolls sideways, and pointing redraws no cell."""
    page.set_viewport_size({"width": width, "height": 844})
    large_model(page)
    ask(page, node.url)
    opened_ms = page.evaluate("""async () => {
      const begun = performance.now();
      document.querySelector('[data-testid="expert-map"]').click();
      while (!document.querySelector('[data-testid="heat-cell"]')) await new Promise(requestAnimationFrame);
      await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
      return performance.now() - begun;
    }""")
    assert opened_ms < 6000  # gross slowness only: cores are shared
    assert page.get_by_test_id("heat-cell").count() == LAYERS * EXPERTS
    expect(page.get_by_test_id("sum")).to_have_attribute("data-state", "holds")
    expect(page.get_by_test_id("sum-found")).to_contain_text(f"{TOKENS * LAYERS * EACH:,}")
    overflow = "element => element.scrollWidth - element.clientWidth"
    assert page.get_by_test_id("sheet-body").evaluate(overflow) <= 0
    assert page.locator("html").evaluate(overflow) <= 0
    least = page.get_by_test_id("heat-cell").first.evaluate("cell => cell.getBoundingClientRect().width")
    assert least >= 7
    page.evaluate("""() => {
      window.changed = 0;
      const map = document.querySelector('[data-testid="heat-map"]');
      const watch = new MutationObserver((found) => { window.changed += found.length; });
      watch.observe(map, { subtree: true, childList: true, attributes: true });
    }""")
    page.get_by_test_id("heat-cell").nth(700).hover()
    expect(page.get_by_test_id("readout")).to_contain_text("Layer 5, expert 60")
    assert page.evaluate("window.changed") == 0
