"""Layers at stages elsewhere give the plain stepper's numbers; what is not meant for a stage is not computed with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from blyan.inference.pipeline_step import PipelineStepper
from blyan.model.eager_step import EagerStepper
from blyan.model.stepping import KVPages, PagesLost, Run
from blyan.network.questions import Refused
from blyan.primitives import limits
from blyan.primitives.errors import StageUnavailable
from blyan.wire.framing import Message, WireTensor
from blyan.wire.stage_call import Passed, end_of, message_of, parse_call
from blyan.wire.stage_call import kind as stage_kind
from blyan.wire.stage_lease import StageOpen, open_kind
from blyan.wire.stage_shapes import Hop
from random_models import RandomWeights, small_config
from stage_links import MODEL, House, compared, right_of, stepper_of, steps_of

CONFIG = small_config()
WEIGHTS = RandomWeights(CONFIG)
WHOLE = range(3)


@pytest.fixture
def house() -> Iterator[House]:
    """Three stages that hold everything, one too many."""
    with House(CONFIG, WEIGHTS, WHOLE, WHOLE, WHOLE) as made:
        yield made


@pytest.mark.parametrize("spans", [(WHOLE,), (range(1), range(1, 3)), (range(1), range(1, 2), range(2, 3))])
def test_stages_change_no_bit(spans: tuple[range, ...]) -> None:
    steps = steps_of()
    with House(CONFIG, WEIGHTS, *spans) as house:
        stepper = stepper_of(house)
        for runs, right in zip(steps, right_of(house, steps), strict=True):
            compared(stepper.step(runs), right)
        stepper.close()
        assert all(host.counters.calls == 2 for host in house.hosts.values())


def test_hidden_states_go_straight_from_stage_to_stage(house: House) -> None:
    stepper = stepper_of(house)
    stepper.step([Run((1, 2), 0, (0,), 1)])
    ways = [(own, other) for own, other, what, _ in house.sent if what in ("stage", "stage_end")]
    one, two, _ = house.keys
    assert ways == [(house.lead_key, one), (one, two), (two, house.lead_key)]


def test_a_long_prompt_goes_in_pieces_of_which_several_are_under_way(house: House) -> None:
    """Cut through the middle of runs; the scores are those of one piece, up to the order of sums."""
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, CONFIG.vocab_size, (300,), generator=draw).tolist()
    runs = [Run(tuple(tokens[:230]), 0, tuple(range(8)), 90, hidden=True), Run(tuple(tokens[230:]), 0, (8, 9, 10), 1)]
    plain = EagerStepper(WEIGHTS, CONFIG, KVPages(CONFIG, torch.float32, 11))
    all_sent = threading.Event()
    begun: list[int] = []

    def tamper(kind: str, message: Message) -> Message:
        begun.extend([message.fields["number"]] if kind == "stage" and message.fields["route"] else [])
        if len(begun) == limits.stage_pieces_max:
            all_sent.set()
        return message

    house.tamper = tamper
    house.before_layers = lambda: all_sent.wait(5)
    began = time.monotonic()
    compared(stepper_of(house, 11).step(runs), plain.step(runs), 1e-5)
    assert begun == [1, 2, 3, 4]
    assert time.monotonic() - began < 5, "all are sent before the first is through"


def prompt_of(*lengths: int) -> list[Run]:
    """A prompt in runs of these lengths, each of which tells of the next; of the last one a score is wanted."""
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, CONFIG.vocab_size, (sum(lengths),), generator=draw).tolist()
    runs: list[Run] = []
    for length in reversed(lengths):
        start = sum(lengths) - sum(len(run.tokens) for run in runs) - length
        pages = tuple(range(-(-(start + length) // 32)))
        following = runs[0] if runs else None
        text = tuple(tokens[start : start + length])
        runs.insert(0, Run(text, start, pages, 0 if runs else 1, following=following))
    # a run tells of the next one alone
    return [run._replace(following=run.following and run.following._replace(following=None)) for run in runs]


def test_stages_have_the_next_part_of_a_prompt_before_they_are_through_with_this_one(house: House) -> None:
    """Of each step only the part after the next one is sent; the numbers are the plain ones."""
    steps = prompt_of(140, 140, 70)
    right = EagerStepper(WEIGHTS, CONFIG, KVPages(CONFIG, torch.float32, 11))
    stepper, sent = stepper_of(house, 11), threading.Event()
    house.before_layers = lambda: sent.wait(5)

    def tamper(kind: str, message: Message) -> Message:
        if kind == "stage" and message.fields["number"] == 4:
            sent.set()  # two calls of each of the first two parts
        return message

    house.tamper = tamper
    began, counts = time.monotonic(), list[int]()
    for run in steps:
        compared(stepper.step([run]), right.step([run]), 1e-5)
        counts.append(max(message.fields["number"] for _, _, what, message in house.sent if what == "stage"))
    assert time.monotonic() - began < 5, "the next part is sent before the first call is through"
    assert counts == [4, 5, 5]


def test_a_call_has_its_time_from_when_the_one_before_it_came(house: House) -> None:
    """Calls that were sent ahead wait their turn, perhaps for longer than any of them may take."""
    run, _ = prompt_of(140, 140)
    stepper = stepper_of(house, 11)
    house.before_layers = lambda: time.sleep(0.2)
    stepper.step([run])  # two calls, and two that follow
    session = stepper._stages.current
    assert session is not None
    waiting = dict(session.waiting)
    assert set(waiting) == {3, 4}
    assert waiting[3].began - waiting[4].began > 0.3, "it may have begun when the second came"


@pytest.mark.parametrize("other", ["tokens", "length", "pages", "reach", "another's"])
def test_what_was_sent_ahead_and_is_not_wanted_changes_nothing(house: House, other: str) -> None:
    """Somebody else's turn came between, or what was said was called off: it is computed as it is wanted now."""
    first, second, third = prompt_of(140, 140, 70)
    wanted = {
        "tokens": second._replace(tokens=(*second.tokens[:-1], 5)),
        "length": second._replace(tokens=second.tokens[:60], pages=second.pages[:7], scored=1),
        "pages": second._replace(pages=(*second.pages[:-1], 10)),
        "reach": second._replace(reach=350),
        "another's": Run(third.tokens, 0, (8, 9, 10), 1),
    }[other]._replace(following=None)
    plain = EagerStepper(WEIGHTS, CONFIG, KVPages(CONFIG, torch.float32, 11))
    stepper = stepper_of(house, 11)
    for run in (first, wanted, *([second, third] if other == "another's" else [])):
        compared(stepper.step([run]), plain.step([run._replace(following=None)]), 1e-5)


