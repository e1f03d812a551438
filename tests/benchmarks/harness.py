"""What every benchmark shares: interleaved timings, percentiles, and a page in docs/benchmarks/ that it writes itself.

A page says on which machine and commit it was made. `SMOKE=1` runs small sizes, to see that a benchmark works, and
writes nothing. Benchmarks run one at a time and with nothing beside them: `make bench [ONLY=name]`.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent.parent
SMOKE = os.environ.get("SMOKE") == "1"
PAGES = ROOT / "docs/benchmarks"
_failure_chars_max = 300


@dataclass
class Page:
    """One page of results: what was measured, against what, and what it should be."""

    name: str
    title: str
    bound: str  # the back-of-envelope bound, in words
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # what, measured, target or reference
    tables: list[list[Sequence[str]]] = field(default_factory=list)  # below them: a head, and lines
    failed: list[str] = field(default_factory=list)  # parts

    def row(self, what: str, measured: str, target: str = "") -> None:
        """Add a line, and say it now."""
        self.rows.append((what, measured, target))
        print(f"{what}: {measured}" + (f" ({target})" if target else ""), flush=True)

    def table(self, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        """Add a table of its own, below the others."""
        self.tables.append([head, ["---"] * len(head), *lines])

    def part(self, what: str) -> _Part:
        """A context of what is measured apart: if it fails the page says so, and has what else was measured."""
        return _Part(self, what)

    def write(self) -> None:
        """Write docs/benchmarks/NAME.md, unless this is a smoke run; then `SystemExit` if a part failed."""
        if SMOKE:
            print("smoke sizes: nothing written")
        else:
            self._write()
        if self.failed:
            sys.exit(f"failed: {', '.join(self.failed)}")

    def _write(self) -> None:
        lines = [
            f"# {self.title}",
            "",
            f"Written by `make bench ONLY={self.name}`. {machine()}, commit {commit()}, {today()}.",
            "",
            self.bound,
            "",
            "| what | measured | target or reference |",
            "|---|---|---|",
            *(f"| {what} | {measured} | {target} |" for what, measured, target in self.rows),
            "",
            *(line for table in self.tables for line in [*(f"| {' | '.join(cells)} |" for cells in table), ""]),
        ]
        path = PAGES / f"{self.name}.md"
        path.write_text("\n".join(lines))
        print(f"wrote {path}")


@dataclass
class _Part:
    page: Page
    what: str

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if reason is None or isinstance(reason, (KeyboardInterrupt, SystemExit)):
            return False
        traceback.print_exception(reason)
        self.page.failed.append(self.what)
        said = " ".join(f"{type(reason).__name__}: {reason}".split()).replace("|", "¦")
        self.page.row(self.what, f"**failed**: {said[:_failure_chars_max]}")
        return True


def interleaved(
    runs: int, *each: Callable[[], object], before: Callable[[], object] | None = None
) -> list[list[float]]:
    """Seconds of `runs` rounds in which every function runs once, in turn; `before` each of them, not timed."""
    seconds: list[list[float]] = [[] for _ in each]
    for turn in range(runs):
        order = range(len(each)) if turn % 2 == 0 else reversed(range(len(each)))
        for number in order:
            if before is not None:
                before()
            began = time.perf_counter()
            each[number]()
            seconds[number].append(time.perf_counter() - began)
    return seconds


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def within(histogram: Counter[float], share: float) -> str:
    """The bucket in which this share of all is reached. `histogram`: upper bound in seconds → how many in it."""
    bounds = sorted(histogram)
    counts = [histogram[bound] for bound in bounds]
    if not any(counts):
        return "none"
    wanted = share * histogram.total()
    at = next(number for number in range(len(bounds)) if sum(counts[: number + 1]) >= wanted)
    least = milliseconds(bounds[at - 1]) if at else "0"
    return f"≤ {milliseconds(bounds[at])}" if bounds[at] < float("inf") else f"> {least}"


def milliseconds(seconds: float) -> str:
    """With three digits that count."""
    return f"{seconds * 1e3:.3g} ms"


def both(seconds: Sequence[float]) -> str:
    """p50 and p95."""
    return f"p50 {milliseconds(percentile(seconds, 0.5))}, p95 {milliseconds(percentile(seconds, 0.95))}"


def machine() -> str:
    """Processor, cores and memory."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def commit() -> str:
    """The commit, and whether files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, check=True, text=True
        ).stdout.strip()

    changes = [line for line in git("status", "--porcelain", "--", "backend", "tests").splitlines() if line]
    return git("rev-parse", "--short=12", "HEAD") + (" and changes" if changes else "")


def today() -> str:
    """The date."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def drop_cache(path: Path) -> None:
    """Make the next read of these files come from the disk."""
    for each in [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]:
        handle = os.open(each, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def wanted(name: str) -> bool:
    """Whether `ONLY` leaves this benchmark in."""
    return name in os.environ.get("ONLY", name).split(",")


def run_all() -> int:
    """Run every benchmark of this folder, each in its own process."""
    failed: list[str] = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if wanted(path.stem.removeprefix("bench_")):
            print(f"== {path.stem}", flush=True)
            if subprocess.run([sys.executable, path], check=False).returncode:
                failed.append(path.stem)
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_all())
