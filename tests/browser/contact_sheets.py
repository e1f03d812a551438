"""Pictures of every view of the page, to be looked at: two languages, two themes, three widths, one sheet for each mix.

    PYTHONPATH=backend:tests python tests/browser/contact_sheets.py FOLDER [MIX …]

A mix is WIDTH-THEME-LANGUAGE, as 360-dark-ko; all twelve unless some are named. Starts a node of its own in a temporary
folder. No test: whether a page is ugly, a person must see.
"""

import base64
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect, sync_playwright

from browser.conftest import CHROMIUM_FLAGS, EXPECT_LIMIT_MS, find_chromium
from charging_node import charging_node
from chat_page import ask, finished, open_page, put, say
from page_wallet import give_wallets
from running_node import RunningNode
from wallets import new_key

ANSWER: Final = """### 덧셈 · Adding

The sum of **23** and **45** is `68`, see [the steps](https://example.org).

| step | left | right | sum |
|:-----|-----:|------:|----:|
| ones | 3 | 5 | 8 |
| tens | 20 | 40 | 60 |
| a long name of a step that goes on | 1000000000 | 2000000000 | 3000000000 |

```python
def add(left: int, right: int) -> int:
    return left + right  # a comment that is long enough to reach beyond the edge of a narrow screen, and further
```

1. one
2. two
   - [x] done
   - [ ] 할 일

> quoted, 인용
"""
WIDTHS: Final = {360: 740, 768: 900, 1280: 800}
SHOWN_PX: Final = {360: 320, 768: 440, 1280: 640}  # of one picture on its sheet


def _empty(page: Page) -> None:
    expect(page.get_by_test_id("empty")).to_be_visible()


def _answer(page: Page) -> None:
    ask(page, "What is 23 + 45?")
    page.get_by_test_id("again").click()
    expect(page.get_by_test_id("branches")).to_be_visible()
    say(page, ANSWER)
    expect(page.locator(".hl-keyword").first).to_be_visible()


def _answer_top(page: Page) -> None:
    page.get_by_test_id("scroll").evaluate("each => each.scrollTo(0, 0)")


def _cut(page: Page) -> None:
    body = 'data: {"choices":[{"index":0,"delta":{"content":"The sum"},"finish_reason":null}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
        times=1,
    )
    ask(page, "?")
    expect(page.get_by_test_id("continue")).to_be_visible()


def _error(page: Page) -> None:
    error = {
        "message": "body: top_k: expected 0 to 1000000, found -1",
        "code": "unsupported_parameter",
        "hint": "a hint",
    }
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json={"error": error}), times=1)
    ask(page, "?")
    expect(page.get_by_test_id("error")).to_be_visible()


def _context(page: Page) -> None:
    error = {"message": "prompt: expected at most 512 tokens, found 600", "code": "context_length_exceeded"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json={"error": error}), times=1)
    ask(page, "?")
    expect(page.get_by_test_id("error")).to_be_visible()


def _excess(page: Page) -> None:
    put(page, "한" * 700_000)
    expect(page.get_by_test_id("excess")).to_be_visible()


def _edit(page: Page) -> None:
    page.get_by_test_id("prompt").fill("")
    page.get_by_test_id("prompt").press("ArrowUp")
    expect(page.get_by_test_id("edit-text")).to_be_visible()


def _drawer(which: str) -> Callable[[Page], None]:
    def show(page: Page) -> None:
        if page.get_by_test_id(f"toggle-{which}").get_attribute("aria-expanded") == "false":
            page.get_by_test_id(f"toggle-{which}").click()

    return show


def _dialog(opener: str) -> Callable[[Page], None]:
    def show(page: Page) -> None:
        page.get_by_test_id(opener).evaluate("each => each.click()")
        page.wait_for_timeout(100)

    return show


def _experts(page: Page) -> None:
    page.get_by_test_id("expert-map").first.evaluate("each => each.click()")
    expect(page.locator(".sheet [data-part]").first).to_be_visible()


def _story(page: Page) -> None:
    page.get_by_test_id("story").click()
    expect(page.get_by_test_id("sheet-body")).to_be_visible()
    page.wait_for_timeout(800)


def _proof(page: Page) -> None:
    page.get_by_test_id("cell").first.evaluate("each => each.click()")
    expect(page.get_by_test_id("sheet-body")).to_be_visible()
    page.wait_for_timeout(800)


def _splash(page: Page) -> None:
    page.route("**/livez", lambda route: route.abort())
    page.goto(page.url.split("#")[0].rstrip("/") + "/offline.html")
    expect(page.locator("pre")).to_be_visible()


# In this order, in one page: each finds what the former ones left.
VIEWS: Final[dict[str, Callable[[Page], None]]] = {
    "empty": _empty,
    "keys": _dialog("keys"),
    "settings": _dialog("open-settings"),
    "answer": _answer,
    "answer-top": _answer_top,
    "cut": _cut,
    "edit": _edit,
    "history": _drawer("side"),
    "panel": _drawer("panel"),
    "story": _story,
    "proof": _proof,
    "error": _error,
    "context": _context,
    "excess": _excess,
    "experts": _experts,
    "splash": _splash,
}


def _wallets(page: Page) -> None:
    page.get_by_test_id("sign-in").click()
    expect(page.get_by_test_id("wallet").first).to_be_visible()


