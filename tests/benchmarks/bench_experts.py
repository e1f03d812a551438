"""Experts on other nodes: one call, tokens a second near and far, the pause when a node falls, what verification costs.

Back of the envelope. A call of one row of the tiny model is 1.5 M multiplications (0.1 to 0.3 ms of a core) and two
frames of a kilobyte through TLS, WebSocket and two event loops: half a millisecond. With all experts remote a token
waits for one round trip in each of its four layers: at 10 ms no more than 25 tokens a second without drafts, less what
trunk, calls and their experts take. A node that falls is noticed by its connection, or by a call that is later than
nearly all were: tens of milliseconds. TLS and digests of some kilobytes are microseconds; a call is hundreds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
import torch
from benched_node import node_up
from far_links import make_far, seen, told
from harness import SMOKE, Page, both, milliseconds, percentile
from reference_models import Reference, reference
from worker_expert import End, leave_out_verification

from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall
from blyan.model.loading import LoadedModel
from blyan.network.connection import Connection
from blyan.network.dialling import Dialler, Expected
from blyan.network.link import Link
from blyan.primitives.clock import system_entropy, system_monotonic
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PayloadId
from blyan.wire import expert_call
from blyan.wire.expert_call import ExpertBatch, kind, nonce_bytes, packed, read_answer
from forked import Nursery
from nodes import install_builtin
from swarm_in_process import in_one_process
from swarm_nodes import Swarm, SwarmNode, ask, every, everything, nothing, part_of_builtin, part_of_checkpoint

MODEL = "smoke" if SMOKE else "tiny"
CALLS = 60 if SMOKE else 2_000
WARM = 50  # calls that are not counted
TOGETHER = 16  # calls one after the other over the same link, as those of four tokens are
TOKENS = 24 if SMOKE else 96
RUNS = 1 if SMOKE else 5
PAIRS = 1 if SMOKE else 5  # of processes, in each order: two equal ones differ by tens of microseconds a call
DIGEST = expert_call.digest_of  # as the product has it
PROMPT = "What is 12 plus 30?"
BOUND = (__doc__ or "").partition("\n\n")[2].strip()


def main() -> None:
    page = Page("experts", "Experts on other nodes", BOUND)
    model = reference(MODEL, ("fp32",))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifest = part_of_checkpoint(root / "gateway", model.folder / "fp32", model.model("fp32"), nothing, True)
        part_of_checkpoint(root / "expert", model.folder / "fp32", model.model("fp32"), everything, False)
        with page.part("calls of one row"):
            asyncio.run(one_call(page, model, root, manifest))
        with page.part("tokens a second, and what TLS, handshake and digests take of them"):
            near = rates(page, model, root)
            orders = (("link", "bare"), ("bare", "link"))  # of two equal ones the one that was begun first is slower
            costs = [asyncio.run(verification(model, order)) for order in PAIRS * orders]
            a_second = len(model.manifest("fp32").config.moe_layers) * near  # calls
            least, usual, most = (each * a_second for each in (min(costs), percentile(costs, 0.5), max(costs)))
            page.row(
                "TLS, handshake and digests, of the tokens a second on loopback",
                f"{usual:.1%}, {usual / a_second * 1e6:.0f} us a call; of {len(costs)} pairs of processes "
                f"{least:.1%} to {most:.1%}",
                "< 5 %",
            )
    with tempfile.TemporaryDirectory() as folder, page.part("pauses where a node falls"):
        pauses(page, Path(folder))
    page.write()


async def one_call(page: Page, model: Reference, root: Path, manifest: PayloadId) -> None:
    """Calls of one row by the gateway's executor, one after the other, of an expert node in another process."""
    with Nursery() as nursery:
        expert = SwarmNode(root / "expert", nursery, roles="expert")
        try:
            await asyncio.to_thread(expert.start)
            async with in_one_process(root / "gateway", [], join=(expert.join_url,)) as (gateway, _):
                executor = gateway.peering.executor
                begin = functools.partial(executor.begin, manifest)
                seconds = await asyncio.to_thread(call_after_call, begin, model.loaded("fp32"))
        finally:
            await asyncio.to_thread(expert.stop)
    page.row(f"a call of one row, {MODEL}, loopback", both(seconds[WARM:]), "p50 < 1 ms; hivemind 5.7 to 9.6 ms")


