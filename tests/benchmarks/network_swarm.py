"""Gateways of every plan before the same four nodes, every link through a proxy that delays it; and what befalls nodes.

Each of the four holds the whole model and does everything for others: experts, whole answers, layers. A gateway has
the trunk alone. Beside them one node that holds everything, asked directly, computes with as many threads as each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
from benched_node import BenchedNode, completion, node_up
from network_work import PLANS, Distance
from reference_models import Reference

from blyan.learning.draws import Draws
from chaos_proxy import ChaosProxy
from forked import Nursery
from swarm_nodes import CODE, SwarmNode, everything, nothing, part_of_checkpoint, wait_for

WORKERS = 4
_counted = ("blyan_remote_calls_total", "blyan_delegated_total", "blyan_pipeline_calls_total")
_answer_seconds = 300.0
_slow_turn_s = 0.004  # that a slowed node runs at a time


@dataclass
class Heard:
    """One answer as it came."""

    tokens: list[int] = field(default_factory=list[int])
    moments: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])  # seconds, and tokens by then
    error: str = ""

    @property
    def first(self) -> float:
        """Seconds until the first token."""
        return self.moments[0][0]

    @property
    def whole(self) -> float:
        """Seconds until the last."""
        return self.moments[-1][0]

    @property
    def waits(self) -> list[float]:
        """Between tokens; several that came together share what was waited for them."""
        found: list[float] = []
        for (before, had), (after, has) in itertools.pairwise(self.moments):
            found += [(after - before) / (has - had)] * (has - had)
        return found

    @property
    def pause(self) -> float:
        """The longest wait between two events."""
        return max((after - before for (before, _), (after, _) in itertools.pairwise(self.moments)), default=0.0)


def ask(url: str, body: Mapping[str, object], at: Mapping[int, Callable[[], object]] | None = None) -> Heard:
    """One streamed completion; `at` says what is to happen when so many tokens have come."""
    found = Heard()
    try:
        asyncio.run(_heard(url, body, at or {}, found))
    except (aiohttp.ClientError, TimeoutError) as reason:
        found.error = f"{type(reason).__name__}: {reason}"
    return found


async def _heard(url: str, body: Mapping[str, object], at: Mapping[int, Callable[[], object]], found: Heard) -> None:
    began = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=_answer_seconds)
    async with (
        aiohttp.ClientSession(url, timeout=timeout) as session,
        session.post("/v1/completions", json=dict(body)) as response,
    ):
        if response.status != 200:
            found.error = (await response.text())[:300]
            return
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                found.error = str(event["error"])[:300]
                return
            new = [each for choice in event["choices"] for each in choice.get("token_ids") or []]
            before = len(found.tokens)
            found.tokens += new
            if new:
                found.moments.append((time.perf_counter() - began, len(found.tokens)))
            for number in at:
                if before < number <= len(found.tokens):
                    await asyncio.to_thread(at[number])


def laid_out(model: Reference, root: Path, kind: str = "fp32") -> None:
    """The data directories of gateways and nodes."""
    for plan in PLANS:
        part_of_checkpoint(root / f"gateway-{plan}", model.folder / kind, model.model(kind), nothing, True)
    for number in range(WORKERS):
        part_of_checkpoint(root / f"worker{number}", model.folder / kind, model.model(kind), everything, True)


@dataclass
class Contenders:
    """What is measured. The proxy of a node is before everybody who dials it."""

    gateways: dict[str, SwarmNode]
    workers: list[SwarmNode]
    proxies: list[ChaosProxy]
    whole: BenchedNode

    @property
    def nodes(self) -> list[SwarmNode]:
        """All but the one that is alone."""
        return [*self.gateways.values(), *self.workers]

    def move(self, distance: Distance, seed: int) -> list[float]:
        """Everybody is so far from everybody now; the round trips in the middle of what each link takes."""
        draws, middles = Draws(seed), list[float]()
        for proxy in self.proxies:
            least, jitter = distance.link(draws)
            proxy.delay(least, jitter)
            middles.append(least + jitter / 2)
        return middles

    def trips(self, plan: str) -> float:
        """Messages that a gateway sent to have something computed, so far."""
        found = self.gateways[plan].metrics()
        return sum(found.get(name, 0.0) for name in _counted)

    def plans(self, plan: str) -> dict[str, float]:
        """How many answers of a gateway went by which plan, so far."""
        found = self.gateways[plan].metrics()
        return {each: found.get(f'blyan_plans_total{{plan="{each}"}}', 0.0) for each in ("local", *PLANS)}

    def calls(self, plan: str) -> tuple[float, float]:
        """Calls of a gateway that came through pipelines so far, and stages that they went through in all."""
        found = self.gateways[plan].metrics()
        stages = sum(value for name, value in found.items() if name.startswith("blyan_peer_stage_calls_total"))
        return found.get("blyan_pipeline_calls_total", 0.0), stages

    def busiest(self, before: list[int]) -> int:
        """The node that generates an answer for another now, else that most bytes went to and from since then."""
        leading = [place for place, each in enumerate(self.workers) if each.metrics().get("blyan_led_under_way")]
        if leading:
            return leading[0]
        now = self.passed()
        return max(range(WORKERS), key=lambda place: now[place] - before[place])

    def passed(self) -> list[int]:
        """Bytes through each proxy so far."""
        return [proxy.up.passed + proxy.down.passed for proxy in self.proxies]

    def wait_linked(self) -> None:
        """Until every link is up that there should be."""
        keys = {worker.key[:12] for worker in self.workers}
        wait_for(lambda: all(keys - {node.key[:12]} <= node.linked() for node in self.nodes), "every link", 60)


@contextlib.contextmanager
def contenders(model: Reference, root: Path, kind: str = "fp32") -> Iterator[Contenders]:
    """All of them up, linked, and computing in jitted code."""
    with contextlib.ExitStack() as stack:
        nursery = stack.enter_context(Nursery())
        proxies = list[ChaosProxy]()
        workers = list[SwarmNode]()
        for number in range(WORKERS):
            worker = SwarmNode(root / f"worker{number}", nursery, roles="gateway,expert,stage")
            proxy = stack.enter_context(ChaosProxy(worker.peer_port, seed=number))
            proxy.patience_s = 30.0  # until it has started
            worker.settings |= {"announce": f"wss://127.0.0.1:{proxy.port}", "metrics__listen": "127.0.0.1:0"}
            workers.append(worker)
            proxies.append(proxy)
        joined = ",".join(f"wss://127.0.0.1:{proxy.port}#{CODE}" for proxy in proxies)
        gateways = {
            plan: SwarmNode(
                root / f"gateway-{plan}",
                nursery,
                plan=plan,
                join=joined,
                announce="wss://127.0.0.1:9",  # where nobody listens: nobody dials a gateway
                metrics__listen="127.0.0.1:0",
            )
            for plan in PLANS
        }
        nodes = [*workers, *gateways.values()]
        for node in nodes:
            stack.callback(node.stop)
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(SwarmNode.start, nodes))
        for proxy in proxies:
            proxy.patience_s = 0.0
        whole = stack.enter_context(node_up(model.data_dir, BLYAN_COMPUTE__THREADS="1"))
        made = Contenders(gateways, workers, proxies, whole)
        made.wait_linked()
        _warm(made, model, kind)
        yield made


def _warm(made: Contenders, model: Reference, kind: str) -> None:
    """Ask until those who are asked compute with jitted code."""
    name = model.model(kind)
    seeds = itertools.count(1 << 20)
    made.whole.jitted(name)
    end = time.monotonic() + 300

    def jitted(node: SwarmNode) -> int:
        return sum("is computed by the jitted step" in line for line in node.said)

    computing = [gateway for plan, gateway in made.gateways.items() if plan not in ("static_delegate", "auto")]
    while any(jitted(worker) < 2 for worker in made.workers) or not all(map(jitted, computing)):
        assert time.monotonic() < end, "expected jitted code within 300 s"
        for node in made.nodes:  # the four themselves too: as they compute for others who ask for a whole answer
            for count in (4, 80):
                said = ask(node.url, completion(name, model.prompt(count, next(seeds)), 4))
                assert not said.error, said.error


@dataclass
class Fate:
    """What befalls the node that is busiest, once; `undo` makes it good."""

    made: Contenders
    name: str
    draws: Draws
    place: int | None = None
    _before: list[int] = field(default_factory=list[int])
    _ended: threading.Event = field(default_factory=threading.Event)
    _turns: threading.Thread | None = None

    def begin(self) -> None:
        """From now on what passes is counted."""
        self._before = self.made.passed()

    def strike(self) -> None:
        """Now."""
        self.place = self.made.busiest(self._before)
        node, proxy = self.made.workers[self.place], self.made.proxies[self.place]
        if self.name == "killed":
            node.kill()
        elif self.name == "stopped":
            node.send(signal.SIGSTOP)
        elif self.name == "black-holed":
            proxy.black_hole()
        else:
            factor = 2 + self.draws.below(9)
            self._turns = threading.Thread(target=self._slowed, args=(node.pid, factor))
            self._turns.start()

    def undo(self) -> None:
        """The node is as the others again, and linked."""
        if self.place is None:
            return
        node, proxy = self.made.workers[self.place], self.made.proxies[self.place]
        if self._turns is not None:
            self._ended.set()
            self._turns.join()
        if self.name == "killed":
            node.start()
        elif self.name == "stopped":
            node.send(signal.SIGCONT)
            time.sleep(1.0)  # what lies in its sockets is read, and links that were given up end
        elif self.name == "black-holed":
            proxy.black_hole(on=False)
            proxy.reset()  # what was swallowed is missing in the middle of every connection
            time.sleep(1.0)
        self.made.wait_linked()

    def _slowed(self, pid: int, factor: int) -> None:
        """The process runs for one of so many turns."""
        while not self._ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            self._ended.wait(_slow_turn_s * (factor - 1))
            os.kill(pid, signal.SIGCONT)
            time.sleep(_slow_turn_s)
