"""A model's story in a real browser: what its hashed manifest says, its versions, and a key that was rotated."""

import re
from collections.abc import Iterator
from time import monotonic

import pytest
from playwright.sync_api import Page, Route, expect

from blyan.node.quantizing import QuantizationRequest
from checkpoints import save_random_checkpoint
from nodes import command, import_into
from running_node import RunningNode

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with two versions of one model, the second one quantised, whose key was rotated between them."""
    folder = tmp_path_factory.mktemp("story")
    save_random_checkpoint(folder / "hf", seed=0)
    import_into(folder / "data", folder / "hf", "small")
    rotated = command("keys", "rotate", "--yes", data_dir=folder / "data")
    assert rotated.returncode == 0, rotated.stderr
    import_into(folder / "data", folder / "hf", "small", QuantizationRequest.of("int8", now=monotonic))
    running = RunningNode(folder / "data")
    running.start()
    yield running
    running.stop()


def open_story(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_test_id("model-name")).to_have_text("small")
    page.get_by_test_id("story").click()


def test_the_story_is_what_the_hashed_manifest_says(page: Page, faults: list[str], node: RunningNode) -> None:
    """Source, licence, shape, quantisation with its measured loss, and bytes by part; each step of the check holds."""
    open_story(page, node.url)
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "ok")
    manifest = page.request.get(f"{node.url}/v1/models/small").json()["blyan"]["manifest"]
    said = page.request.get(f"{node.url}/blobs/{manifest}").json()
    expect(page.get_by_test_id("story-manifest")).to_have_text(manifest)
    expect(page.get_by_test_id("story-source")).to_have_text(said["source"])
    expect(page.get_by_test_id("story-license")).to_have_text(said["license"] or "none stated")
    expect(page.get_by_test_id("story-layers")).to_have_text("4, 3 of them with experts")
    expect(page.get_by_test_id("story-experts")).to_have_text("7 in a layer, 3 for each token")
    expect(page.get_by_test_id("story-scheme")).to_have_text("int8")
    before, after = (said["quantization"][name] / 1e6 for name in ("loss_before", "loss_after"))
    expect(page.get_by_test_id("story-loss")).to_contain_text(f"{before:.4f} → {after:.4f} nats a token")
    total = sum(part["bytes"] for part in said["parts"].values())  # it has no tokenizer
    unit = 1 << (20 if total >= 1 << 20 else 10)
    expect(page.get_by_test_id("bytes-total")).to_contain_text(
        re.compile(rf"^{re.escape(f'{total / unit:.1f}'.removesuffix('.0'))} ")
    )
    assert set(page.get_by_test_id("step").evaluate_all("steps => steps.map(step => step.dataset.state)")) == {"ok"}
    assert faults == []


def test_versions_stand_with_their_entries_the_newest_first(page: Page, node: RunningNode) -> None:
    """Each with a path to the promised root; the older one was signed by the key of before the rotation."""
    open_story(page, node.url)
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "ok")
    releases = page.get_by_test_id("releases").locator("li")
    expect(releases).to_have_count(2)
    expect(releases.nth(0)).to_contain_text(re.compile(r"v1\.1\.0[\s\S]*current"))
    expect(releases.nth(1)).to_contain_text("v1.0.0")
    found = page.request.get(f"{node.url}/chain/meta/find?model=small").json()["entries"]
    assert len({each["entry"]["author"] for each in found}) == 2
    for item, entry in zip(releases.all(), reversed(found), strict=True):
        expect(item).to_contain_text(f"entry {entry['index']} of the meta chain")
        expect(item).to_contain_text(entry["entry"]["payload"]["id"])


def test_a_rotation_that_is_not_what_the_root_says_fails(page: Page, node: RunningNode) -> None:
    """The page walks from the first key to the present one through the whole meta chain."""

    def change(raw: bytes) -> bytes:
        return raw.replace(b'"type":"rotation"', b'"type":"rotatioN"')

    def serve(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=change(answer.body()))

    page.route(re.compile("/chain/meta/tile/entries/"), serve)
    open_story(page, node.url)
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "bad")
    expect(page.locator('[data-step="key"]')).to_have_attribute("data-state", "bad")


def test_a_manifest_that_is_not_the_one_named_tells_no_story(page: Page, node: RunningNode) -> None:
    """What a tampered manifest says is not shown; the check that failed is named."""
    manifest = page.request.get(f"{node.url}/v1/models/small").json()["blyan"]["manifest"]

    def serve(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.body().replace(b'"layers":4', b'"layers":5'))

    page.route(f"**/blobs/{manifest}", serve)
    open_story(page, node.url)
    verdict = page.get_by_test_id("verdict")
    expect(verdict).to_have_attribute("data-verdict", "bad")
    expect(verdict).to_contain_text("The manifest is the one that is named")
    expect(page.get_by_test_id("story-layers")).to_have_count(0)
    expect(page.get_by_test_id("releases").locator("li")).to_have_count(2)


def test_the_story_is_told_in_korean_too(page: Page, node: RunningNode) -> None:
    page.goto(node.url)
    page.get_by_test_id("lang").click()
    page.get_by_test_id("story").click()
    expect(page.get_by_test_id("verdict")).to_contain_text("매니페스트를 이 브라우저에서 확인했습니다")
    titles = page.locator(".story h3, .story .step-title, .story dt").all_text_contents()
    assert len(titles) > 20
    assert [title for title in titles if not re.search("[가-힣]", title)] == []


def test_a_block_under_a_rotated_key_is_proved_down_to_its_bytes(page: Page, node: RunningNode) -> None:
    """Entries of before and after the rotation lie under one root; the newer version stands upon a larger chain."""
    page.goto(node.url)
    page.locator('[data-testid="cell"][data-part="layer.2.expert.4"]').click()
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "part")
    page.get_by_test_id("bytes").click()
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "ok")
