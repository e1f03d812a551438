"""Signing in with a wallet on the page, the account, and API keys, against a real node and with a real key."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser.conftest import EXPECT_LIMIT_MS, REPORT_VIOLATIONS
from browser.test_page_access import assert_accessible
from chat_page import open_page
from page_wallet import give_wallets, sign_in
from running_node import RunningNode, with_accounts
from wallets import new_key

pytestmark = pytest.mark.browser

KEY, OTHER = new_key(1), new_key(2)


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with accounts."""
    folder = tmp_path_factory.mktemp("metered") / "node"
    running = with_accounts(folder, BLYAN_QUOTAS__ADDRESS_SIGN_INS="0", BLYAN_QUOTAS__ADDRESS_REQUESTS="0")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """An English, light browser without a wallet."""
    made = browser.new_context(locale="en-US", color_scheme="light", service_workers="block")
    made.set_default_timeout(EXPECT_LIMIT_MS)
    made.add_init_script(REPORT_VIOLATIONS)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def wallet(page: Page, change: str, name: str = "Alpha") -> None:
    """Changes what the wallet does: `change` is a statement about `wallet`."""
    page.evaluate(f"const wallet = window.wallets[{name!r}]; {change};")


def fault(page: Page) -> str:
    """Opens the dialog, chooses the first wallet, and returns what the page says went wrong."""
    page.get_by_test_id("sign-in").click()
    page.get_by_test_id("wallet").first.click()
    return page.get_by_test_id("wallet-fault").inner_text()


def test_a_wallet_signs_in_and_out(
    context: BrowserContext, page: Page, faults: list[str], metered: RunningNode
) -> None:
    """By a message that this node wrote; a reload keeps the session, and signing out ends it."""
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    sign_in(page)
    expect(page.get_by_test_id("signin")).to_have_count(0)
    expect(page.get_by_test_id("prompt")).to_be_focused()
    page.reload()
    page.get_by_test_id("account").click()
    expect(page.get_by_test_id("account-name")).to_have_text(KEY.address)
    page.get_by_test_id("sign-out").click()
    expect(page.get_by_test_id("sign-in")).to_be_visible()
    session = page.evaluate("fetch('/auth/session').then(answer => answer.json())")
    assert (session["accounts"], session["signed_in"]) == (True, False)
    assert faults == []


def test_of_several_wallets_one_is_chosen_and_is_first_the_next_time(
    context: BrowserContext, page: Page, metered: RunningNode
) -> None:
    give_wallets(context, "Alpha", "Beta")
    open_page(page, metered.url)
    sign_in(page, "Beta")
    assert page.evaluate("window.wallets.Alpha.asked") == []
    page.get_by_test_id("account").click()
    page.get_by_test_id("sign-out").click()
    page.get_by_test_id("sign-in").click()
    expect(page.get_by_test_id("wallet")).to_have_text(["Beta", "Alpha"])
    expect(page.get_by_test_id("wallet").locator("img")).to_have_count(2)


def test_without_a_wallet_the_page_says_what_to_install(
    context: BrowserContext, page: Page, metered: RunningNode
) -> None:
    """And finds one that came meanwhile."""
    open_page(page, metered.url)
    page.get_by_test_id("sign-in").click()
    expect(page.get_by_test_id("no-wallet")).to_contain_text("MetaMask")
    assert_accessible(page)
    page.evaluate("window.ethereum = { request: async () => [] }")
    page.get_by_test_id("no-wallet").get_by_role("button").click()
    expect(page.get_by_test_id("wallet")).to_have_count(1)


def test_what_a_wallet_says_of_itself_is_text(
    context: BrowserContext, page: Page, faults: list[str], metered: RunningNode
) -> None:
    """Markup and other addresses in its name and sign do nothing; what is no wallet is left out."""
    open_page(page, metered.url)
    page.evaluate(
        r"""() => {
          const provider = { request: async () => [] };
          const event = "eip6963:announceProvider";
          const say = (info, given) => dispatchEvent(new CustomEvent(event, { detail: { info, provider: given } }));
          const icons = ["https://example.org/x.png", "data:text/html,<script>alert(1)</script>"];
          say({ uuid: "1", name: "<img src=x onerror=alert(1)>\u202e", icon: icons[0], rdns: "a" }, provider);
          say({ uuid: "2", name: "B".repeat(10000), icon: icons[1], rdns: {} }, provider);
          say({ uuid: "3", name: "   ", icon: "", rdns: "c" }, provider);
          say({ uuid: "4", name: "no provider" }, {});
          say(undefined, undefined);
          dispatchEvent(new Event("eip6963:announceProvider"));
        }"""
    )
    page.get_by_test_id("sign-in").click()
    wallets = page.get_by_test_id("wallet")
    expect(wallets).to_have_count(2)
    expect(wallets.first).to_contain_text("<img src=x onerror=alert(1)>")
    expect(wallets.locator("img")).to_have_count(0)
    assert len(wallets.last.inner_text()) < 80
    wallets.last.click()
    expect(page.get_by_test_id("wallet-fault")).to_be_visible()
    assert faults == []


