"""A block's proof, checked by the page in a real browser against a real node; and what is said of one tampered with."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nacl.signing import SigningKey
from playwright.sync_api import Browser, Page, Route, expect

from blyan.primitives import canonical
from blyan.primitives.keys import Key
from running_node import RunningNode

pytestmark = pytest.mark.browser

SUBTILE_BYTES = 256 * 1024
CHECKED = ["joint", "key", "version", "version_path", "manifest"]
CHECKED += ["part", "entry", "entry_signature", "path", "built", "note"]
PROOF = re.compile(r"/chain/parameter/proof\?")
OTHER_SEED = bytes(range(32, 64))


def open_proof(page: Page, url: str, layer: int = 1, expert: int = 2) -> None:
    """Opens the page and the proof of one expert's block."""
    page.goto(url)
    page.locator(f'[data-testid="cell"][data-layer="{layer}"][data-expert="{expert}"]').click()


@pytest.fixture(scope="module")
def opened(browser: Browser, node: RunningNode) -> Iterator[Page]:
    """A page with a block's proof open, which holds; `check_again` begins it anew."""
    context = browser.new_context(locale="en-US")
    page = context.new_page()
    open_proof(page, node.url)
    yield page
    context.close()


@pytest.fixture
def proof(opened: Page) -> Iterator[Page]:
    """The open proof, with nothing tampered yet."""
    yield opened
    opened.unroute_all()


def check_again(page: Page) -> dict[str, str]:
    """Begins the proof anew and returns the state of each check in the end."""
    page.get_by_test_id("again").click()
    expect(page.get_by_test_id("bytes")).to_be_enabled()
    return steps(page)


def expect_verdict(page: Page, verdict: str) -> None:
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", verdict)


def steps(page: Page) -> dict[str, str]:
    """The state of each check by its id, in order."""
    read = "steps => steps.map(step => [step.dataset.step, step.dataset.state])"
    return dict(page.get_by_test_id("step").evaluate_all(read))


def replace_answer(page: Page, url: re.Pattern[str], change: Callable[[bytes], bytes]) -> None:
    """Lets the page receive what `change` makes of the node's answer."""

    def serve(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=change(answer.body()))

    page.route(url, serve)


def flipped(text: str) -> str:
    """The hex digits with their first one changed."""
    return ("0" if text[0] != "0" else "1") + text[1:]


def in_json(*place: str | int) -> Callable[[bytes], bytes]:
    """Flips the first digit of the text at that place of an answer, and leaves every other byte as it is."""

    def change(raw: bytes) -> bytes:
        value: Any = json.loads(raw)
        for name in place:
            value = value[name]
        return raw.replace(value.encode(), flipped(value).encode())

    return change


def byte_at(position: int) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        return raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]

    return change


