"""Many streams on one node: `blyan up` in its own process, streamed completions over loopback.

Back of the envelope: a step that serves many streams reads the weights once for all of them, so the sum of their
speeds grows until arithmetic is the bound. One stream is bound by reading what a token meets (bytes over the bandwidth
measured before), many by multiplying, their prompts' tokens too (2 operations a parameter that a token meets, over the
speed of torch's fp32 product of two matrices on two threads, measured before). So many are at most as many times as
fast as one as the second bound is of what one reaches: much where a model is larger than the caches, little where it
lies in them and one stream keeps both cores busy. Every stream has a prompt of its own and a client of its own
(`user`). The load generator shares the two cores: its processor time stands beside the first row of each count.

Jain's index of fairness is (Σ speed)² ÷ (n · Σ speed²) over the clients' tokens a second, 1 where all are served alike.
The delay of the event loop is measured twice. From inside, by the node itself (`blyan_event_loop_delay_seconds`: how
late a timer of every 20 ms came; a histogram, so that a bucket's bound is said), over rounds of 64 streams one after
the other, their beginnings among them, where 64 requests come at once. From outside it is bounded from above by how
long /livez takes, asked every 5 ms by a third process, whose own waits for a core are in it (the row below says by how
much a plain sleep of that process was late).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from bandwidth import read_bandwidth
from benched_node import BenchedNode, node_up
from harness import ROOT, SMOKE, Page, milliseconds, percentile, within
from load_generator import Load, bodies, load
from reference_models import BUILT_IN, Reference, bytes_per_token, chosen, parameters, reference

from nodes import install_builtin

HERE = Path(__file__).parent
COUNTS = (1, 4) if SMOKE else (1, 8, 64, 256)
PROMPT = 32
TOKENS = {BUILT_IN: 128, "tiny": 128, "200m": 64}  # of a stream
OPEN, OPEN_TOKENS = (8, 4) if SMOKE else (1_000, 16)
PROBED = 4 if SMOKE else 64
PROBE_S = 1.0 if SMOKE else 20.0
LONG = 64 if SMOKE else 512
ROUNDS = 1 if SMOKE else 3
SPEEDUP_TARGET = 5
KINDS = {BUILT_IN: ("fp32", "int8"), "tiny": ("fp32", "bf16"), "200m": ("bf16", "int8"), "smoke": ("fp32",)}
FULL_SPEED = 0.8  # of what it is when warm
FULL_SPEED_LIMIT_S = 5 if SMOKE else 180
_seeds = iter(range(10_000, 1_000_000))


def run(node: BenchedNode, model: Reference, kind: str, streams: int, count: int) -> tuple[Load, int]:
    """That many at once, each with a new prompt; what they saw, and the node's most private memory meanwhile."""
    prompts = [model.prompt(PROMPT, next(_seeds)) for _ in range(streams)]

    async def loaded() -> tuple[Load, int]:
        most = node.memory()[1]

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, node.memory()[1])
                await asyncio.sleep(0.1)

        watching = asyncio.create_task(watch())
        try:
            return await load(node.address, bodies(model.model(kind), prompts, count)), most
        finally:
            watching.cancel()

    return asyncio.run(loaded())


def lost(found: Load, count: int) -> str:
    """How many streams did not give all, and why the first of them did not."""
    missing = found.lost(count)
    if not missing:
        return "none lost"
    return (
        f"**{len(missing)} of {len(found.streams)} lost** (the first: {missing[0].status} {missing[0].fault[:120]!r})"
    )


