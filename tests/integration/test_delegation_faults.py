"""The node that generates an answer dies, stands still or vanishes on the way: the same tokens, a short pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from swarm_faults import PROMPT, TOKENS, asked_most, kill, passed, stop, survived, swallow, swarm_with
from swarm_nodes import Heard, Swarm, ask

__all__ = ["PROMPT", "TOKENS"]  # of which `expected` asks one node
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("whole_again")]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A gateway with the trunk alone that delegates, and two nodes with everything."""
    with swarm_with(tmp_path_factory.mktemp("delegation-faults"), "static_delegate", 2) as made:
        yield made


@pytest.mark.parametrize("fault", [kill, stop, swallow], ids=lambda fault: fault.__name__)
async def test_an_answer_survives_its_lead(swarm: Swarm, expected: Heard, fault: Callable[[Swarm, int], None]) -> None:
    """Killed, stopped or black-holed after twenty tokens; the other lead goes on."""
    both = (ask(swarm.gateway.url, PROMPT, max_tokens=16) for _ in swarm.experts)
    await asyncio.gather(*both)  # one each: neither reads its experts for the first time
    before, struck = passed(swarm), list[int]()

    def strike() -> None:
        """At the node that most came from."""
        struck.extend(asked_most(swarm, before))
        fault(swarm, struck[0])

    await survived(swarm, expected, strike, fault.__name__)
    assert struck
