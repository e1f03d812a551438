"""Answers that cost something, on the page: the price before, during and after, the statement, and receipts that the
page checks by its own code. Against a real node that charges, with a wallet that signs with a real key."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from browser.conftest import EXPECT_LIMIT_MS, REPORT_VIOLATIONS
from browser.test_page_access import assert_accessible
from charging_node import COMPLETION_PRICE, PROMPT_PRICE, blyan, charging_node
from chat_page import SLOW_ANSWERS, ask, finished, open_page
from page_wallet import give_wallets, sign_in
from running_node import RunningNode
from wallets import new_key

pytestmark = pytest.mark.browser

QUESTION = "What is 23 + 45?"
CHECKED = ["file", "signature", "shown", "cost", "record", "amount", "inclusion", "checkpoint", "writer", "promise"]
CHECKED += ["gateway", "model", "price", "origin", "request", "output"]
RECEIPT = re.compile(r"/receipts/")


@pytest.fixture(scope="module")
def charging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that charges, and gives every newcomer one dollar."""
    running = charging_node(tmp_path_factory.mktemp("charging") / "node")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(locale="en-US", color_scheme="light", service_workers="block")
    made.set_default_timeout(EXPECT_LIMIT_MS)
    made.add_init_script(REPORT_VIOLATIONS)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def enter(context: BrowserContext, page: Page, node: RunningNode, seed: int) -> None:
    """Opens the page and signs in with the key of that number."""
    give_wallets(context, "Alpha", keys=(new_key(seed),))
    open_page(page, node.url)
    sign_in(page)


def cost_of(prompt: int, completion: int) -> Decimal:
    """Multiplied first, rounded once, up to the asset's eighth digit."""
    exact = prompt * PROMPT_PRICE + completion * COMPLETION_PRICE
    return (exact / 1_000_000).quantize(Decimal("1e-8"), rounding="ROUND_CEILING")


def pretend(page: Page, **changes: object) -> None:
    """Lets the account be another than the node says."""
    funds = page.evaluate("fetch('/account').then(answer => answer.json())")
    page.route("**/account", lambda route: route.fulfill(json={**funds, **changes}))


def shown(locator: Locator, name: str = "data-amount") -> Decimal:
    return Decimal(locator.get_attribute(name) or "nothing")


def final_cost(page: Page) -> Decimal:
    """Of the last answer."""
    cost = page.get_by_test_id("cost").last
    expect(cost).to_have_attribute("data-final", "true")
    return shown(cost)


def open_receipt(page: Page) -> dict[str, str]:
    """Opens the last answer's receipt; the state of each check when all are made."""
    page.get_by_test_id("receipt").last.click()
    return checks(page)


def checks(page: Page) -> dict[str, str]:
    expect(page.get_by_test_id("verdict")).not_to_have_attribute("data-verdict", "run")
    read = "steps => steps.map(step => [step.dataset.step, step.dataset.state])"
    return dict(page.get_by_test_id("step").evaluate_all(read))


def saved(page: Page, what: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_test_id(f"save-{what}").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_sign_in_chat_see_the_cost_keep_the_receipt_verify_it(
    context: BrowserContext, page: Page, faults: list[str], charging: RunningNode, tmp_path: Path
) -> None:
    """The whole journey: what the page says before, during and after an answer is what the books say, and what was kept
    is verified by the page and without it."""
    context.add_init_script(SLOW_ANSWERS)
    enter(context, page, charging, 11)
    expect(page.get_by_test_id("account")).to_have_text("$1.00")
    page.get_by_test_id("prompt").fill(QUESTION)
    line = page.get_by_test_id("cost-line")
    expect(line).to_contain_text("At most $")
    most = Decimal((re.search(r"At most \$([\d.]+)", line.inner_text()) or ["", "0"])[1])
    expect(line).to_contain_text("$50.00 in, $150.00 out")

    page.get_by_test_id("prompt").press("Enter")
    running = page.locator('[data-testid="cost"][data-final="false"]')
    expect(running).to_contain_text("so far")
    first = shown(running)
    page.evaluate("window.eventMs = 0")
    finished(page)
    cost = final_cost(page)
    assert 0 < first <= cost <= most

    assert open_receipt(page) == dict.fromkeys(CHECKED, "ok")
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "ok")
    file = saved(page, "file", tmp_path)
    receipt = json.loads(file.read_text())["receipt"]
    assert cost_of(receipt["prompt_tokens"], receipt["completion_tokens"]) == cost
    assert receipt["account"] == f"user:{new_key(11).address.lower()}"
    request, output = saved(page, "request", tmp_path), saved(page, "output", tmp_path)
    salt = page.get_by_test_id("receipt-salt").inner_text().strip()
    given = ("--request", str(request), "--output", str(output), "--salt", salt)
    verified = blyan(tmp_path / "elsewhere", "receipt", "verify", str(file), *given)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert_accessible(page)
    page.keyboard.press("Escape")

    page.get_by_test_id("account").click()
    expect(page.get_by_test_id("balance")).to_have_attribute("data-amount", str((1 - cost).normalize()))
    expect(page.get_by_test_id("held")).to_have_attribute("data-amount", "0")
    expect(page.get_by_test_id("statement-line")).to_have_count(3)
    kinds = page.get_by_test_id("statement-line").evaluate_all("lines => lines.map(line => line.dataset.kind)")
    assert kinds == ["settle", "hold", "post"]
    assert_accessible(page)
    with page.expect_download() as download:
        page.get_by_test_id("csv").click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 4
    assert f"receipt {receipt['id']}" in rows[1]
    assert faults == []