def test_a_block_is_proved_and_on_demand_down_to_its_bytes(page: Page, faults: list[str], node: RunningNode) -> None:
    """Every check holds, the payload's bytes come only when asked for, and the facts are those of the block."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(node.url)
    report = page.request.get(f"{node.url}/network/experts?model=blyan-genesis").json()
    [block] = [each for each in report["blocks"] if each["part"] == "layer.1.expert.2"]
    open_proof(page, node.url)
    expect_verdict(page, "part")
    assert steps(page) == dict.fromkeys(CHECKED, "ok") | {"index": "todo", "bytes": "todo"}
    expect(page.get_by_test_id("proof-payload")).to_have_text(block["payload"])
    expect(page.get_by_test_id("proof-size")).to_contain_text(f"{block['bytes']:,} B")
    expect(page.get_by_test_id("proof-entry")).to_contain_text(f"number {block['entry']} of")
    expect(page.get_by_test_id("proof-root")).to_have_text(report["checkpoint"]["root"])
    assert not any(block["payload"] in url for url in asked)
    page.get_by_test_id("bytes").click()
    expect_verdict(page, "ok")
    assert set(steps(page).values()) == {"ok"}
    assert any(url.endswith(f"/blobs/{block['payload']}") for url in asked)
    assert faults == []


@pytest.mark.parametrize(
    ("answer", "change", "failing"),
    [
        (r"/chain/joint", in_json("heads", "parameter", "root"), "joint"),
        (r"/chain/joint", in_json("sig"), "joint"),
        (r"/chain/joint", lambda raw: raw.replace(b'"epoch":0', b'"epoch": 0'), "joint"),
        (r"/chain/meta/proof\?index=0", in_json("entry", "sig"), "key"),
        (r"/chain/meta/proof\?index=1", in_json("entry", "payload", "id"), "version"),
        (r"/chain/meta/proof\?index=1", in_json("entry", "sig"), "version"),
        (r"/chain/meta/proof\?index=1", in_json("path", 0), "version_path"),
        (r"/chain/parameter/proof", in_json("entry", "payload", "id"), "entry"),
        (r"/chain/parameter/proof", lambda raw: raw.replace(b'"layer":1', b'"layer":2'), "entry"),
        (r"/chain/parameter/proof", in_json("entry", "sig"), "entry_signature"),
        (r"/chain/parameter/proof", lambda raw: re.sub(rb'"time":(\d+)', rb'"time":1', raw), "entry_signature"),
        (r"/chain/parameter/proof", in_json("path", 2), "path"),
        (r"/chain/parameter/proof", lambda raw: raw.replace(b"parameter\\n39\\n", b"parameter\\n38\\n"), "note"),
    ],
)
def test_what_was_tampered_with_is_named(
    proof: Page, answer: str, change: Callable[[bytes], bytes], failing: str
) -> None:
    """One changed byte fails the proof; the verdict names the first check that does not hold, with both values."""
    replace_answer(proof, re.compile(answer), change)
    states = check_again(proof)
    expect_verdict(proof, "bad")
    assert next(name for name, state in states.items() if state == "bad") == failing
    before = CHECKED[: CHECKED.index(failing)]
    assert {name: states[name] for name in before} == dict.fromkeys(before, "ok")
    step = proof.locator(f'[data-step="{failing}"]')
    expect(proof.get_by_test_id("verdict")).to_contain_text(
        str(step.locator(".step-title").text_content()).split(":")[0]
    )
    expect(step.get_by_test_id("found")).to_be_visible()


def test_a_damaged_manifest_fails_and_what_rests_on_it_is_not_called_good(proof: Page, node: RunningNode) -> None:
    manifest = proof.request.get(f"{node.url}/v1/models").json()["data"][0]["blyan"]["manifest"]
    replace_answer(proof, re.compile(f"/blobs/{manifest}$"), byte_at(99))
    states = check_again(proof)
    expect_verdict(proof, "bad")
    assert states["manifest"] == "bad"
    assert states["part"] == "blocked"
    assert states["path"] == "ok"


def test_a_block_that_the_manifest_does_not_list_fails(page: Page, node: RunningNode) -> None:
    """The list of blocks is the node's word; the manifest is what the chain names."""

    def change(raw: bytes) -> bytes:
        report = json.loads(raw)
        one, other = (each for each in report["blocks"] if each["part"] in ("layer.1.expert.2", "layer.1.expert.3"))
        one["payload"], one["entry"] = other["payload"], other["entry"]
        return json.dumps(report).encode()

    replace_answer(page, re.compile("/network/experts"), change)
    open_proof(page, node.url)
    expect_verdict(page, "bad")
    expect(page.get_by_test_id("bytes")).to_be_enabled()
    assert [name for name, state in steps(page).items() if state == "bad"] == ["part", "entry"]


def test_a_promise_by_another_key_fails(proof: Page) -> None:
    """A joint checkpoint and a note that a stranger signed well are a stranger's."""
    stranger = Key.from_seed(OTHER_SEED)

    def sign(raw: bytes) -> bytes:
        value = json.loads(raw) | {"author": stranger.public}
        del value["sig"]
        return canonical.encode(value | {"sig": stranger.sign("joint", canonical.encode(value)).hex()})

    replace_answer(proof, re.compile("/chain/joint"), sign)
    states = check_again(proof)
    assert states["joint"] == "ok"
    assert states["key"] == "bad"
    expect(proof.locator('[data-step="key"]').get_by_test_id("expected")).to_have_text(stranger.public)


def test_a_note_signed_by_another_is_not_the_chains(proof: Page) -> None:
    def sign(raw: bytes) -> bytes:
        value = json.loads(raw)
        text, _, line = value["checkpoint"].partition("\n\n")
        blob = base64.b64decode(line.split()[-1])
        forged = blob[:4] + SigningKey(OTHER_SEED).sign(f"{text}\n".encode()).signature
        return raw.replace(base64.b64encode(blob), base64.b64encode(forged))

    replace_answer(proof, PROOF, sign)
    assert [name for name, state in check_again(proof).items() if state == "bad"] == ["note"]


