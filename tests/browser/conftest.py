"""A real node in its own process, and a real Chromium that opens its page.

One node on the built-in model serves all test modules: each test has a browser context of its own, so that nothing of
another's is kept. The browser ends with its module: while Playwright's synchronous API runs, its thread counts as
inside an event loop, which no asyncio test of another module could bear.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from running_node import RunningNode

EXPECT_LIMIT_MS = 30_000
# The first is the same engine without windows, which nobody sees: a page takes less than half of the processor time.
CHROMIUM_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",  # containers run as root, where Chromium refuses its sandbox
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP ${event.effectiveDirective} refused ${event.blockedURI}, ${event.sourceFile}:${event.lineNumber}`);
});"""


_shared: list[RunningNode] = []


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path_factory.mktemp("node"))
    running.start()
    _shared.append(running)
    yield running
    running.stop()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The node ends with the last test of this folder, though its fixture would hold it to the end of the session."""
    if nextitem is None or item.path.parent not in nextitem.path.parents:
        for running in _shared:
            running.stop()


def find_chromium(bundled: str) -> str:
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None and Path(bundled).exists():
        found = bundled
    if found is None:
        reason = "Chromium is missing: install chromium-headless-shell, or run `playwright install chromium`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=EXPECT_LIMIT_MS)
    with sync_playwright() as playwright:
        executable = find_chromium(playwright.chromium.executable_path)
        launched = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An English, light page of a person who was never here before."""
    context = browser.new_context(locale="en-US", color_scheme="light", service_workers="block")
    context.set_default_timeout(EXPECT_LIMIT_MS)
    context.add_init_script(REPORT_VIOLATIONS)
    yield context.new_page()
    context.close()


@pytest.fixture
def faults(page: Page) -> list[str]:
    """Everything that goes wrong in the page: console errors, uncaught exceptions, violations of the policy."""
    seen: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and "blocked by Playwright" not in message.text:
            seen.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda failure: seen.append(str(failure)))
    return seen
