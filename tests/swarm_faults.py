"""What befalls nodes of a swarm of processes, whom it should befall, and how all is well again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from forked import Nursery
from nodes import install_builtin, serving
from swarm_nodes import Heard, Swarm, SwarmNode, ask, everything, nothing, of_layers, part_of_builtin, wait_for


def kill(swarm: Swarm, number: int) -> None:
    swarm.experts[number].kill()


def stop(swarm: Swarm, number: int) -> None:
    swarm.experts[number].send(signal.SIGSTOP)


def swallow(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].black_hole()


def reset(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].reset()


def half_close(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].half_close()


def corrupt(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].down.corrupt = 1


def slow(swarm: Swarm, number: int) -> None:
    swarm.proxies[number].delay(0.04, jitter_s=0.04)


def throttle(swarm: Swarm, number: int) -> None:
    for way in swarm.proxies[number].both:
        way.bytes_per_s = 20_000


FAULTS = [kill, stop, swallow, reset, half_close, corrupt]

PROMPT = "What is 12 plus 30?"
TOKENS = 60
FIRST, SECOND = range(2), range(2, 4)  # halves of the built-in model's layers
PAUSE_MAX_S = 3.0  # of a machine that does other things; what is aimed at is one


@contextmanager
def swarm_with(root: Path, plan: str, whole: int, roles: str = "expert") -> Iterator[Swarm]:
    """A gateway with the trunk alone that answers by a plan, and so many nodes with everything behind proxies."""
    part_of_builtin(root / "gateway", nothing, True)
    for number in range(whole):
        part_of_builtin(root / f"node{number}", everything, True)
    with Nursery() as nursery:
        gateway = SwarmNode(root / "gateway", nursery, plan=plan)
        others = [SwarmNode(root / f"node{number}", nursery, roles=roles) for number in range(whole)]
        with Swarm(gateway, others) as made:
            yield made


@contextmanager
def swarm_of_halves(root: Path) -> Iterator[Swarm]:
    """A gateway with the trunk alone that answers through stages, two with each half of the layers, behind proxies."""
    part_of_builtin(root / "gateway", nothing, True)
    for number, half in enumerate((FIRST, SECOND) * 2):
        part_of_builtin(root / f"node{number}", of_layers(half), half)
    with Nursery() as nursery:
        gateway = SwarmNode(root / "gateway", nursery, plan="pipeline", metrics__listen="127.0.0.1:0")
        stages = [SwarmNode(root / f"node{number}", nursery, roles="stage") for number in range(4)]
        with Swarm(gateway, stages) as made:
            yield made


def stage_calls(swarm: Swarm) -> list[float]:
    """Calls that came through each node as a stage, by what the gateway counts."""
    found = swarm.gateway.metrics()
    each = (f'blyan_peer_stage_calls_total{{peer="{node.key[:12]}"}}' for node in swarm.experts)
    return [found.get(name, 0.0) for name in each]


async def survived(swarm: Swarm, expected: Heard, strike: Callable[[], None], name: str, *, told: bool = True) -> None:
    """An answer in which something befalls a node after twenty tokens: the same tokens, a short pause."""
    found = await ask(swarm.gateway.url, PROMPT, at={20: strike}, ignore_eos=True, max_tokens=TOKENS, told=told)
    assert found.error is None
    assert found.tokens == expected.tokens
    print(f"{name}: longest pause {found.pause * 1000:.0f} ms, whole answer {found.seconds:.2f} s")
    assert found.pause < PAUSE_MAX_S


def restored(swarm: Swarm) -> None:
    """Every node runs, every link passes everything, and the gateway is linked to all."""
    for number, proxy in enumerate(swarm.proxies):
        swallowed = proxy.up.swallow
        proxy.heal()
        if swallowed:  # what vanished is missing in the midst of the link, if that was not cut yet
            ended = swarm.gateway.ended_links(swarm.experts[number])
            proxy.reset()
            wait_for(partial(unlinked_since, swarm, number, ended), "a link that was black-holed to end")
    for node in (*swarm.experts, swarm.gateway):
        if node.running:
            node.send(signal.SIGCONT)
        else:
            node.start()
    swarm.gateway.wait_linked(swarm.experts)


def unlinked_since(swarm: Swarm, number: int, ended: int) -> bool:
    """Whether the gateway has no link to a node, or its link ended since so many had."""
    node = swarm.experts[number]
    return node.key[:12] not in swarm.gateway.linked() or swarm.gateway.ended_links(node) > ended


def passed(swarm: Swarm) -> list[int]:
    """Bytes that went to and from each node."""
    return [sum(way.passed for way in proxy.both) for proxy in swarm.proxies]


def asked_most(swarm: Swarm, before: Sequence[int], count: int = 1) -> list[int]:
    """The nodes that most went to and came from since then, the busiest first."""
    since = [now - then for now, then in zip(passed(swarm), before, strict=True)]
    return sorted(range(len(since)), key=since.__getitem__, reverse=True)[:count]


def answers_alone(folder: Path, prompts: Sequence[str], tokens: int) -> dict[str, Heard]:
    """What one node that holds the whole built-in model answers, so many tokens each."""
    install_builtin(folder)

    async def answers() -> dict[str, Heard]:
        async with serving(folder) as client:
            url = str(client.make_url("/")).rstrip("/")
            return {prompt: await ask(url, prompt, ignore_eos=True, max_tokens=tokens) for prompt in prompts}

    found = asyncio.run(answers())
    assert all(len(each.tokens) == tokens for each in found.values())
    return found