def test_a_flipped_byte_of_the_block_is_found_and_its_subtile_named(proof: Page) -> None:
    check_again(proof)
    payload = str(proof.get_by_test_id("proof-payload").text_content())
    replace_answer(proof, re.compile(f"/blobs/{payload}$"), byte_at(2 * SUBTILE_BYTES + 5))
    proof.get_by_test_id("bytes").click()
    expect_verdict(proof, "bad")
    assert steps(proof)["index"] == "ok"
    step = proof.locator('[data-step="bytes"]')
    expect(step.get_by_test_id("expected")).to_have_text(payload)
    expect(step.get_by_test_id("found")).to_have_text(re.compile(r"[0-9a-f]{64} \(subtile 2\)"))
    expect(proof.get_by_test_id("verdict")).to_contain_text("Every byte is the block's")


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda raw: raw + b"\0", "at most"), (lambda raw: raw[:-1], ""), (lambda _: b"", "nothing that fits")],
    ids=["longer", "shorter", "empty"],
)
def test_a_block_of_another_length_is_refused(proof: Page, change: Callable[[bytes], bytes], said: str) -> None:
    check_again(proof)
    payload = proof.get_by_test_id("proof-payload").text_content()
    replace_answer(proof, re.compile(f"/blobs/{payload}$"), change)
    proof.get_by_test_id("bytes").click()
    expect_verdict(proof, "bad")
    expect(proof.locator('[data-step="bytes"]').get_by_test_id("found")).to_contain_text(said)


def test_a_tampered_tile_index_is_refused(proof: Page) -> None:
    check_again(proof)
    replace_answer(proof, re.compile("/blobs/.*/index"), byte_at(40))
    proof.get_by_test_id("bytes").click()
    expect_verdict(proof, "bad")
    assert steps(proof)["index"] == "bad"


@pytest.mark.parametrize(
    ("taken", "open_steps"),
    [
        (
            "SubtleCrypto.prototype.importKey = () => Promise.reject(new DOMException('', 'NotSupportedError'));",
            {"joint", "key", "version", "entry_signature", "note"},
        ),
        ("Object.defineProperty(Crypto.prototype, 'subtle', { value: undefined });", {"joint", "key"}),
    ],
    ids=["no Ed25519", "no WebCrypto"],
)
def test_what_the_browser_cannot_check_is_never_called_good(
    page: Page, node: RunningNode, taken: str, open_steps: set[str]
) -> None:
    """Without Ed25519, or without WebCrypto at all, the page says which checks were left out and why."""
    page.add_init_script(taken)
    open_proof(page, node.url)
    expect_verdict(page, "open")
    expect(page.get_by_test_id("bytes")).to_be_enabled()
    states = steps(page)
    assert {name for name, state in states.items() if state == "open"} >= open_steps
    assert "bad" not in states.values()
    expect(page.locator('[data-step="joint"]')).to_contain_text("This browser has no")


def test_a_node_that_is_gone_is_no_damage(proof: Page) -> None:
    """What could not be fetched is not checked, which the verdict says; checking again then succeeds."""
    proof.route(PROOF, lambda route: route.abort())
    assert check_again(proof)["entry"] == "open"
    expect_verdict(proof, "open")
    proof.unroute(PROOF)
    proof.get_by_test_id("again").click()
    expect_verdict(proof, "part")


def test_a_download_can_be_stopped(proof: Page) -> None:
    check_again(proof)
    payload = proof.get_by_test_id("proof-payload").text_content()
    proof.route(re.compile(f"/blobs/{payload}$"), lambda _: None)  # never answered
    proof.get_by_test_id("bytes").click()
    proof.get_by_test_id("bytes-stop").click()
    expect_verdict(proof, "open")
    expect(proof.locator('[data-step="bytes"]')).to_contain_text("stopped")
    expect(proof.get_by_test_id("bytes")).to_be_enabled()


def test_a_trunk_block_is_proved_too_and_all_of_it_in_korean(page: Page, node: RunningNode) -> None:
    page.goto(node.url)
    page.get_by_test_id("lang").click()
    for part in ("embed", "layer.0", "tokenizer"):
        page.locator(f'[data-testid="trunk-cell"][data-part="{part}"]').click()
        expect_verdict(page, "part")
        expect(page.get_by_test_id("verdict")).to_contain_text("체인이 바로 이 블록을 가리킵니다")
        words = page.locator(".step-title, .step .quiet-text").all_text_contents()
        assert [line for line in words if not re.search("[가-힣]", line)] == []
        page.keyboard.press("Escape")
        expect(page.get_by_test_id("verdict")).to_have_count(0)
