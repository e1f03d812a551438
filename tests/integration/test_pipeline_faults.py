"""A stage of a pipeline dies, stands still or vanishes in the middle of an answer: the same tokens, a short pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from swarm_faults import PROMPT, TOKENS, kill, stage_calls, stop, survived, swallow, swarm_of_halves
from swarm_nodes import Heard, Swarm, ask, linked_among

__all__ = ["PROMPT", "TOKENS"]  # of which `expected` asks one node
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.usefixtures("whole_again")]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A gateway without layers and two stages with each half of them, of which two are asked."""
    with swarm_of_halves(tmp_path_factory.mktemp("pipeline-faults")) as made:
        yield made


@pytest.mark.parametrize("told", [True, False], ids=["drawn by the lead", "drawn by the last stage"])
@pytest.mark.parametrize("fault", [kill, stop, swallow], ids=lambda fault: fault.__name__)
async def test_an_answer_survives_its_stage(
    swarm: Swarm, expected: Heard, fault: Callable[[Swarm, int], None], told: bool
) -> None:
    """Killed, stopped or black-holed after twenty tokens; others compute its layers, from the first token on."""
    linked_among(swarm.experts)
    before, struck = stage_calls(swarm), list[int]()

    def strike() -> None:
        calls = [now - then for now, then in zip(stage_calls(swarm), before, strict=True)]
        asked = [place for place, count in enumerate(calls) if count]
        assert len(asked) >= 2, "one of each half"
        struck.append(asked[0])
        fault(swarm, asked[0])

    if told:
        await survived(swarm, expected, strike, fault.__name__)
    else:
        alone = await ask(swarm.gateway.url, PROMPT, ignore_eos=True, max_tokens=TOKENS, told=False)
        await survived(swarm, alone, strike, f"{fault.__name__}, drawn by the last stage", told=False)
    assert struck
