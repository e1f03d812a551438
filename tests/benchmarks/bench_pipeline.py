"""Layers on other nodes: tokens a second through two stages near and far, drafts, long prompts, a stage that falls.

Back of the envelope. Two stages have two layers of the tiny model each, the first also its embeddings, the second its
head: a token is two hops (first to second and back) and one node's computing in two places, one after the other; the
gateway hears of it beside that. A hop on loopback is one way of a frame through TLS, WebSocket and two event loops:
about half a millisecond; one node alone needs about 3 ms, most of it for the head's 33 MB. So 4 to 5 ms, 200 tokens a
second, less what the gateway's process takes of the same two cores. With a round trip of R between each two nodes a
token waits for one: at 10 ms no more than 70 tokens a second, at 50 ms 18; over the gateway it would be half a round
trip more. Guesses that are right give several tokens for one and a half such waits. A prompt in four pieces keeps two
stages busy for four of five pieces' times, in more steps than one for more: 1.6 times one node, less hops and scores. A
stage that falls is noticed by its link, or by a call that is later than 250 ms and a ping that is not answered in as
long; then leases, and the tokens so far once more: half a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
from benched_node import completion, node_up
from draft_workload import asked_again, first
from far_links import make_far, seen, told
from harness import SMOKE, Page, milliseconds, percentile
from reference_models import BUILT_IN, Reference, reference

from blyan.node import builtin
from forked import Nursery
from swarm_nodes import Swarm, SwarmNode, linked_among, nothing, of_layers, part_of_builtin, part_of_checkpoint

MODEL = "smoke" if SMOKE else "tiny"
TOKENS = 24 if SMOKE else 128
RUNS = 1 if SMOKE else 5
LONG = 300 if SMOKE else 1_200
ANSWER = 32  # tokens to such a prompt
ROUND_TRIPS = (0.0, 0.01, 0.05)
GUESSED = 8
BOUND = (__doc__ or "").partition("\n\n")[2].strip()


def main() -> None:
    page = Page("pipeline", "Layers on other nodes", BOUND)
    model = reference(MODEL, ("fp32",))
    half = model.manifest("fp32").config.layers // 2
    spans = (range(half), range(half, model.manifest("fp32").config.layers))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        laid_out(model, root, spans)
        with page.part("tokens a second"):
            rates(page, model, root)
        with page.part("long prompts"):
            for steps in (str(LONG), None):
                prompts(page, model, root, steps)
            prompts(page, model, root, None, ROUND_TRIPS[1:])
    with tempfile.TemporaryDirectory() as folder, page.part("guessing ahead"):
        drafts(page, Path(folder))
    with tempfile.TemporaryDirectory() as folder, page.part("pauses where a stage falls"):
        root = Path(folder)
        laid_out(model, root, [*spans, *spans])
        pauses(page, model, root)
    page.write()


def laid_out(model: Reference, root: Path, spans: tuple[range, ...] | list[range]) -> None:
    """Data directories of a gateway without layers, and of a stage with each of these."""
    name, folder = model.model("fp32"), model.folder / "fp32"
    part_of_checkpoint(root / "gateway", folder, name, nothing, True)
    for number, span in enumerate(spans):
        part_of_checkpoint(root / f"stage{number}", folder, name, of_layers(span), span)


@contextlib.contextmanager
def swarm_of(root: Path, count: int, *, direct: bool = False, **settings: str) -> Iterator[Swarm]:
    """The gateway and its stages, each linked to each, through proxies or not."""
    with Nursery() as nursery:
        gateway = SwarmNode(root / "gateway", nursery, plan="pipeline", **settings)
        stages = [SwarmNode(root / f"stage{number}", nursery, roles="stage") for number in range(count)]
        with Swarm(gateway, stages, direct=direct) as swarm:
            linked_among(stages)
            yield swarm


def jitted(swarm: Swarm, ask: Callable[[], object]) -> None:
    """Ask until those that are asked compute with jitted code, and the gateway scores with it; then a few times more.

    Where there are more stages than two, of each half one is asked.
    """
    end = time.monotonic() + 300
    while sum(any("is computed by the jitted step" in line for line in node.said) for node in nodes(swarm)) < 3:
        assert time.monotonic() < end, "expected jitted code on three nodes within 300 s"
        ask()
        time.sleep(0.2)
    for _ in range(3):
        ask()


def nodes(swarm: Swarm) -> list[SwarmNode]:
    return [swarm.gateway, *swarm.experts]


def delayed(swarm: Swarm, round_trip: float) -> None:
    make_far(swarm.proxies, round_trip)


def asked(url: str, body: Mapping[str, object], at: Mapping[int, Callable[[], object]] | None = None) -> Heard:
    return asyncio.run(heard(url, body, at or {}))


class Heard:
    """Tokens of an answer, and when they came, from when it was asked."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.moments: list[tuple[float, int]] = []  # seconds, and tokens by then

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        (began, before), (ended, count) = self.moments[0], self.moments[-1]
        return (count - before) / (ended - began)

    @property
    def pause(self) -> float:
        """The longest wait between two tokens."""
        times = [moment for moment, _ in self.moments]
        return max(after - before for before, after in pairwise(times))