@pytest.mark.parametrize(
    ("method", "code", "said"),
    [
        ("eth_requestAccounts", 4001, "declined"),
        ("personal_sign", 4001, "declined"),
        ("eth_requestAccounts", -32002, "asking something already"),
        ("personal_sign", -32603, "did not do it"),
    ],
)
def test_what_a_wallet_refuses_is_said_and_can_be_tried_again(
    context: BrowserContext, page: Page, metered: RunningNode, method: str, code: int, said: str
) -> None:
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    wallet(page, f"wallet.refused = {{{method}: {code}}}")
    assert said in fault(page)
    wallet(page, "wallet.refused = {}")
    page.get_by_test_id("wallet").click()
    expect(page.get_by_test_id("account")).to_be_visible()


def test_a_wallet_on_another_chain_is_asked_to_switch(
    context: BrowserContext, page: Page, metered: RunningNode
) -> None:
    """One that does not know the chain says so; one that does goes on to the signature."""
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    wallet(page, "wallet.chain = '0x89'; wallet.known = []")
    page.get_by_test_id("sign-in").click()
    page.get_by_test_id("wallet").click()
    expect(page.get_by_test_id("wrong-chain")).to_contain_text("Polygon (137)")
    page.get_by_test_id("switch-chain").click()
    expect(page.get_by_test_id("wallet-fault")).to_contain_text("does not know this chain")
    wallet(page, "wallet.known = ['0x1']")
    page.get_by_test_id("switch-chain").click()
    expect(page.get_by_test_id("account")).to_be_visible()
    asked = page.evaluate("window.wallets.Alpha.asked")
    assert asked[-1] == "personal_sign"
    assert "wallet_switchEthereumChain" in asked