def multiplying() -> float:
    """Operations a second of two threads that multiply matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        left, right = torch.ones(512, 1024), torch.ones(1024, 1024)
        times: list[float] = []
        for _ in range(20):
            began = time.perf_counter()
            torch.mm(left, right)
            times.append(time.perf_counter() - began)
        return 2 * 512 * 1024 * 1024 / min(times)
    finally:
        torch.set_num_threads(threads)


def bounds(model: Reference, kind: str, tokens: int) -> tuple[tuple[float, str], tuple[float, str]]:
    """Tokens a second that reading and multiplying allow, and how that was found."""
    size = bytes_per_token(model.manifest(kind), PROMPT + tokens // 2)
    bandwidth, operations = read_bandwidth(size), 2 * parameters(model.manifest(kind).config)[1]
    rate = multiplying()
    return (
        (bandwidth / size, f"{size / 1e6:.2f} MB a token at {bandwidth / 1e9:.1f} GB/s"),
        (rate / operations, f"{operations / 1e6:.1f} MFLOP a token at {rate / 1e9:.0f} GFLOP/s"),
    )


def scaling(node: BenchedNode, model: Reference, kind: str, page: Page) -> None:
    """The sum of speeds for each number of streams, and memory for each."""
    tokens = TOKENS.get(model.name, 8)
    label = f"{model.name} {kind}"
    reading, multiplied = bounds(model, kind, tokens)
    for _ in range(3):
        run(node, model, kind, COUNTS[1], tokens)
    idle = node.memory()[1]
    speeds: dict[int, list[float]] = {streams: [] for streams in COUNTS}
    for turn in range(ROUNDS):
        for streams in COUNTS if turn % 2 == 0 else reversed(COUNTS):
            before = node.cpu_seconds()
            found, most = run(node, model, kind, streams, tokens)
            speeds[streams].append(found.speed)
            if turn == 0:
                page.row(
                    f"{label}: {streams} at once, {tokens} tokens each after {PROMPT}",
                    f"{found.speed:,.0f} tok/s; first token p50 {milliseconds(found.first(0.5))}, "
                    f"p95 {milliseconds(found.first(0.95))}; fairness {found.fairness:.3f}; {lost(found, tokens)}",
                    f"node {(node.cpu_seconds() - before) / found.seconds:.2f}, "
                    f"load generator {found.cpu_seconds / found.seconds:.2f} cores",
                )
                page.row(
                    f"{label}: private memory with {streams} streams above that before",
                    f"{(most - idle) / (1 << 20):,.1f} MiB, {(most - idle) / streams / 1024:,.0f} KiB a stream",
                )
    for streams in COUNTS:
        bound, how = reading if streams == 1 else multiplied
        positions = median(speeds[streams]) * (1 if streams == 1 else (PROMPT + tokens) / tokens)
        page.row(f"{label}: {streams} at once, share of the bound", f"{positions / bound:.0%} of {bound:,.0f}/s", how)
    for streams in COUNTS[1:]:
        target = f"≥ {SPEEDUP_TARGET} ×" if streams == 64 else ""
        times = median(many / one for many, one in zip(speeds[streams], speeds[1], strict=True))
        page.row(f"{label}: {streams} streams ÷ one, median of {ROUNDS} rounds", f"{times:.2f} ×", target)


def open_streams(node: BenchedNode, model: Reference, kind: str, page: Page) -> None:
    """A thousand at once."""
    found, most = run(node, model, kind, OPEN, OPEN_TOKENS)
    page.row(f"{model.name} {kind}: {OPEN:,} streams of {OPEN_TOKENS} tokens", lost(found, OPEN_TOKENS), "none lost")
    page.row("… their time to the first token", f"p50 {found.first(0.5):.2f} s, p95 {found.first(0.95):.2f} s")
    page.row("… all together", f"{found.speed:,.0f} tok/s, {found.seconds:.1f} s")
    page.row("… fairness", f"{found.fairness:.3f}", "1 is best")
    page.row("… private memory of the node meanwhile", f"{most / (1 << 20):,.0f} MiB")


def loop_delay(node: BenchedNode, model: Reference, kind: str, page: Page) -> None:
    """How long others wait for the event loop beside many streams."""
    tokens = TOKENS.get(model.name, 8)
    host, port = node.address
    command = [sys.executable, HERE / "loop_probe.py", host, str(port), f"{PROBE_S:.1f}"]
    before = node.histogram("blyan_event_loop_delay_seconds")
    speeds: list[float] = []
    with tempfile.TemporaryFile("w+") as told:  # a pipe would hold less than it says
        with subprocess.Popen(command, stdout=told) as probe:
            while probe.poll() is None:
                speeds.append(run(node, model, kind, PROBED, tokens)[0].speed)
        told.seek(0)
        said = json.load(told)
    delays = node.histogram("blyan_event_loop_delay_seconds")
    delays.subtract(before)
    page.row(
        f"{model.name} {kind}: event loop late beside {PROBED} streams, by the node, {delays.total()} times",
        f"p50 {within(delays, 0.5)}, p99 {within(delays, 0.99)}, p99.9 {within(delays, 0.999)}",
        "p99.9 < 10 ms",
    )
    answers, overslept = said["answers"], said["overslept"]
    page.row(
        f"{model.name} {kind}: /livez beside {PROBED} streams ({median(speeds):,.0f} tok/s), {len(answers)} times",
        f"p50 {milliseconds(percentile(answers, 0.5))}, p99 {milliseconds(percentile(answers, 0.99))}, "
        f"p99.9 {milliseconds(percentile(answers, 0.999))}",
        "p99.9 < 10 ms",
    )
    page.row(
        "… a sleep of the asking process meanwhile was late by",
        f"p99 {milliseconds(percentile(overslept, 0.99))}, p99.9 {milliseconds(percentile(overslept, 0.999))}",
    )


def prefix_reuse(node: BenchedNode, model: Reference, kind: str, page: Page) -> None:
    """The same long prompt again."""
    ask = node.ask(model.model(kind))
    first: list[float] = []
    second: list[float] = []
    for _ in range(1 if SMOKE else 3 if model.name == "200m" else 7):
        prompt = model.prompt(LONG, next(_seeds))
        first.append(ask(prompt, 2).first_s)
        second.append(ask(prompt, 2).first_s)
    page.row(
        f"{model.name} {kind}: first token of {LONG} tokens, the first time / again",
        f"{milliseconds(median(first))} / {milliseconds(median(second))}, "
        f"{median(one / two for one, two in zip(first, second, strict=True)):.1f} ×",
    )


@contextlib.contextmanager
def without_compiled_code() -> Iterator[None]:
    """Lay aside what the jitted path has kept on the disk, and bring it back."""
    places = [ROOT / "backend/blyan/model/__pycache__", Path.home() / ".cache/blyan"]
    aside = [(path, path.with_name(f"aside-{path.name}")) for place in places for path in place.glob("jit-*")]
    for path, elsewhere in aside:
        path.rename(elsewhere)
    try:
        yield
    finally:
        for path, elsewhere in aside:
            if path.exists():
                subprocess.run(["rm", "-r", path], check=True)
            elsewhere.rename(path)


def cold_start(page: Page) -> None:
    """From typing `blyan up` to the first token of the built-in model."""
    model = reference(BUILT_IN, ("fp32",))
    name = "blyan-genesis"
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        install_builtin(data)
        with node_up(data) as node:
            ask = node.ask(name)
            speeds: list[float] = []
            began = time.perf_counter()
            while time.perf_counter() - began < FULL_SPEED_LIMIT_S / 6:
                speeds.append(ask(model.prompt(PROMPT, next(_seeds)), 64).decode)
            warm = median(speeds[-5:])
        ways = {"with compiled code on the disk": contextlib.nullcontext, "without": without_compiled_code}
        for label, around in ways.items():
            with around():
                times: list[tuple[float, float]] = []
                for _ in range(1 if SMOKE or label == "without" else 3):
                    began = time.perf_counter()
                    with node_up(data) as node:
                        up = time.perf_counter() - began
                        ask = node.ask(name)
                        ask(model.prompt(PROMPT, next(_seeds)), 2)
                        times.append((up, time.perf_counter() - began))
                        full = until_full_speed(ask, model, warm)
                up, first = sorted(times)[len(times) // 2]
                page.row(f"cold start, {label}: address printed / first token", f"{up:.2f} s / {first:.2f} s")
                page.row(f"… then {FULL_SPEED:.0%} of {warm:,.0f} tok/s after", full)


def until_full_speed(ask, model: Reference, warm: float) -> str:
    """Seconds of asking until it is as fast as when warm."""
    began = time.perf_counter()
    while time.perf_counter() - began < FULL_SPEED_LIMIT_S:
        if ask(model.prompt(PROMPT, next(_seeds)), 32).decode >= FULL_SPEED * warm:
            return f"{time.perf_counter() - began:.2f} s"
    return f"**not in {FULL_SPEED_LIMIT_S} s**"


def main() -> None:
    page = Page("streams", "Many streams on one node", __doc__.partition("\n\n")[2].strip())
    for name in chosen((BUILT_IN, "tiny", "200m")):
        model = reference(name)
        for kind in KINDS[name]:
            with page.part(f"{name}, {kind}"), node_up(model.data_dir) as node:
                scaling(node, model, kind, page)
                loop_delay(node, model, kind, page)
                prefix_reuse(node, model, kind, page)
        with page.part(f"{name}, open streams"), node_up(model.data_dir) as node:
            if name in (BUILT_IN, "smoke"):
                run(node, model, KINDS[name][0], COUNTS[1], TOKENS.get(name, 8))
                open_streams(node, model, KINDS[name][0], page)
    with page.part("cold start"):
        cold_start(page)
    page.write()


if __name__ == "__main__":
    main()