def _rejected(page: Page) -> None:
    page.evaluate("window.wallets.Alpha.refused = { personal_sign: 4001 }")
    _wallets(page)
    page.get_by_test_id("wallet").first.click()
    expect(page.get_by_test_id("wallet-fault")).to_be_visible()


def _chain(page: Page) -> None:
    page.evaluate("Object.assign(window.wallets.Alpha, { refused: {}, chain: '0x89' })")
    _wallets(page)
    page.get_by_test_id("wallet").first.click()
    expect(page.get_by_test_id("switch-chain")).to_be_visible()


def _quote(page: Page) -> None:
    page.evaluate("window.wallets.Alpha.chain = '0x1'")
    _wallets(page)
    page.get_by_test_id("wallet").first.click()
    expect(page.get_by_test_id("account")).to_be_visible()
    page.get_by_test_id("prompt").fill("What is 23 + 45?")
    expect(page.get_by_test_id("cost-line")).to_contain_text("$50")


def _charged(page: Page) -> None:
    page.get_by_test_id("prompt").press("Enter")
    finished(page)
    expect(page.get_by_test_id("receipt")).to_be_visible()


def _receipt(page: Page) -> None:
    page.get_by_test_id("receipt").click()
    expect(page.get_by_test_id("verdict")).to_have_attribute("data-verdict", "ok")


def _account(page: Page) -> None:
    page.get_by_test_id("account").click()
    expect(page.get_by_test_id("statement")).to_be_visible()


def _made_key(page: Page) -> None:
    _account(page)
    page.get_by_test_id("key-name").fill("laptop")
    page.get_by_test_id("key-make").click()
    expect(page.get_by_test_id("key-text")).to_be_visible()
    page.get_by_test_id("sign-out").scroll_into_view_if_needed()


def _short(page: Page) -> None:
    funds = {"asset": "USD", "scale": 8, "balance": "0.0001", "held": "0", "available": "0.0001", "holds": []}
    page.route("**/account", lambda route: route.fulfill(json=funds))
    page.reload()
    page.get_by_test_id("prompt").fill("What is 23 + 45, and why?")
    expect(page.locator(".cost-line.short")).to_be_visible()


# The same on a node that charges.
ACCOUNT_VIEWS: Final[dict[str, Callable[[Page], None]]] = {
    "signed-out": _empty,
    "wallets": _wallets,
    "rejected": _rejected,
    "chain": _chain,
    "quote": _quote,
    "charged": _charged,
    "receipt": _receipt,
    "account": _account,
    "made-key": _made_key,
    "short": _short,
}


def pictures(
    browser: Browser, url: str, locale: str, scheme: str, width: int, views: dict[str, Callable[[Page], None]]
) -> Iterator[tuple[str, bytes]]:
    """Each view by its name, as PNG."""
    viewport = {"width": width, "height": WIDTHS[width]}
    context = browser.new_context(locale=locale, color_scheme=scheme, viewport=viewport, service_workers="block")  # pyright: ignore[reportArgumentType]
    give_wallets(context, "Alpha", "Beta", keys=(new_key(width + len(locale) + len(scheme)),))
    page = context.new_page()
    open_page(page, url)
    for name, show in views.items():
        show(page)
        page.wait_for_timeout(150)
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if over > 0:
            print(f"{name} {locale} {scheme} {width}: {over} px wider than the window", file=sys.stderr)
        yield name, page.screenshot()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
    context.close()


def sheet(browser: Browser, shown_px: int, taken: dict[str, bytes], path: Path) -> None:
    """All pictures on one, each under its name."""
    figures = "".join(
        f"<figure><figcaption>{name}</figcaption><img width={shown_px}"
        f" src='data:image/png;base64,{base64.b64encode(png).decode()}'></figure>"
        for name, png in taken.items()
    )
    style = "body{display:flex;flex-wrap:wrap;gap:8px;margin:8px;background:#888;font:14px sans-serif}figure{margin:0}"
    page = browser.new_page(viewport={"width": 4 * (shown_px + 8) + 24, "height": 400})
    page.set_content(f"<style>{style}</style>{figures}")
    page.screenshot(path=path, full_page=True)
    page.close()


ALL: Final = [
    f"{width}-{scheme}-{language}" for width in WIDTHS for scheme in ("light", "dark") for language in ("en", "ko")
]


def main(folder: Path, mixes: list[str]) -> None:
    """Writes one sheet for each mix into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=EXPECT_LIMIT_MS)
    with tempfile.TemporaryDirectory() as data_dir, sync_playwright() as playwright:
        node, charging = RunningNode(Path(data_dir) / "node"), charging_node(Path(data_dir) / "charging")
        node.start()
        charging.start()
        executable = find_chromium(playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        try:
            for mix in mixes:
                width, scheme, language = mix.split("-")
                locale = {"en": "en-US", "ko": "ko-KR"}[language]
                for running, views, name in ((node, VIEWS, ""), (charging, ACCOUNT_VIEWS, "-accounts")):
                    taken = dict(pictures(browser, running.url, locale, scheme, int(width), views))
                    sheet(browser, SHOWN_PX[int(width)], taken, folder / f"{mix}{name}.png")
        finally:
            browser.close()
            node.stop()
            charging.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ALL)