@torch.inference_mode()
def call_after_call(
    begin: Callable[[list[ExpertCall]], Future[list[torch.Tensor | Fault]]], model: LoadedModel
) -> list[float]:
    """Seconds of each call."""
    seconds: list[float] = []
    config = model.manifest.config
    for number in range(CALLS + WARM):
        call = ExpertCall(config.moe_layers[0], number % config.experts, torch.randn(1, config.hidden))
        began = time.perf_counter()
        (found,) = begin([call]).result(10)
        seconds.append(time.perf_counter() - began)
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, model.weights.answer(call))
    return seconds


def rates(page: Page, model: Reference, root: Path) -> float:
    """Tokens a second of one stream with all experts remote, near and far, and of one node; the near one."""
    name, prompt = model.model("fp32"), model.prompt(16, 1)
    tokens: set[tuple[int, ...]] = set()
    found: dict[str, list[float]] = {}

    def measure(where: str, url: str) -> None:
        rate, said = asyncio.run(decoded(url, name, prompt))
        found.setdefault(where, []).append(rate)
        tokens.add(tuple(said))

    with swarm_of_two(root, direct=True) as swarm, node_up(model.data_dir, BLYAN_COMPUTE__THREADS="1") as whole:
        for _ in range(RUNS + 1):
            measure("near", swarm.gateway.url)
            measure("alone", whole.url)
    with swarm_of_two(root, direct=False) as swarm:
        make_far(swarm.proxies, 0.01)
        for _ in range(RUNS + 1):
            measure("far", swarm.gateway.url)
    assert len(tokens) == 1, "the same tokens wherever experts are"
    near, alone, far = (percentile(each[1:], 0.5) for each in found.values())
    page.row("tokens a second, all experts on another node, loopback", f"{near:.1f}", f"one node alone: {alone:.1f}")
    page.row("the same over links with a round trip of 10 ms", f"{far:.1f}", "≥ 18; at most 25; llama.cpp RPC 3.9")
    page.row("a frame of 1,000 bytes and its echo over such a link", milliseconds(seen(told(0.01))))
    return near


@contextlib.contextmanager
def swarm_of_two(root: Path, *, direct: bool) -> Iterator[Swarm]:
    """A gateway and a node with all experts, linked with a proxy between or not."""
    with Nursery() as nursery:
        gateway, expert = SwarmNode(root / "gateway", nursery), SwarmNode(root / "expert", nursery)
        with Swarm(gateway, [expert], direct=direct) as swarm:
            yield swarm


