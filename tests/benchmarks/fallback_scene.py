"""How long until experts are called when no node generates an answer: a gateway whose only lead is gone."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from benched_node import completion
from harness import SMOKE, Page, milliseconds, percentile
from network_swarm import ask
from reference_models import Reference

from forked import Nursery
from swarm_nodes import Swarm, SwarmNode, everything, nothing, part_of_checkpoint, wait_for

RUNS = 1 if SMOKE else 5
WARM = 4 if SMOKE else 20  # answers before, so that jitted code computes
_noticed_s = 3.0  # a lead that is silent for so long is known to be


def fallbacks(page: Page, model: Reference, root: Path) -> None:
    """The first token of a gateway that delegates and finds no lead, less that of one that calls experts at once."""
    name, folder = model.model("fp32"), model.folder / "fp32"
    for plan in ("static_delegate", "dynamic"):
        part_of_checkpoint(root / plan, folder, name, nothing, True)
    part_of_checkpoint(root / "lead", folder, name, everything, True)
    for number in range(2):
        part_of_checkpoint(root / f"expert{number}", folder, name, everything, False)
    with Nursery() as nursery:
        gateway = SwarmNode(root / "static_delegate", nursery, plan="static_delegate")
        beside = SwarmNode(root / "dynamic", nursery, plan="dynamic")
        lead = SwarmNode(root / "lead", nursery)
        experts = [SwarmNode(root / f"expert{number}", nursery) for number in range(2)]
        with Swarm(gateway, [lead, *experts]) as swarm:
            beside.settings |= {"join": gateway.settings["join"], "announce": "wss://127.0.0.1:9"}
            beside.start()
            try:
                beside.wait_linked([lead, *experts])
                _measured(page, model, swarm, beside)
            finally:
                beside.stop()


def _measured(page: Page, model: Reference, swarm: Swarm, beside: SwarmNode) -> None:
    lead, gateway = swarm.experts[0], swarm.gateway
    seeds = iter(range(1 << 22, 1 << 23))

    def first(node: SwarmNode) -> float:
        said = ask(node.url, completion(model.model("fp32"), model.prompt(12, next(seeds)), 4))
        assert not said.error, said.error
        return said.first

    def row(what: str, waited: float) -> None:
        found: list[float] = []
        for _ in range(RUNS):
            lead.send(signal.SIGSTOP)
            try:
                time.sleep(waited)
                found.append(first(gateway))
            finally:
                lead.send(signal.SIGCONT)
            for node in (gateway, beside):
                node.wait_linked([lead])
            time.sleep(1.0)
            for _ in range(4):  # the lead is asked again: what was held against it is over
                first(gateway)
        plain = percentile([first(beside) for _ in range(RUNS)], 0.5)
        page.row(what, milliseconds(percentile(found, 0.5) - plain), "< 100 ms")

    for _ in range(WARM):
        first(gateway)
        first(beside)
    row("until a gateway calls experts itself, its only lead stopped a moment ago", 0.0)
    row(f"the same, stopped {_noticed_s:g} s ago", _noticed_s)
    lead.kill()
    wait_for(lambda: lead.key[:12] not in gateway.linked(), "the lead gone")
    found = [first(gateway) for _ in range(RUNS)]
    plain = percentile([first(beside) for _ in range(RUNS)], 0.5)
    page.row("the same, killed", milliseconds(max(0.0, percentile(found, 0.5) - plain)), "< 100 ms")