def test_another_account_in_the_wallet_signs_out(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    """At once, and also when it was changed while the page was away; a locked wallet means nothing."""
    give_wallets(context, "Alpha", keys=(KEY, OTHER))
    open_page(page, metered.url)
    sign_in(page)
    wallet(page, "wallet.switchTo()")
    expect(page.get_by_test_id("account")).to_be_visible()
    wallet(page, f"wallet.switchTo('{OTHER.address}')")
    expect(page.get_by_test_id("notice")).to_contain_text("another account")
    expect(page.get_by_test_id("sign-in")).to_be_visible()
    wallet(page, f"wallet.switchTo('{KEY.address}')")
    sign_in(page)
    context.add_init_script(f"window.wallets.Alpha.keys = ['{OTHER.address}'];")
    page.reload()
    expect(page.get_by_test_id("notice")).to_contain_text("another account")


def test_a_wallet_that_never_answers_can_be_left(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    """What it signs later signs nobody in."""
    give_wallets(context, "Alpha", "Beta")
    open_page(page, metered.url)
    wallet(page, "wallet.hangs = 'personal_sign'")
    page.get_by_test_id("sign-in").click()
    page.get_by_test_id("wallet").first.click()
    expect(page.get_by_test_id("wallet-wait")).to_contain_text("Alpha shows the message")
    page.get_by_test_id("wallet-back").click()
    page.get_by_test_id("wallet").filter(has_text="Beta").click()
    expect(page.get_by_test_id("account")).to_be_visible()


def test_who_is_not_signed_in_keeps_the_draft(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    """Asking opens the door; after it the question is still there."""
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    expect(page.get_by_test_id("free")).to_have_count(0)
    expect(page.get_by_test_id("cost-line")).to_contain_text("Sign in to ask")
    page.get_by_test_id("prompt").fill("What is 23 + 45?")
    page.get_by_test_id("prompt").press("Enter")
    page.get_by_test_id("wallet").click()
    expect(page.get_by_test_id("account")).to_be_visible()
    expect(page.get_by_test_id("prompt")).to_have_value("What is 23 + 45?")
    expect(page.get_by_test_id("message-user")).to_have_count(0)


def test_a_session_that_ended_is_said_with_the_way_back(
    context: BrowserContext, page: Page, metered: RunningNode
) -> None:
    """The question that was refused is asked again after signing in."""
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    sign_in(page)
    context.clear_cookies()
    page.get_by_test_id("prompt").fill("What is 23 + 45?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("error")).to_have_attribute("data-code", "unauthenticated")
    page.get_by_test_id("signin").click()
    page.get_by_test_id("wallet").click()
    expect(page.get_by_test_id("account")).to_be_visible()
    page.get_by_test_id("again").click()
    expect(page.get_by_test_id("answer-text")).not_to_be_empty()


def test_a_quota_that_is_used_up_says_when_to_come_again(
    context: BrowserContext, page: Page, metered: RunningNode
) -> None:
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    sign_in(page)
    refusal = {"code": "rate_limited", "message": "quota: expected fewer", "hint": "come again after that time"}
    headers = {"Retry-After": "7"}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, headers=headers, json={"error": refusal}),
    )
    page.get_by_test_id("prompt").fill("What is 23 + 45?")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("error")).to_contain_text("more than one may ask in a minute")
    expect(page.get_by_test_id("error")).to_contain_text("about 7 s")
    expect(page.get_by_test_id("retry")).to_be_visible()


def test_a_model_without_a_price_is_free_here_too(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    """Said before it is asked, and after."""
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    sign_in(page)
    page.get_by_test_id("prompt").fill("What is 23 + 45?")
    expect(page.get_by_test_id("cost-line")).to_have_text("This answer is free.")
    page.get_by_test_id("prompt").press("Enter")
    expect(page.get_by_test_id("cost")).to_have_text("$0.00")
    expect(page.get_by_test_id("receipt")).to_have_count(0)


def test_other_tabs_follow(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    other = context.new_page()
    open_page(other, metered.url)
    sign_in(page)
    expect(other.get_by_test_id("account")).to_be_visible()
    other.get_by_test_id("account").click()
    other.get_by_test_id("sign-out").click()
    expect(page.get_by_test_id("sign-in")).to_be_visible()


def test_a_key_is_shown_once_works_and_is_deleted(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    give_wallets(context, "Alpha", keys=(new_key(7),))
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=metered.url)
    open_page(page, metered.url)
    sign_in(page)
    page.get_by_test_id("account").click()
    page.get_by_test_id("key-name").fill("my <b>laptop</b>")
    page.get_by_test_id("scope-account").check()
    page.get_by_test_id("key-days").select_option("30")
    page.get_by_test_id("key-make").click()
    text = page.get_by_test_id("key-text").inner_text()
    assert re.fullmatch(r"sk-blyan-[0-9a-f]{16}-[\w-]{43}", text)
    page.get_by_test_id("made-key").get_by_test_id("copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == text
    line = page.get_by_test_id("api-key")
    expect(line).to_contain_text("my <b>laptop</b>")
    expect(line).to_contain_text("ask models, read this account")
    assert_accessible(page)

    request = urllib.request.Request(f"{metered.url}/auth/session", headers={"Authorization": f"Bearer {text}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert KEY.address not in (said := answer.read().decode())
    assert new_key(7).address in said
    page.keyboard.press("Escape")
    page.get_by_test_id("account").click()
    expect(page.get_by_test_id("api-key")).to_have_count(1)
    assert text not in page.content()
    page.get_by_test_id("key-delete").click()
    page.get_by_test_id("key-delete").click()
    expect(page.get_by_test_id("api-key")).to_have_count(0)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_views_of_accounts(
    browser: Browser, metered: RunningNode, locale: str, scheme: str
) -> None:
    """The choice of wallets, what went wrong, another chain, the account with a new key."""
    context = browser.new_context(locale=locale, color_scheme=scheme, reduced_motion="reduce", service_workers="block")
    context.set_default_timeout(EXPECT_LIMIT_MS)
    give_wallets(context, "Alpha", "Beta")
    page = context.new_page()
    try:
        open_page(page, metered.url)
        assert_accessible(page)
        wallet(page, "wallet.refused = {personal_sign: 4001}")
        page.get_by_test_id("sign-in").click()
        assert_accessible(page)
        page.get_by_test_id("wallet").first.click()
        expect(page.get_by_test_id("wallet-fault")).to_be_visible()
        assert_accessible(page)
        wallet(page, "wallet.refused = {}; wallet.chain = '0x5'")
        page.get_by_test_id("wallet").first.click()
        page.get_by_test_id("switch-chain").wait_for()
        assert_accessible(page)
        page.get_by_test_id("switch-chain").click()
        page.get_by_test_id("account").click()
        page.get_by_test_id("key-name").fill("laptop")
        page.get_by_test_id("key-make").click()
        page.get_by_test_id("key-text").wait_for()
        assert_accessible(page)
    finally:
        context.close()


def test_signing_in_needs_no_pointer(context: BrowserContext, page: Page, metered: RunningNode) -> None:
    give_wallets(context, "Alpha")
    open_page(page, metered.url)
    page.get_by_test_id("sign-in").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("dialog-close")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_test_id("wallet")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("account")).to_be_visible()
    page.get_by_test_id("account").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("account-sheet")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("account-sheet")).to_have_count(0)
    expect(page.get_by_test_id("account")).to_be_focused()


def test_at_another_address_the_page_names_the_right_one(browser: Browser, tmp_path: Path) -> None:
    """The cookie would not count there."""
    running = with_accounts(tmp_path / "node", BLYAN_ACCOUNTS__ORIGIN="https://chat.example.org")
    running.start()
    context = browser.new_context(locale="en-US", service_workers="block")
    try:
        give_wallets(context, "Alpha")
        page = context.new_page()
        open_page(page, running.url)
        page.get_by_test_id("sign-in").click()
        expect(page.get_by_test_id("signin-elsewhere")).to_have_attribute("href", "https://chat.example.org")
        expect(page.get_by_test_id("wallet")).to_have_count(0)
    finally:
        context.close()
        running.stop()


def test_a_node_without_accounts_says_free_and_shows_none_of_it(page: Page, node: RunningNode) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, node.url)
    expect(page.get_by_test_id("free")).to_have_text("It is free: this node has no accounts.")
    for name in ("sign-in", "account", "cost-line"):
        expect(page.get_by_test_id(name)).to_have_count(0)
    assert not any("account" in url or "/quotes" in url for url in asked)
