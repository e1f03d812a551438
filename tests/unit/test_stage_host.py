"""What a stage does with calls: in the loop or by its thread, called off, too large, more of them than are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from blyan.inference.stage_host import StageHost
from blyan.inference.stage_passing import Passing
from blyan.model.stepping import PagesLost, Run
from blyan.network.answers import Prompt
from blyan.network.link import Link
from blyan.primitives import limits
from blyan.primitives.errors import Busy, InvalidInput, MalformedMessage
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed, StageCall, message_of, parse_call
from random_models import RandomWeights, small_config
from stage_links import FakeLink, House, compared, right_of, stepper_of, steps_of

CONFIG = small_config()
WEIGHTS = RandomWeights(CONFIG)


def test_small_calls_are_computed_without_the_thread_and_large_ones_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blyan.inference.stage_host._quick_seconds", 5.0)
    steps = steps_of()
    with House(CONFIG, WEIGHTS, range(3)) as house:
        host = house.hosts[house.keys[0]]
        used: list[int] = []
        house.before_layers = lambda: used.append(host.queue)
        right = right_of(house, steps)
        stepper = stepper_of(house)
        compared(stepper.step(steps[0]), right[0])
        compared(stepper.step(steps[1]), right[1])
        monkeypatch.setattr("blyan.inference.stage_host._quick_seconds", -1.0)
        stepper.step([Run((1,), 0, (6,), 1)])
        assert used == [1, 0, 1], "nothing was measured at first"
    assert np.isfinite(right[0][0].scores).all()


def test_a_call_that_is_called_off_in_the_turn_in_which_it_came_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link on which it came ended: the lease is free for the next call, and the lead has what it asked for."""
    monkeypatch.setattr("blyan.inference.stage_host._quick_seconds", 0.0)  # by the thread
    steps = steps_of()
    with House(CONFIG, WEIGHTS, range(3)) as house:
        host = house.hosts[house.keys[0]]
        begin = cast(Prompt, host.handlers["stage"]).begin

        def called_off(link: Link, message: Message) -> Message:
            begin(link, message)
            return Message({}, ())

        house.handlers[house.keys[0]] = {**host.handlers, "stage": Prompt(called_off)}
        stepper = stepper_of(house)
        for runs, right in zip(steps, right_of(house, steps), strict=True):
            compared(stepper.step(runs), right)
        assert [lease.under_way for lease in host.leases] == [0]


def test_an_output_that_fits_in_no_frame_is_said_to_the_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait until it is late."""
    steps = steps_of()
    tell = FakeLink.tell

    async def told(self: FakeLink, kind: str, fields: dict[str, Any], tensors: Any = ()) -> None:
        if kind == "stage_end" and tensors:
            raise MalformedMessage("frame: expected at most 67108864 bytes, found more")
        await tell(self, kind, fields, tensors)

    monkeypatch.setattr(FakeLink, "tell", told)
    monkeypatch.setattr(Passing, "now", lambda *_: False)
    with House(CONFIG, WEIGHTS, range(3)) as house, pytest.raises(PagesLost, match="67108864"):
        stepper_of(house, seconds=8.0).step(steps[0])


class Stuck:
    """A link on which nothing leaves."""

    async def tell(self, *_: object) -> None:
        await asyncio.Event().wait()

    def tell_now(self, *_: object) -> bool:
        return False


@pytest.fixture
def sent() -> Iterator[tuple[House, StageHost, StageCall, Passed]]:
    """A stage that cannot pass on, and what a lead sent to it."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3)) as house:
        host = house.hosts[house.keys[0]]
        stepper_of(house, seconds=30.0).step(steps_of()[0])
        (message,) = (each for own, _, what, each in house.sent if what == "stage" and own == house.lead_key)
        host._telling.link = lambda _node: cast(Link, Stuck())
        yield house, host, *parse_call(message)
        for each in list(host._carrying._of):
            house.thread.loop.call_soon_threadsafe(each.cancel)


async def many(house: House, host: StageHost, call: StageCall, passed: Passed, count: int) -> list[object]:
    """So many calls that follow on, each called off at once: what is said to the first that is refused."""
    begin = cast(Prompt, host.handlers["stage"]).begin
    for number in range(call.number + 1, call.number + 1 + count):
        made = begin(house.links[house.keys[0], house.lead_key], message_of(replace(call, number=number), passed))
        if isinstance(made, partial) and made.func == host._refused:
            return [made.args[1]]
        await asyncio.sleep(0.005)
    return []


@pytest.mark.parametrize("limit", ["stage_queue_max", "stage_queue_lead_max"])
def test_calls_that_nobody_takes_have_a_limit_though_each_is_called_off(
    sent: tuple[House, StageHost, StageCall, Passed], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """All together, and a lead has its share: 8 of either, and those after it do not follow on."""
    house, host, call, passed = sent
    monkeypatch.setattr(limits, limit, 8)
    (found,) = house.run(many(house, host, call, passed, 30))
    (lease,) = host.leases
    assert isinstance(found, Busy) and "fewer than 8" in str(found)
    assert lease.under_way == len(host._carrying) == 8
    assert host.counters.refused == 1


@pytest.mark.parametrize("limit", ["stage_bytes_max", "stage_bytes_lead_max"])
def test_all_bytes_of_calls_that_nobody_takes_count(
    sent: tuple[House, StageHost, StageCall, Passed], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    house, host, call, passed = sent
    monkeypatch.setattr(limits, limit, 4 * (passed.size + call.bytes))
    (found,) = house.run(many(house, host, call, passed, 30))
    assert isinstance(found, Busy) and "bytes" in str(found)
    assert len(host._carrying) == 4


def test_a_call_names_no_more_pages_and_experts_than_it_can_have(
    sent: tuple[House, StageHost, StageCall, Passed],
) -> None:
    """What is named is kept while it is passed on."""
    house, host, call, passed = sent
    run = call.runs[0]
    more_pages = replace(call, runs=(run._replace(pages=run.pages * 2), *call.runs[1:]))
    more_chosen = replace(passed, chosen=bytes(2 * call.count * CONFIG.experts_per_token * 500))
    for changed in ((more_pages, passed), (call, more_chosen)):
        (found,) = house.run(many(house, host, *changed, 1))
        assert isinstance(found, InvalidInput) and "pages" in str(found)
    assert not host._carrying


def test_a_lead_is_told_of_a_refusal_in_the_turn_in_which_the_call_came() -> None:
    """Also if who sent it calls it off before anything else is done."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3)) as house:
        host = house.hosts[house.keys[0]]
        stepper_of(house, seconds=30.0).step(steps_of()[0])
        (message,) = (each for own, _, what, each in house.sent if what == "stage" and own == house.lead_key)

        async def again() -> None:
            with pytest.raises(InvalidInput, match="expected number"):
                cast(Prompt, host.handlers["stage"]).begin(house.links[house.keys[0], house.lead_key], message)
            await asyncio.sleep(0.05)

        house.run(again())
        told = [each.fields for own, to, what, each in house.sent if (own, to) == (house.keys[0], house.lead_key)]
        assert "expected number" in told[-1]["fault"]["message"]


def test_what_a_lease_gave_is_given_up_with_it(sent: tuple[House, StageHost, StageCall, Passed]) -> None:
    """A lead that ends its session, or is silent, holds nobody up any more."""
    house, host, call, passed = sent

    async def ended() -> int:
        await many(house, host, call, passed, 5)
        (lease,) = host.leases
        assert len(host._carrying) == 5
        host.leases.end(lease)
        await asyncio.sleep(0.05)
        return len(host._carrying)

    assert house.run(ended()) == 0
