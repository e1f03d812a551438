"""What a stage does with calls: in the loop or by its thread, called off, too large, more of them than are taken."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from blyan.model.stepping import PagesLost, Run
from blyan.network.answers import Prompt
from blyan.network.link import Link
from blyan.primitives import limits
from blyan.primitives.errors import MalformedMessage
from blyan.wire.framing import Message
from blyan.wire.stage_call import message_of, parse_call
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
    with House(CONFIG, WEIGHTS, range(3)) as house:
        house.hosts[house.keys[0]]._passed_on_now = lambda *_: False
        with pytest.raises(PagesLost, match="67108864"):
            stepper_of(house, seconds=8.0).step(steps[0])


class Stuck:
    """A link on which nothing leaves."""

    async def tell(self, *_: object) -> None:
        await asyncio.Event().wait()

    def tell_now(self, *_: object) -> bool:
        return False


def test_calls_that_nobody_takes_have_a_limit_though_each_is_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "stage_queue_max", 8)
    with House(CONFIG, WEIGHTS, range(1), range(1, 3)) as house:
        host = house.hosts[house.keys[0]]
        stepper_of(house, seconds=30.0).step(steps_of()[0])
        (message,) = (each for own, _, what, each in house.sent if what == "stage" and own == house.lead_key)
        call, passed = parse_call(message)
        host._link = lambda _node: cast(Link, Stuck())
        begin = cast(Prompt, host.handlers["stage"]).begin

        async def called_off() -> list[str]:
            for number in range(call.number + 1, call.number + 31):
                begin(house.links[house.keys[0], house.lead_key], message_of(replace(call, number=number), passed))
                await asyncio.sleep(0.005)
            (lease,) = host.leases
            assert lease.under_way == len(host._carrying) == 8
            return []

        house.run(called_off())
        assert host.counters.refused == 1, "and those after it do not follow on"
        for each in host._carrying:
            house.thread.loop.call_soon_threadsafe(each.cancel)