def test_a_receipt_is_kept_with_its_answer(context: BrowserContext, page: Page, charging: RunningNode) -> None:
    """After a reload it is checked again, without being fetched again."""
    enter(context, page, charging, 12)
    ask(page, QUESTION)
    cost = final_cost(page)
    assert open_receipt(page) == dict.fromkeys(CHECKED, "ok")
    page.reload()
    page.route(RECEIPT, lambda route: route.abort())
    assert final_cost(page) == cost
    assert open_receipt(page) == dict.fromkeys(CHECKED, "ok")


def flip(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def in_receipt(*place: str | int) -> Callable[[Any], Any]:
    """Flips the last digit of the text at that place."""

    def change(value: Any) -> Any:
        holder = value
        for name in place[:-1]:
            holder = holder[name]
        holder[place[-1]] = flip(holder[place[-1]])
        return value

    return change


def other_record(value: Any) -> Any:
    value["proof"]["record"] = value["proof"]["record"].replace('"kind":"settle"', '"kind":"post"')
    return value


@pytest.fixture(scope="module")
def answered(browser: Browser, charging: RunningNode) -> Iterator[Page]:
    """A page with one answer whose receipt is sealed but not fetched yet."""
    context = browser.new_context(locale="en-US", service_workers="block")
    context.set_default_timeout(EXPECT_LIMIT_MS)
    page = context.new_page()
    enter(context, page, charging, 13)
    ask(page, QUESTION)
    final_cost(page)
    yield page
    context.close()


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (in_receipt("signature"), "signature"),
        (in_receipt("receipt", "output"), "signature"),
        (in_receipt("receipt", "charged"), "signature"),
        (in_receipt("receipt", "price", "completion_per_million"), "signature"),
        (in_receipt("proof", "root"), "inclusion"),
        (in_receipt("proof", "path", 0), "inclusion"),
        (other_record, "record"),
        (in_receipt("checkpoint", "joint", "ledger_root", "root"), "checkpoint"),
        (in_receipt("checkpoint", "joint", "sig"), "checkpoint"),
        (in_receipt("checkpoint", "meta", 0, "path", 0), "writer"),
        (in_receipt("checkpoint", "meta", 0, "entry", "sig"), "writer"),
        (lambda value: {**value, "more": 1}, "file"),
    ],
)
def test_what_was_changed_in_a_receipt_is_named(answered: Page, change: Callable[[Any], Any], failing: str) -> None:
    """By the first check that does not hold."""
    page = answered
    page.unroute_all()
    page.evaluate(FORGET)
    page.reload()

    def serve(route: Route) -> None:
        answer = route.fetch()
        if answer.status == 200:
            text = json.dumps(change(answer.json()), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
            route.fulfill(status=200, content_type="application/json", body=text)
        else:
            route.fulfill(response=answer)

    page.route(RECEIPT, serve)
    states = open_receipt(page)
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "bad")
    assert next(name for name, state in states.items() if state == "bad") == failing


# A receipt is kept with its answer once it was fetched: the next test fetches it again.
FORGET = """new Promise((resolve) => {
  indexedDB.databases().then(([{ name }]) => {
    indexedDB.open(name).onsuccess = ({ target: { result: base } }) => {
      const deed = base.transaction("messages", "readwrite");
      deed.objectStore("messages").openCursor().onsuccess = ({ target: { result: cursor } }) => {
        if (cursor === null) return;
        for (const receipt of cursor.value.bill?.receipts ?? []) delete receipt.file;
        cursor.update(cursor.value);
        cursor.continue();
      };
      deed.oncomplete = () => resolve(true);
    };
  });
})"""


def test_a_stopped_answer_says_about_what_it_cost(context: BrowserContext, page: Page, charging: RunningNode) -> None:
    """Its last chunk never came; what the books charged is what the page had counted, or nearly."""
    context.add_init_script(SLOW_ANSWERS)
    enter(context, page, charging, 14)
    page.get_by_test_id("prompt").fill("Who are you?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.locator('[data-testid="cost"][data-final="false"]')).to_be_visible()
    page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("cost")).to_contain_text("about $")
    expect(page.get_by_test_id("receipt")).to_have_count(0)