def lost_in(stepper: PipelineStepper, runs: list[Run]) -> None:
    with pytest.raises(PagesLost):
        stepper.step(runs)


def unavailable(stepper: PipelineStepper, runs: list[Run]) -> str:
    """Why there are no pages for a step."""
    with pytest.raises(StageUnavailable) as found:
        stepper.step(runs)
    return found.value.message


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_lost_stage_is_replaced_and_its_pages_are_said_to_be_lost(house: House, how: str) -> None:
    steps = steps_of()
    right = right_of(house, steps)
    stepper = stepper_of(house)
    compared(stepper.step(steps[0]), right[0])
    second = house.keys[1]
    house.lose(second) if how == "gone" else house.silent.add(second)
    began = time.monotonic()
    lost_in(stepper, steps[1])
    compared(stepper.step(steps[0]), right[0])
    compared(stepper.step(steps[1]), right[1])
    assert time.monotonic() - began < 3
    assert house.hosts[house.keys[2]].counters.calls == 2
    assert second not in {other for own, other, what, _ in house.sent[-6:] if what == "stage"}


def test_without_stages_a_step_fails_in_time_and_the_next_at_once(house: House) -> None:
    stepper = stepper_of(house, seconds=0.3)
    runs = [Run((1, 2), 0, (0,), 1)]
    stepper.step(runs)
    for key in house.keys:
        house.lose(key)
    began = time.monotonic()
    lost_in(stepper, runs)
    assert "all layers" in unavailable(stepper, runs)
    assert 0.25 < time.monotonic() - began < 3
    again = time.monotonic()
    unavailable(stepper, runs)
    assert time.monotonic() - again < 0.25