async def heard(url: str, body: Mapping[str, object], at: Mapping[int, Callable[[], object]]) -> Heard:
    """One streamed completion; `at` says what is to happen when so many tokens have come."""
    found, began = Heard(), time.perf_counter()
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with aiohttp.ClientSession(url) as session, session.post(path, json=dict(body)) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            new = [each for choice in event["choices"] for each in choice.get("token_ids") or []]
            before = len(found.tokens)
            found.tokens += new
            if new:
                found.moments.append((time.perf_counter() - began, len(found.tokens)))
            for number in at:
                if before < number <= len(found.tokens):
                    await asyncio.to_thread(at[number])
    return found


def rates(page: Page, model: Reference, root: Path) -> None:
    """Tokens a second of one stream without guesses, near and far, and of one node."""
    body = completion(model.model("fp32"), model.prompt(16, 1), TOKENS)
    found: dict[float, list[float]] = {}
    alone: list[float] = []
    tokens: set[tuple[int, ...]] = set()

    def measure(url: str, rates: list[float]) -> None:
        answer = asked(url, body)
        rates.append(answer.rate)
        tokens.add(tuple(answer.tokens))

    with swarm_of(root, 2, direct=True) as swarm, node_up(model.data_dir, BLYAN_COMPUTE__THREADS="1") as whole:
        jitted(swarm, lambda: asked(swarm.gateway.url, body))
        whole.jitted(model.model("fp32"))
        for _ in range(RUNS):
            measure(swarm.gateway.url, found.setdefault(0.0, []))
            measure(whole.url, alone)
    with swarm_of(root, 2) as swarm:
        jitted(swarm, lambda: asked(swarm.gateway.url, body))
        for _ in range(RUNS):
            for round_trip in ROUND_TRIPS[1:]:
                delayed(swarm, round_trip)
                measure(swarm.gateway.url, found.setdefault(round_trip, []))
    assert len(tokens) == 1, "the same tokens wherever layers are"
    targets = (
        "≥ 120; Petals 28 to 44, llama.cpp RPC 183 to 194",
        "≥ 40; llama.cpp RPC 30.7",
        "≥ 10; llama.cpp RPC 8.6",
    )
    for (round_trip, each), target in zip(found.items(), targets, strict=True):
        where = f"links with a round trip of {round_trip * 1000:.0f} ms" if round_trip else "loopback"
        page.row(f"tokens a second through two stages, {where}", f"{percentile(each, 0.5):.1f}", target)
        if round_trip:
            page.row("a frame of 1,000 bytes and its echo over such a link", milliseconds(seen(told(round_trip))))
    page.row("tokens a second of one node alone, one thread", f"{percentile(alone, 0.5):.1f}")


def drafts(page: Page, root: Path) -> None:
    """Repetitive conversations with guesses and without: one trip verifies all guesses of a step.

    With the built-in model, which answers the same when it is asked again; random weights repeat nothing.
    """
    half = reference(BUILT_IN, ("fp32",)).manifest("fp32").config.layers // 2
    part_of_builtin(root / "gateway", nothing, True)
    for number, span in enumerate((range(half), range(half, 2 * half))):
        part_of_builtin(root / f"stage{number}", of_layers(span), span)
    requests = [body for _, body in first(asked_again(builtin.name, 3), 2 * RUNS)]
    answers: dict[float, dict[int, list[Heard]]] = {}
    for guessed in (0, GUESSED):
        with swarm_of(root, 2, inference__draft_tokens=str(guessed)) as swarm:
            jitted(swarm, lambda swarm=swarm: asked(swarm.gateway.url, requests[0]))
            for round_trip in ROUND_TRIPS:
                delayed(swarm, round_trip)
                answers.setdefault(round_trip, {})[guessed] = [asked(swarm.gateway.url, body) for body in requests]
    for round_trip, by in answers.items():
        plain, quick = by[0], by[GUESSED]
        assert [each.tokens for each in plain] == [each.tokens for each in quick], "guesses change no token"
        ratio = together(quick) / together(plain)
        said = f"{ratio:.2f} × as fast: {together(quick):.1f} tokens a second after the first"
        what = f"guesses, the built-in model asked again, round trip {round_trip * 1000:.0f} ms"
        page.row(what, said, "≥ 2 × at 10 and 50 ms")