def test_an_answer_that_a_fault_ended_says_what_it_cost(
    context: BrowserContext, page: Page, charging: RunningNode
) -> None:
    """What was sent until then is charged, and there is a receipt of it."""
    enter(context, page, charging, 21)
    piece = {"choices": [{"delta": {"content": "a part"}, "token_ids": [5, 6], "finish_reason": None}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    usage |= {"cost": {"amount": "0.00000021", "asset": "USD"}, "receipt": {"id": "ab" * 16, "salt": "cd" * 16}}
    end = {"error": {"code": "unavailable", "message": "gone"}, "usage": usage}
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in (piece, end))
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
    )
    page.get_by_test_id("prompt").fill("and then?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("error")).to_be_visible()
    expect(page.get_by_test_id("answer-text")).to_contain_text("a part")
    assert final_cost(page) == Decimal("0.00000021")
    expect(page.get_by_test_id("receipt")).to_be_visible()


def test_without_enough_the_page_says_so_before_and_after(
    context: BrowserContext, page: Page, charging: RunningNode
) -> None:
    """Before the question is sent, and with the next step when it was refused."""
    enter(context, page, charging, 15)
    pretend(page, balance="0.00000001", available="0.00000001")
    page.reload()
    page.get_by_test_id("prompt").fill(QUESTION)
    expect(page.get_by_test_id("cost-line")).to_contain_text("lower the limit of tokens")
    refusal = {"code": "insufficient_funds", "message": "balance: expected 1, found 0", "hint": "top up"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=402, json={"error": refusal}))
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("error")).to_contain_text("does not cover this question")
    assert_accessible(page)
    page.get_by_test_id("error").get_by_test_id("account").click()
    expect(page.get_by_test_id("account-sheet")).to_be_visible()


def test_the_statement_goes_back_page_by_page(context: BrowserContext, page: Page, charging: RunningNode) -> None:
    """To the first line, each line once; a receipt hangs on each charge, whoever asked."""
    enter(context, page, charging, 17)
    body = {"model": "blyan-genesis", "prompt": "1", "max_tokens": 1}
    page.evaluate(
        """async (body) => {
          const headers = { "Content-Type": "application/json" };
          const options = { method: "POST", headers, body: JSON.stringify(body) };
          for (let at = 0; at < 12; at += 1) await (await fetch("/v1/completions", options)).text();
        }""",
        body,
    )
    page.get_by_test_id("account").click()
    lines = page.get_by_test_id("statement-line")
    expect(lines).to_have_count(20)
    page.get_by_test_id("statement-more").click()
    expect(lines).to_have_count(25)
    expect(page.get_by_test_id("statement-more")).to_have_count(0)
    expect(lines.last).to_have_attribute("data-kind", "post")
    expect(page.get_by_test_id("receipt-link")).to_have_count(12)


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "dark"), ("ko-KR", "light")])
def test_axe_finds_nothing_where_money_is_shown(
    browser: Browser, charging: RunningNode, locale: str, scheme: str
) -> None:
    """The line below a question, a receipt that holds and one that does not, the account with a hold, on a phone."""
    context = browser.new_context(
        locale=locale,
        color_scheme=scheme,  # pyright: ignore[reportArgumentType]
        reduced_motion="reduce",
        service_workers="block",
        viewport={"width": 360, "height": 740},
    )
    context.set_default_timeout(EXPECT_LIMIT_MS)
    page = context.new_page()
    try:
        enter(context, page, charging, 18)
        page.get_by_test_id("prompt").fill(QUESTION)
        expect(page.get_by_test_id("cost-line")).to_contain_text("0.03")
        assert_accessible(page)
        ask(page, QUESTION)
        open_receipt(page)
        assert_accessible(page)
        page.keyboard.press("Escape")
        hold = {"record": 5, "amount": "0.25", "since": 1, "until": 1_900_000_000, "note": "blyan-genesis"}
        pretend(page, held="0.25", holds=[hold])
        page.get_by_test_id("account").click()
        expect(page.get_by_test_id("holds")).to_contain_text("blyan-genesis")
        expect(page.get_by_test_id("statement")).to_be_visible()
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    finally:
        context.close()


def test_an_answer_that_was_gone_on_with_has_two_receipts(
    context: BrowserContext, page: Page, charging: RunningNode
) -> None:
    """Each holds for its own part, and the cost is that of both."""
    enter(context, page, charging, 16)
    page.get_by_test_id("open-settings").click()
    page.get_by_test_id("setting-max_tokens").fill("3")
    page.get_by_test_id("settings-save").click()
    ask(page, "Who are you?")
    first = final_cost(page)
    page.get_by_test_id("continue").click()
    finished(page)
    assert final_cost(page) > first
    assert open_receipt(page) == dict.fromkeys(CHECKED, "ok")
    second = page.get_by_test_id("receipt-sheet").get_by_role("button", name="2", exact=True)
    second.click()
    expect(second).to_have_attribute("aria-pressed", "true")  # what is read is of this one
    assert checks(page) == dict.fromkeys(CHECKED, "ok")