def tampering(house: House, which: str, how: str) -> None:
    """The next message of that kind is changed on its way."""

    def tamper(kind: str, message: Message) -> Message:
        if kind != which:
            return message
        house.tamper = lambda _kind, unchanged: unchanged
        fields, tensors = dict(message.fields), list(message.tensors)
        if how == "corrupted":
            data = bytearray(tensors[0].data)
            data[7] ^= 1
            tensors[0] = replace(tensors[0], data=bytes(data))
        elif how == "another shape":
            tensors[0] = WireTensor("hidden", "F32", (1, 1), bytes(4))
        elif how == "without experts":
            tensors.pop()
        else:
            fields["number"] += 1
        return Message(fields, tuple(tensors))

    house.tamper = tamper


@pytest.mark.parametrize("how", ["corrupted", "another shape", "without experts", "another number"])
@pytest.mark.parametrize("which", ["stage", "stage_end"])
def test_what_was_changed_on_its_way_is_never_computed_with(house: House, which: str, how: str) -> None:
    steps = steps_of()
    right = right_of(house, steps)
    stepper = stepper_of(house)
    stepper.step(steps[0])
    tampering(house, which, how)
    lost_in(stepper, steps[1])
    for runs, expected in zip(steps, right, strict=True):
        compared(stepper.step(runs), expected)


def sent_to(house: House, place: int, message: Message, sender: int | None = None) -> Message:
    """A message as another node of the swarm would send it to a stage."""
    own = house.lead_key if sender is None else house.keys[sender]
    return house.run(
        house.links[own, house.keys[place]].request(stage_kind, message.fields, message.tensors, seconds=1)
    )


def test_only_the_stage_before_is_listened_to_and_nothing_twice(house: House) -> None:
    stepper = stepper_of(house)
    stepper.step([Run((1, 2), 0, (0,), 1)])
    (_, _, _, first), (_, _, _, second), *_ = [each for each in house.sent if each[2] == "stage"]
    calls = {key: host.counters.calls for key, host in house.hosts.items()}
    for place, message, sender in ((0, first, None), (1, second, 0), (0, first, 1), (1, first, None), (2, first, None)):
        with pytest.raises(Refused):
            sent_to(house, place, message, sender)
    call, passed = parse_call(first)
    right = message_of(replace(call, number=2), passed)  # as the lead could send it now
    with pytest.raises(Refused, match="stage before"):
        sent_to(house, 0, right, 1)
    assert calls == {key: host.counters.calls for key, host in house.hosts.items()}
    sent_to(house, 0, right)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"number": 3}, "expected number 2"),
        ({"width": 8}, "hidden size"),
        ({"dtype": "F16"}, "hidden size"),
        ({"end": 1, "route": (Hop("1" * 64, 1, 3),)}, "layers"),
        ({"pages": (99,)}, "pages"),
        ({"start": 40}, "pages"),
        ({"session": "0" * 32}, "session"),
        ({"lead": "1" * 64}, "lead"),
    ],
)
def test_a_call_that_does_not_fit_the_lease_is_refused_and_the_next_is_taken(
    house: House, changes: dict[str, Any], why: str
) -> None:
    stepper = stepper_of(house)
    stepper.step([Run((1, 2), 0, (0,), 1)])
    call, _ = parse_call(next(message for _, _, what, message in house.sent if what == "stage"))
    shape = call.runs[0]
    runs = (shape._replace(**{name: changes[name] for name in ("pages", "start") if name in changes}),)
    bad = replace(call, number=2, runs=runs)
    bad = replace(bad, **{name: value for name, value in changes.items() if name not in ("pages", "start")})
    size = bad.count * bad.width * (2 if bad.dtype == "F16" else 4)
    with pytest.raises(Refused, match=why):
        sent_to(house, 0, message_of(bad, Passed(bytes(size), b"")))
    compared(
        stepper.step([Run((3,), 2, (0,), 1)]), right_of(house, [[Run((1, 2), 0, (0,), 1)], [Run((3,), 2, (0,), 1)]])[1]
    )


