"""What holds for every test: time limits by mark, one compute thread in each worker, and which tests run by default.

`long` and `network_install` tests are left out unless `-m` names them; the second kind also runs with
BLYAN_TEST_INSTALL=1. `--shard K/N` keeps one of N parts. Long tests that passed on this commit, in a clean tree, are
not repeated: their names stand in `.long/COMMIT`.
"""

import datetime as dt
import fcntl
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anvil import chain  # noqa: F401 - fixtures
from forked import nursery
from ledgers import postgres_store, sqlite_store, store  # noqa: F401
from redis_service import redis_server, redis_url  # noqa: F401
from services import postgres_server, postgres_url  # noqa: F401

# Before anything imports torch: workers share the cores, and more threads only take turns on them.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Beside another worker that is always busy, a node that stands back would not compute at all.
os.environ.setdefault("BLYAN_COMPUTE__NICE", "0")
# No test may look for a model on the internet.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell that starts this in the background has it ignore Ctrl-C, and every process of a test with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# Seconds by mark; a test with several gets the largest. Unmarked tests keep the limit in pyproject.toml.
LIMITS_S = {"oracle": 120, "browser": 120, "slow": 600, "network_install": 3600, "long": 6 * 3600}
LONG_RUNS = ROOT / "docs/benchmarks/long-runs.md"
LONG_RUNS_HEAD = """# Long runs

Written by `scripts/test --long`: each line is one test that passed, on the commit it names.

| date | commit | what | found | took |
|---|---|---|---|---|
"""
OPT_IN = {"long": None, "network_install": "BLYAN_TEST_INSTALL"}


SHARD = pytest.StashKey[tuple[int, int]]()
RESUME = pytest.StashKey[Path | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", default=None, metavar="K/N", help="run only part K of N, 1 <= K <= N")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SHARD] = parse_shard(config.getoption("--shard"))
    config.stash[RESUME] = resume_file() if "long" in config.getoption("markexpr") else None
    if hasattr(config, "workerinput"):
        import torch

        torch.set_num_threads(1)
        nursery()  # a worker's tests will ask for one: it imports while they are collected


def parse_shard(text: str | None) -> tuple[int, int]:
    """`K/N` as two integers; (1, 1) for None. Raises pytest.UsageError for anything else."""
    if text is None:
        return 1, 1
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--shard takes K/N with 1 <= K <= N, not {text!r}")
    return int(part), int(parts)


def in_shard(nodeid: str, shard: tuple[int, int]) -> bool:
    """Whether a test belongs to the shard. By a hash of its name, so that adding a test moves no other."""
    part, parts = shard
    return int.from_bytes(hashlib.sha256(nodeid.encode()).digest()[:8], "big") % parts == part - 1


def git(*arguments: str) -> str | None:
    """What git says about this repository, None where it cannot."""
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def resume_file() -> Path | None:
    """Where the long tests that passed on this commit are written, or None when the tree is no commit."""

    commit = git("rev-parse", "HEAD")
    if commit is None or git("status", "--porcelain") != "":
        return None
    return ROOT / ".long" / commit


@pytest.fixture
def long_result(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Write what a long test found to docs/benchmarks/long-runs.md, with date, commit and duration."""
    began = time.monotonic()

    def write(what: str, found: str) -> None:
        commit = git("rev-parse", "--short=12", "HEAD") or "no commit"
        if git("status", "--porcelain", "--untracked-files=no"):
            commit += " and changes"
        date = dt.datetime.now(tz=dt.UTC).date().isoformat()
        row = f"| {date} | {commit} | {what} | {found} | {time.monotonic() - began:,.0f} s |\n"
        with LONG_RUNS.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # workers share it
            file.seek(0)
            if not file.read():
                file.write(LONG_RUNS_HEAD)
            file.write(row)

    return write


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    resume = config.stash[RESUME]
    passed = set(resume.read_text().splitlines()) if resume and resume.exists() else set()
    chosen = config.getoption("markexpr")
    left_out = {
        mark for mark, variable in OPT_IN.items() if mark not in chosen and os.environ.get(variable or "", "") != "1"
    }
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        repeated = "long" in marks and item.nodeid in passed
        keep = not (marks & left_out) and not repeated and in_shard(item.nodeid, config.stash[SHARD])
        (kept if keep else dropped).append(item)
        limits = [LIMITS_S[mark] for mark in marks & LIMITS_S.keys()]
        if limits and "timeout" not in marks:
            item.add_marker(pytest.mark.timeout(max(limits)))
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    resume = item.config.stash[RESUME]
    if report.when == "call" and report.passed and item.get_closest_marker("long") and resume:
        resume.parent.mkdir(exist_ok=True)
        with resume.open("a") as file:
            file.write(f"{item.nodeid}\n")
    return report