def together(answers: list[Heard]) -> float:
    """Tokens a second after the first of each answer."""
    ends = [(*each.moments[0], *each.moments[-1]) for each in answers]
    seconds = sum(ended - began for began, _, ended, _ in ends)
    return sum(count - before for _, before, _, count in ends) / seconds


def prompts(page: Page, model: Reference, root: Path, steps: str | None, far: Sequence[float] = ()) -> None:
    """Seconds until the first token of prompts of over a thousand tokens, and of a whole answer to them.

    `steps`: the most tokens of a step and of a prompt in it; None for the defaults. `far`: round trips of links.
    """
    name = model.model("fp32")
    theirs = {} if steps is None else dict.fromkeys(("inference__step_tokens", "inference__prompt_tokens"), steps)
    own = {f"BLYAN_{name.upper()}": value for name, value in theirs.items()}
    said_of = "with the default settings" if steps is None else f"in steps of {steps} tokens"
    waits: dict[tuple[float, str], list[tuple[float, float]]] = {}  # until the first token, and until the last
    with (
        swarm_of(root, 2, direct=not far, **theirs) as swarm,
        node_up(model.data_dir, BLYAN_COMPUTE__THREADS="1", **own) as whole,
    ):
        short = completion(name, model.prompt(16, 1), 4)
        jitted(swarm, lambda: asked(swarm.gateway.url, short))
        whole.jitted(name)
        for seed in range(RUNS):
            for round_trip in far or (0.0,):
                if far:
                    delayed(swarm, round_trip)
                body = completion(name, model.prompt(LONG, 100 + seed + round(1e6 * round_trip)), ANSWER)
                said: list[list[int]] = []
                for who, url in (("two stages", swarm.gateway.url), ("one node", whole.url)):
                    answer = asked(url, body)
                    waits.setdefault((round_trip, who), []).append((answer.moments[0][0], answer.moments[-1][0]))
                    said.append(answer.tokens)
                assert said[0] == said[1], "the same tokens"
    for round_trip in far or (0.0,):
        where = f", links with a round trip of {round_trip * 1000:.0f} ms" if round_trip else ""
        for place, what in enumerate(("first token", f"whole answer of {ANSWER} tokens")):
            two, one = (
                percentile([each[place] for each in waits[round_trip, who]], 0.5) for who in ("two stages", "one node")
            )
            page.row(
                f"{what} after a prompt of {LONG} tokens, {said_of}, two stages of one thread{where}",
                milliseconds(two),
                f"one node of one thread: {milliseconds(one)}; 30 to 50 % less",
            )


def pauses(page: Page, model: Reference, root: Path) -> None:
    """The longest wait between two tokens of an answer in which one of the stages that are asked falls."""
    body = completion(model.model("fp32"), model.prompt(16, 1), TOKENS)
    with swarm_of(root, 4) as swarm:
        jitted(swarm, lambda: asked(swarm.gateway.url, body))
        calm = asked(swarm.gateway.url, body)
        page.row("longest pause of an answer in which nothing happens", milliseconds(calm.pause))
        for name in ("killed", "stopped", "black-holed"):
            what, longest = f"the same where a stage is {name}, worst of {RUNS}", 0.0
            with page.part(what):
                for run in range(RUNS):
                    place = busiest(swarm, lambda: asked(swarm.gateway.url, body))
                    found = asked(swarm.gateway.url, body, {TOKENS // 4 + run: falling(swarm, place, name)})
                    assert calm.tokens == found.tokens, "the same tokens as undisturbed"
                    longest = max(longest, found.pause)
                    restore(swarm, place)
                page.row(what, milliseconds(longest), "< 1 s")


def busiest(swarm: Swarm, ask: Callable[[], object]) -> int:
    """A stage that is asked now."""
    before = [proxy.up.passed for proxy in swarm.proxies]
    ask()
    passed = [proxy.up.passed - then for proxy, then in zip(swarm.proxies, before, strict=True)]
    return max(range(len(passed)), key=passed.__getitem__)


def falling(swarm: Swarm, place: int, how: str) -> Callable[[], object]:
    node = swarm.experts[place]
    if how == "killed":
        return node.kill
    return (lambda: node.send(signal.SIGSTOP)) if how == "stopped" else swarm.proxies[place].black_hole


def restore(swarm: Swarm, place: int) -> None:
    """The stage is back, and has its links."""
    node = swarm.experts[place]
    swarm.proxies[place].heal()
    if node.running:
        node.send(signal.SIGCONT)
        time.sleep(6)  # a link that was black-holed is cut and made anew
    else:
        node.start()
    swarm.gateway.wait_linked(swarm.experts)
    linked_among(swarm.experts)


if __name__ == "__main__":
    main()