async def decoded(url: str, model: str, prompt: list[int]) -> tuple[float, list[int]]:
    """Tokens a second after the first, and the tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "return_token_ids": True}
    times: list[float] = []
    tokens: list[int] = []
    async with aiohttp.ClientSession(url) as session, session.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                new = [each for choice in choices for each in choice.get("token_ids") or []]
                if new:
                    times.append(time.perf_counter())
                    tokens += new
    assert len(tokens) == TOKENS
    return (TOKENS - 1) / (times[-1] - times[0]), tokens


async def verification(model: Reference, order: tuple[str, str]) -> float:
    """Seconds that a call takes longer over a link than over a bare socket, whose workers begin in that order.

    They are two processes each time, for equal ones are not equally quick.
    """
    seconds: dict[str, list[float]] = {"link": [], "bare": []}
    with worker(model, order[0]) as first, worker(model, order[1]) as second:
        ports = dict(zip(order, (first, second), strict=True))
        end = End()
        dialler = Dialler(end.identity, end.swarm, {}, system_monotonic, system_entropy)
        bare = await Connection.open(urlsplit(f"http://127.0.0.1:{ports['bare']}"), None, "", 10)
        socket = await bare.upgraded("127.0.0.1", "/", {}, system_entropy(16), 1 << 26)
        links = {
            "link": await dialler.dial(f"wss://127.0.0.1:{ports['link']}", Expected(), end.summary()),
            "bare": Link(socket, end.summary(), {}, system_monotonic, dialled=True),
        }
        reading = [asyncio.create_task(each.run()) for each in links.values()]
        config = model.manifest("fp32").config
        for part in range((CALLS + WARM) // TOGETHER):
            for name in ("link", "bare") if part % 2 else ("bare", "link"):
                leave_out_verification() if name == "bare" else setattr(expert_call, "digest_of", DIGEST)
                for number in range(part * TOGETHER, (part + 1) * TOGETHER):
                    seconds[name].append(await called(links[name], model, config, number))
        for each in links.values():
            await each.close()
        await asyncio.gather(*reading)
    return percentile(seconds["link"][WARM:], 0.5) - percentile(seconds["bare"][WARM:], 0.5)


async def called(link: Link, model: Reference, config: ModelConfig, number: int) -> float:
    """Seconds of one call of two experts with a row each, as a token makes it."""
    experts = tuple(sorted({number % config.experts, (number + 1) % config.experts}))
    rows = torch.randn(len(experts), config.hidden)
    began = time.perf_counter()
    batch = ExpertBatch(
        model.manifests["fp32"],
        config.moe_layers[0],
        experts,
        (1,) * len(experts),
        config.hidden,
        "F32",
        "exact",
        10_000,
        system_entropy(nonce_bytes).hex(),
    )
    call = packed(batch, rows.numpy().tobytes())
    answer = await link.request(kind, batch.fields(), (call,), seconds=10)
    read_answer(batch, call, answer)
    return time.perf_counter() - began


@contextlib.contextmanager
def worker(model: Reference, how: str) -> Iterator[int]:
    """`worker_expert` in its own process, and its port."""
    command = [
        sys.executable,
        Path(__file__).with_name("worker_expert.py"),
        model.data_dir,
        model.manifests["fp32"],
        how,
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def pauses(page: Page, root: Path) -> None:
    """The longest wait between two tokens of an answer of the built-in model in which one of four nodes falls."""
    part_of_builtin(root / "gateway", nothing, True)
    for number in range(4):
        part_of_builtin(root / f"expert{number}", every(4, number, (number + 1) % 4), False)
    install_builtin(root / "whole")
    with Nursery() as nursery:
        experts = [SwarmNode(root / f"expert{number}", nursery) for number in range(4)]
        with Swarm(SwarmNode(root / "gateway", nursery), experts) as swarm:
            asyncio.run(answer(swarm, {}))
            expected, calm = asyncio.run(answer(swarm, {}))
            page.row("longest pause of an answer in which nothing happens", milliseconds(calm))
            for name in ("killed", "stopped", "black-holed"):
                what, longest = f"the same where the node that is asked most is {name}, worst of {RUNS}", 0.0
                with page.part(what):
                    for run in range(RUNS):
                        place = busiest(swarm)
                        tokens, pause = asyncio.run(answer(swarm, {10 + 5 * run: falling(swarm, place, name)}))
                        assert tokens == expected, "the same tokens as undisturbed"
                        longest = max(longest, pause)
                        restore(swarm, place)
                    page.row(what, milliseconds(longest), "< 1 s")


def busiest(swarm: Swarm) -> int:
    """Which expert node is asked most now."""
    before = [proxy.up.passed for proxy in swarm.proxies]
    asyncio.run(answer(swarm, {}))
    passed = [proxy.up.passed - then for proxy, then in zip(swarm.proxies, before, strict=True)]
    return max(range(len(passed)), key=passed.__getitem__)


def falling(swarm: Swarm, place: int, how: str) -> Callable[[], object]:
    node = swarm.experts[place]
    if how == "killed":
        return node.kill
    return (lambda: node.send(signal.SIGSTOP)) if how == "stopped" else swarm.proxies[place].black_hole


async def answer(swarm: Swarm, at: dict[int, Callable[[], object]]) -> tuple[list[str], float]:
    heard = await ask(swarm.gateway.url, PROMPT, at=at, max_tokens=90, ignore_eos=True)
    assert heard.error is None, heard.error
    return heard.tokens, heard.pause


def restore(swarm: Swarm, place: int) -> None:
    """The node is back, and has its link."""
    swarm.proxies[place].heal()
    node = swarm.experts[place]
    if node.running:
        node.send(signal.SIGCONT)
        time.sleep(6)  # a link that was black-holed is cut and made anew
    else:
        node.start()
    swarm.gateway.wait_linked(swarm.experts)


if __name__ == "__main__":
    main()
