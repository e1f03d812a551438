"""The map by node in a browser: who holds each expert, not by colour alone, with the keyboard, in both languages."""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from running_node import RunningNode
from swarm_nodes import Swarm, SwarmNode, part_of_builtin, room_for, wait_for

pytestmark = pytest.mark.browser

HERE, OTHER, THIRD = "A", "B", "C"  # letters: this node, and the two others in the order of the report


def network(node: RunningNode) -> Any:
    with urllib.request.urlopen(f"{node.url}/network/nodes", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Experts 0 to 2 here; 2 to 5 on one node; 6 on another, which dies; 7 nowhere."""
    base = tmp_path_factory.mktemp("swarm")
    part_of_builtin(base / "gateway", lambda _, expert: expert < 3, trunk=True)
    others: list[SwarmNode] = []
    for name, held in (("some", range(2, 6)), ("one", range(6, 7))):
        manifest = part_of_builtin(base / name, lambda _, expert, held=held: expert in held, trunk=False)
        others.append(SwarmNode(base / name, memory=room_for(base / name, manifest)))
    with Swarm(SwarmNode(base / "gateway"), others, direct=True) as made:
        yield made


def open_nodes(page: Page, url: str, title: str = "Nodes") -> None:
    page.goto(url)
    page.get_by_test_id("panel-nodes").click()
    expect(page.get_by_test_id("panel-nodes")).to_have_text(title)
    expect(page.get_by_test_id("nodes-grid")).to_be_visible()


def test_each_cell_says_who_holds_its_expert_and_the_legend_who_that_is(
    page: Page, faults: list[str], swarm: Swarm
) -> None:
    """A letter for one node, a number for several, a stroke for nobody; nothing is called corrupt."""
    open_nodes(page, swarm.gateway.url)
    signs = page.get_by_test_id("holder").all_inner_texts()
    rows = [signs[at : at + 8] for at in range(0, 32, 8)]
    some, one = {row[3] for row in rows}, {row[6] for row in rows}
    assert some | one == {OTHER, THIRD}
    assert all(row == [HERE, HERE, "2", *some, *some, *some, *one, "–"] for row in rows)
    legend = page.get_by_test_id("nodes-legend")
    keys = {swarm.experts[0].key[:12]: 16, swarm.experts[1].key[:12]: 4}
    for key, count in keys.items():
        expect(legend).to_contain_text(f"{key} · {count} experts")
    expect(page.get_by_test_id("nodes-nobody")).to_contain_text("4 experts are on no node")
    page.get_by_test_id("panel-experts").click()
    expect(page.get_by_test_id("cell")).to_have_count(32)
    states = page.get_by_test_id("cell").evaluate_all("cells => cells.map(cell => cell.dataset.state)")
    assert set(states) == {"verified", "elsewhere"} or set(states) == {"verified", "unverified", "elsewhere"}
    assert states.count("elsewhere") == 4 * 5
    expect(page.get_by_text("Not here, on another node")).to_be_visible()
    assert faults == []


def test_the_plan_is_said_with_its_speed_and_what_is_advised(page: Page, faults: list[str], swarm: Swarm) -> None:
    """In both languages; by what the node answers to the page, which here is filled in: its experts lack one."""
    said: dict[str, Any] = {}

    def fill(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | said)

    def shown(change: dict[str, Any], text: str, title: str = "Nodes") -> None:
        said.update(change)
        open_nodes(page, swarm.gateway.url, title)
        expect(page.get_by_test_id("nodes-plan")).to_have_text(text)

    page.route("**/network/plan?*", fill)
    open_nodes(page, swarm.gateway.url)
    expect(page.get_by_test_id("nodes-plan")).to_have_count(0)
    unknown = {"plan": "local", "tokens_per_s": None, "first_token_s": None}
    shown({"chosen": "local", "predictions": [unknown]}, "This node answers by itself: speed not measured yet.")
    local = {"plan": "local", "tokens_per_s": 102.4, "first_token_s": 0.0712}
    rate = "This node answers by itself: 100 tokens/s, the first after 0.071 s."
    shown({"predictions": [local]}, rate)
    advice = {"en": "This node alone is 3.7 times as fast as with others.", "ko": "이 노드 혼자가 3.7배 빠릅니다."}
    alone = {"advice": advice, "error": {"tokens_per_s": 0.1234}}
    shown(alone, f"{rate.replace('/s,', '/s (±12%),')} {advice['en']}")
    page.evaluate("localStorage.setItem('blyan.lang', 'ko')")
    korean = "이 노드가 혼자 답합니다: 초당 토큰 100개 (±12%), 첫 토큰까지 0.071초."
    shown({}, f"{korean} {advice['ko']}", "노드")
    page.evaluate("localStorage.setItem('blyan.lang', 'en')")
    shown({"advice": None}, rate.replace("/s,", "/s (±12%),"))
    assert faults == []


def test_the_tabs_change_the_map_and_back(page: Page, swarm: Swarm) -> None:
    """Every cell of the other map is drawn again."""
    open_nodes(page, swarm.gateway.url)
    page.get_by_test_id("panel-experts").click()
    expect(page.get_by_test_id("cell")).to_have_count(32)
    labels = page.get_by_test_id("cell").evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")
    assert (len(labels), None in labels) == (32, False)
    page.get_by_test_id("panel-nodes").click()
    expect(page.get_by_test_id("holder")).to_have_count(32)


def test_the_map_by_node_is_walked_with_the_keyboard(page: Page, swarm: Swarm) -> None:
    """One tab stop, arrows move, each cell names itself and its nodes; Enter opens the proof."""
    open_nodes(page, swarm.gateway.url)
    page.get_by_test_id("panel-nodes").press("Tab")
    for key in ("ArrowDown", "End", "ArrowLeft"):
        page.keyboard.press(key)
    cell = page.locator('[data-testid="holder"][data-part="layer.1.expert.6"]')
    expect(cell).to_be_focused()
    expect(cell).to_have_attribute(
        "aria-label", re.compile(rf"layer 1.*expert 6.*{swarm.experts[1].key[:12]}", re.IGNORECASE)
    )
    expect(page.get_by_test_id("node-inspector")).to_contain_text(swarm.experts[1].key[:12])
    assert page.locator('[data-testid="nodes-grid"] [tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "part")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_by_node_shuts_nobody_out(browser: Browser, swarm: Swarm, scheme: Any) -> None:
    """By axe-core's rules, contrast among them, in Korean."""
    context = browser.new_context(locale="ko-KR", color_scheme=scheme, service_workers="block")
    page = context.new_page()
    open_nodes(page, swarm.gateway.url, "노드")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
    assert found.response["violations"] == [], found.generate_report()
    expect(page.get_by_test_id("nodes-lead")).to_contain_text("전문가 32개 중 12개가 여기에 있습니다")
    context.close()


def test_a_node_alone_has_no_tab_for_nodes(page: Page, node: RunningNode) -> None:
    page.goto(node.url)
    expect(page.get_by_test_id("cell").first).to_be_attached()
    assert page.get_by_test_id("panel-nodes").count() == 0
    assert page.evaluate("performance.getEntriesByType('resource').some(each => each.name.includes('nodes.'))") is False


def test_experts_of_a_node_that_died_are_with_nobody(page: Page, swarm: Swarm) -> None:
    """The last here: its node does not come back."""
    swarm.experts[1].kill()
    wait_for(lambda: network(swarm.gateway)["linked"] == 1, "one link fewer", 30)
    open_nodes(page, swarm.gateway.url)
    expect(page.get_by_test_id("nodes-nobody")).to_contain_text("8 experts are on no node")
    expect(page.get_by_test_id("nodes-legend")).to_contain_text(
        f"{swarm.experts[1].key[:12]} · 4 experts · not reachable"
    )
