"""Who is at fault where something goes wrong in a pipeline, and who is not: texts, ways, and the lead itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from blyan.model.sampling import Sampling
from blyan.model.stepping import Drawing, PagesLost, Run, RunFault, Stretch
from blyan.network.questions import LinkLost
from blyan.primitives.errors import BlockCorrupt, NotComputable
from blyan.wire.stage_lease import open_kind
from random_models import RandomWeights, small_config
from stage_links import House, compared, right_of, stepper_of

CONFIG = small_config()
WEIGHTS = RandomWeights(CONFIG)
SENT = [Run((1, 2), 0, (0,), 1)]
TWO = [Run((1, 2), 0, (0,), 1), Run((3, 4, 5), 0, (1,), 1)]


def overflowing(house: House, page: int) -> None:
    """An honest stage gets what is no number for sequences that begin on that page: their text makes it overflow."""

    def after(hidden: torch.Tensor, runs: Sequence[Stretch]) -> torch.Tensor:
        first, given = 0, hidden.clone()
        for run in runs:
            if run.pages[0] == page:
                given[first] = torch.inf
            first += run.rows
        return given

    house.after_layers = after


@pytest.mark.parametrize("lead", [range(0), range(1)])
def test_a_text_that_overflows_fails_alone_and_no_stage_is_left_for_it(lead: range) -> None:
    """Who is computed beside it gets the same bits; again and again, the stages are tested once."""
    with House(CONFIG, WEIGHTS, range(2), range(2, 3), lead=lead) as house:
        right = right_of(house, [TWO])[0]
        stepper = stepper_of(house)
        overflowing(house, 1)
        for _ in range(4):
            good, bad = stepper.step(TWO)
            compared([good], right[:1])
            assert isinstance(bad, RunFault)
            assert isinstance(bad.reason, NotComputable)
        house.after_layers = lambda hidden, _runs: hidden
        compared(stepper.step(TWO), right)
        peers = [house.lead.counters.of(key).lost for key in house.keys]
        assert (house.lead.counters.lost, house.lead.counters.sessions, peers) == (0, 1, [0, 0])
        assert sum(what == open_kind for _, _, what, _ in house.sent) == 4, "one lease each, and one test each"


def test_stages_that_took_the_place_of_sound_ones_are_tested_too() -> None:
    with House(CONFIG, WEIGHTS, range(3), range(3)) as house:
        right = right_of(house, [TWO])[0]
        stepper = stepper_of(house)
        overflowing(house, 1)
        stepper.step(TWO)
        first = stepper.nodes[0]
        house.lose(first)
        with pytest.raises(PagesLost):
            stepper.step(TWO)
        house.after_layers = lambda hidden, _runs: hidden * torch.nan
        with pytest.raises(PagesLost):
            stepper.step(TWO)
        assert house.lead.counters.of(next(key for key in house.keys if key != first)).lost == 1
        house.after_layers = lambda hidden, _runs: hidden
        compared(stepper.step(TWO), right)


def test_what_the_leads_own_layers_overflow_in_fails_alone_too() -> None:
    with House(CONFIG, WEIGHTS, range(3), lead=range(2)) as house:
        right = right_of(house, [TWO])[0]
        stepper = stepper_of(house)
        stepper.step(TWO)
        assert stepper._stages.own is not None
        layers = stepper._stages.own.current()
        through = layers.through

        def overflowed(hidden: torch.Tensor, runs: Any) -> Any:
            given, chosen = through(hidden, runs)
            given[2:] = torch.nan
            return given, chosen

        layers.through = overflowed  # type: ignore[method-assign]
        good, bad = stepper.step(TWO)
        compared([good], right[:1])
        assert isinstance(bad, RunFault)
        assert house.lead.counters.lost == 0


def test_where_a_leads_own_layers_cannot_be_made_its_leases_go_back_and_nothing_is_left_by_half() -> None:
    """What is said is why; whoever comes when they can be made is answered."""
    with House(CONFIG, WEIGHTS, range(3), lead=range(2)) as house:
        right = right_of(house, [SENT])[0]
        stepper, stages = stepper_of(house), house.hosts[house.keys[0]]
        led = stepper._stages.led

        def damaged(_: range) -> Any:
            raise BlockCorrupt("a block")

        stepper._stages.led = replace(led, layers=damaged)
        with pytest.raises(BlockCorrupt):
            stepper.step(SENT)
        until = time.monotonic() + 5
        while len(stages.leases) and time.monotonic() < until:
            time.sleep(0.002)
        assert (len(stages.leases), stepper._stages.current) == (0, None)
        stepper._stages.led = led
        compared(stepper.step(SENT), right)


def test_what_a_stage_says_of_another_counts_for_neither() -> None:
    """The way between them is left for a while, where another route has all layers."""
    with House(CONFIG, WEIGHTS, range(2), range(2, 3), range(2, 3)) as house:
        first, second, third = house.keys
        right = right_of(house, [SENT])[0]
        house.links[first, second].closed.set()
        stepper = stepper_of(house)
        with pytest.raises(PagesLost):
            stepper.step(SENT)
        stepper.step(SENT)
        compared(stepper.step(SENT), right)
        assert [house.lead.counters.of(key).lost for key in house.keys] == [0, 0, 0]
        assert house.lead.counters.lost == 1
        calls = [house.hosts[key].counters.calls for key in (second, third)]
        assert calls == [0, 2]


def test_a_first_stage_that_cannot_be_told_what_was_drawn_is_told_of_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the end the lead waits for nothing, and would learn of it by the next call's silence."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:

        async def lost(*_what: object, **_how: object) -> None:
            raise LinkLost("gone")

        cut = house.links[house.keys[1], house.keys[0]]
        monkeypatch.setattr(cut, "tell_now", lambda *_what, **_how: False)
        monkeypatch.setattr(cut, "tell", lost)
        with contextlib.suppress(PagesLost):
            stepper_of(house).step([Run((1, 2), 0, (0,), 1, reach=2, drawing=Drawing(Sampling(temperature=0.0), True))])
        ends = [message for _, _, what, message in house.sent if what == "stage_end"]
        assert ["fault" in each.fields for each in ends[:2]] == [True, False]