def test_an_end_is_taken_of_the_last_stage_alone(house: House) -> None:
    """Another member that knows the call cannot answer in its place."""
    stepper = stepper_of(house)
    steps = steps_of()
    stepper.step(steps[0])
    forged: list[BaseException | None] = []

    def forging(kind: str, message: Message) -> Message:
        if kind == "stage" and not forged:
            call, passed = parse_call(message)
            forged.append(None)
            end = end_of(call, passed)
            link = house.links[house.keys[2], house.lead_key]
            work = link.request("stage_end", end.fields, end.tensors, seconds=1)
            house.thread.loop.create_task(work).add_done_callback(lambda task: forged.append(task.exception()))
        return message

    house.tamper = forging
    compared(stepper.step(steps[1]), right_of(house, steps)[1])
    assert isinstance(forged[1], Refused)
    assert house.lead.counters.rejected == 1


def opened(house: House, session: str, sender: int = 1, pages: int = 4) -> Message:
    asked = StageOpen(MODEL, session, 0, 3, pages, pages, house.keys[sender])
    return house.run(house.links[house.keys[sender], house.keys[0]].request(open_kind, asked.fields(), seconds=1))


def test_leases_are_bounded_in_number_and_in_bytes(house: House) -> None:
    host = house.hosts[house.keys[0]]
    for number in range(limits.stage_leases_node_max):
        opened(house, f"{number:032x}")
    with pytest.raises(Refused, match="few leases"):
        opened(house, f"{99:032x}")
    opened(house, f"{100:032x}", sender=2)
    with pytest.raises(Refused, match="pages, found"):
        opened(house, f"{101:032x}", sender=2, pages=limits.stage_lease_pages_max)
    assert limits.stage_leases_node_max + 1 == len(host.leases)


def test_a_lease_ends_when_its_lead_is_silent_or_began_anew(house: House) -> None:
    host = house.hosts[house.keys[0]]
    opened(house, "a" * 32)
    opened(house, "b" * 32, sender=2)
    house.now = 20.0
    opened(house, "a" * 32)
    house.now = 20.0 + limits.stage_lease_seconds - 1
    house.run(swept(host))
    assert (len(host.leases), host.leases.expired) == (1, 1)
    opened(house, "c" * 32)
    assert len(host.leases) == 1, "another process of the same lead"
    with pytest.raises(Refused, match="own lead"):
        opened(house, "c" * 32, sender=2)


async def swept(host: Any) -> None:
    host.leases.sweep()


def test_closing_gives_the_leases_back(house: House) -> None:
    stepper = stepper_of(house)
    stepper.step([Run((1, 2), 0, (0,), 1)])
    assert [len(host.leases) for host in house.hosts.values()] == [1, 1, 0]
    stepper.close()
    until = time.monotonic() + 5
    while any(len(host.leases) for host in house.hosts.values()):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_calls_count_against_the_leads_rows_and_end_with_the_model(house: House) -> None:
    """As expert calls do: layers are no way around `network.peer_rows`, nor around a removal."""
    asked: list[tuple[Any, int]] = []
    house.allow = lambda node, rows: asked.append((node, rows)) or True
    stepper = stepper_of(house)
    stepper.step([Run((1, 2), 0, (0,), 1)])
    config, first = house.config, house.hosts[house.keys[0]]
    call, passed = parse_call(next(message for _, _, what, message in house.sent if what == "stage"))
    moe = len(set(config.moe_layers) & set(range(call.begin, call.end)))
    assert asked[0] == (house.lead_key, 2 * (1 + moe * config.experts_per_token))
    again = message_of(replace(call, number=2), passed)
    house.allow = lambda _node, _rows: False
    with pytest.raises(Refused, match="rows a minute"):
        sent_to(house, 0, again)
    house.allow = lambda _node, _rows: True
    house.removed = True
    with pytest.raises(Refused, match="not held"):
        sent_to(house, 0, again)
    house.removed = False
    sent_to(house, 0, again)
    assert first.counters.refused == 1
