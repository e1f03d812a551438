"""Tokens that the last stage draws, and calls that are on their way before their tokens are known."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch

from blyan.inference.pipeline_step import PipelineStepper
from blyan.inference.stage_ends import Ends
from blyan.inference.stage_host import StageHost
from blyan.inference.stage_turns import Turns
from blyan.model.choosing import drawn
from blyan.model.eager_step import EagerStepper
from blyan.model.sampling import Sampling
from blyan.model.stepping import Drawing, KVPages, PagesLost, Run, RunFault, RunResult
from blyan.network.answers import Prompt
from blyan.primitives import limits
from blyan.primitives.errors import Busy, InvalidInput, MalformedMessage, NotComputable
from blyan.primitives.ids import PublicKey
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed, message_of, parse_call
from blyan.wire.stage_draws import After, Drawn, not_finite, parse_drawn
from random_models import RandomWeights, small_config
from stage_links import House, stepper_of

CONFIG = small_config()
WEIGHTS = RandomWeights(CONFIG)
WHOLE = range(3)
SPANS = [(WHOLE,), (range(1), range(1, 3)), (range(1), range(1, 2), range(2, 3))]
GREEDY = Sampling(temperature=0.0)
SEEDED = Sampling(temperature=1.3, top_p=0.95, seed=-7)


class Text:
    """One sequence as an engine steps it."""

    def __init__(self, tokens: tuple[int, ...], pages: tuple[int, ...], sampling: Sampling) -> None:
        self.tokens, self.pages, self.sampling = list(tokens), pages, sampling
        self.prompt, self.computed = len(tokens), 0

    def run(self, *, drawing: bool = True, more: bool = True) -> Run:
        """What comes next of it."""
        pages = self.pages[: -(-len(self.tokens) // 32)]
        new, asked = tuple(self.tokens[self.computed :]), Drawing(self.sampling, more) if drawing else None
        return Run(new, self.computed, pages, 1, reach=len(self.tokens), drawing=asked)

    def take(self, result: RunResult | RunFault) -> None:
        """What came of it."""
        assert isinstance(result, RunResult)
        self.computed = len(self.tokens)
        token = result.drawn
        self.tokens.append(drawn(result.scores[0], self.sampling, self.computed) if token is None else token)


def texts() -> list[Text]:
    tokens = torch.randint(0, CONFIG.vocab_size, (80,), generator=torch.Generator().manual_seed(5)).tolist()
    return [Text(tuple(tokens[:40]), (5, 1, 2), GREEDY), Text(tuple(tokens[40:66]), (4, 0, 3), SEEDED)]


def right(count: int) -> list[list[int]]:
    """What one node gives."""
    plain = EagerStepper(WEIGHTS, CONFIG, KVPages(CONFIG, torch.float32, 8))
    mine = texts()
    for _ in range(count):
        for text, result in zip(mine, plain.step([text.run() for text in mine]), strict=True):
            text.take(result)
    return [text.tokens for text in mine]


def advance(stepper: PipelineStepper, *mine: Text) -> list[RunResult | RunFault]:
    found = stepper.step([text.run() for text in mine])
    for text, result in zip(mine, found, strict=True):
        text.take(result)
    return found


def kinds(house: House) -> list[tuple[str, str, str]]:
    names = {house.lead_key: "lead"} | {key: f"{number}" for number, key in enumerate(house.keys)}
    return [(names[own], names[to], what) for own, to, what, _ in house.sent]


@pytest.mark.parametrize("spans", SPANS)
def test_tokens_are_those_of_one_node(spans: tuple[range, ...]) -> None:
    """Greedy and seeded, over the ends of pages, where nothing can be foreseen."""
    with House(CONFIG, WEIGHTS, *spans, ends=True) as house:
        stepper, mine = stepper_of(house), texts()
        found = [advance(stepper, *mine) for _ in range(30)]
        assert [text.tokens for text in mine] == right(30)
        assert all(isinstance(each, RunResult) and not each.scores.size for step in found for each in step)
        stepper.close()


def test_no_way_leads_over_the_lead() -> None:
    """The last stage tells the first one, and the lead sends each call before its tokens are known."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (text, _) = stepper_of(house), texts()
        for _ in range(4):
            advance(stepper, text)
        ways = kinds(house)
        assert ways.count(("1", "0", "stage_drawn")) >= 4
        calls = [message for own, _, what, message in house.sent if what == "stage" and own == house.lead_key]
        assert [bool(each.fields["after"]) for each in calls[:4]] == [False, True, True, True]
        assert all(each.tensors[0].name == "tokens" and not each.tensors[0].data for each in calls[1:])
        ends = [message for _, _, what, message in house.sent if what == "stage_end"]
        assert all(each.tensors[0].name == "tokens" for each in ends), "no hidden states come back"


def test_a_stage_without_the_ends_gives_hidden_states_and_the_lead_draws() -> None:
    with House(CONFIG, WEIGHTS, range(1), range(1, 3)) as house:
        stepper, mine = stepper_of(house), texts()
        for _ in range(5):
            found = advance(stepper, *mine)
            assert all(isinstance(each, RunResult) and each.scores.size for each in found)
        assert [text.tokens for text in mine] == right(5)
        assert not any(what == "stage_drawn" for _, _, what in kinds(house))


def test_who_comes_and_who_goes_changes_nothing_for_the_others() -> None:
    """What was foreseen for one that ended is left lying, and its pages are another's."""
    expected = right(12)
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (one, two) = stepper_of(house), texts()
        for _ in range(3):
            advance(stepper, one)
        advance(stepper, one, two)  # it joins
        for _ in range(3):
            advance(stepper, one, two)
        assert one.tokens == expected[0][: len(one.tokens)]
        gone = len(house.sent)
        for _ in range(3):
            advance(stepper, two)  # the other one ended
        calls = [each.fields["after"] for own, _, what, each in house.sent[gone:] if what == "stage"]
        assert calls and two.tokens == expected[1][: len(two.tokens)]
        new = Text(tuple(expected[0][:40]), one.pages, GREEDY)
        for _ in range(5):
            advance(stepper, new, two)
        assert new.tokens == expected[0][: len(new.tokens)]
        assert two.tokens == expected[1][: len(two.tokens)]


def test_scores_are_given_where_they_are_wanted() -> None:
    """Log-probabilities, grammars and guesses need them; one run that does has hidden states come back."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (one, two) = stepper_of(house), texts()
        advance(stepper, one, two)
        found = stepper.step([one.run(drawing=False), two.run()])
        one.take(found[0])
        two.take(found[1])
        assert isinstance(found[0], RunResult) and found[0].scores.size
        advance(stepper, one, two)
        assert [text.tokens for text in (one, two)] == right(3)


def test_a_run_whose_numbers_overflow_fails_alone() -> None:
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (one, two) = stepper_of(house), texts()
        advance(stepper, one, two)

        def spoiled(hidden: torch.Tensor, runs: Any) -> torch.Tensor:
            hidden, first = hidden.clone(), 0
            for each in runs:
                if each.pages[0] == one.pages[0]:
                    hidden[first] = float("inf")
                first += each.rows
            return hidden

        house.after_layers = spoiled
        found = [stepper.step([one.run(), two.run()]) for _ in range(2)][-1]  # the first was foreseen before
        house.after_layers = lambda hidden, _runs: hidden
        assert isinstance(found[0], RunFault) and isinstance(found[0].reason, NotComputable)
        assert isinstance(found[1], RunResult) and found[1].drawn is not None


def test_a_last_stage_is_not_believed_that_nothing_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lead looks at the hidden states itself: where they are numbers the answer goes on, and it draws from then."""
    monkeypatch.setattr(
        Ends, "drawn", lambda _self, call, _hidden: np.full(len(call.runs), not_finite, "<i4").tobytes()
    )
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, mine = stepper_of(house), texts()
        counts: list[int] = []
        for _ in range(6):
            found = advance(stepper, *mine)
            assert all(isinstance(each, RunResult) and each.drawn is None for each in found)
            counts.append(sum(what == "stage" and own == house.lead_key for own, _, what, _ in house.sent))
        assert [text.tokens for text in mine] == right(6)
        assert counts == [3, 4, 5, 6, 7, 8], "the first with what followed it, and once more"
        assert house.lead.counters.lost == 0
        stepper.close()


@pytest.mark.parametrize("how", ["lost", "corrupted"])
def test_tokens_that_do_not_come_through_cost_the_way_between_two_stages(how: str) -> None:
    """The lead notices, opens another session, and takes the tokens itself for a while."""

    def tamper(kind: str, message: Message) -> Message:
        if kind != "stage_drawn" or message.fields["number"] < 3:
            return message
        house.now += 1.0  # the stages' clock
        if how == "lost":
            raise MalformedMessage("lost")
        data = bytearray(message.tensors[0].data)
        data[0] ^= 1
        return replace(message, tensors=(replace(message.tensors[0], data=bytes(data)),))

    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        house.tamper = tamper
        stepper, (text, _) = stepper_of(house), texts()
        began = time.monotonic()
        for _ in range(8):
            try:
                advance(stepper, text)
            except PagesLost:
                text.computed = 0
        while len(text.tokens) < 48:
            advance(stepper, text)
        assert text.tokens == right(len(text.tokens) - 40)[0][: len(text.tokens)]
        assert house.lead.counters.lost == 1, "the other session has no such way"
        assert time.monotonic() - began < 3


def test_nobody_else_says_what_was_drawn() -> None:
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (text, _) = stepper_of(house), texts()
        advance(stepper, text)
        (lease,) = house.hosts[house.keys[0]].leases
        host, said = house.hosts[house.keys[0]], Drawn(lease.asked.session, lease.number, b"\1\0\0\0").message()

        def told(sender: Any, message: Message) -> None:
            cast(Any, host.handlers["stage_drawn"]).begin(house.links[house.keys[0], sender], message)

        async def refused(sender: Any, message: Message) -> str:
            with pytest.raises(Exception) as found:
                told(sender, message)
            return str(found.value)

        assert "expected it of the last stage" in house.run(refused(house.lead_key, said))
        late = Drawn(lease.asked.session, lease.number + 1, b"\1\0\0\0").message()
        assert "one of the last calls" in house.run(refused(house.keys[1], late))
        beyond = Drawn(lease.asked.session, lease.number, b"\0\0\1\0").message()
        assert "expected tokens below" in house.run(refused(house.keys[1], beyond)), "or it would be at fault itself"


def test_what_was_changed_on_its_way_is_no_call_and_no_drawing() -> None:
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, mine = stepper_of(house), texts()
        for _ in range(3):
            advance(stepper, *mine)
        sent = [message for _, _, what, message in house.sent if what == "stage"]
        for message in sent:
            call, passed = parse_call(message)
            assert message_of(call, passed).fields["digest"] == message.fields["digest"]
            for name, value in (("after", [1, 0]), ("taker", house.keys[1]), ("given", "hidden"), ("draws", False)):
                if message.fields[name] != value:
                    with pytest.raises(MalformedMessage):
                        parse_call(replace(message, fields={**message.fields, name: value}))
            for layers in ([], [0], [0, 1, 2], [[0, 1]], "01", 1):
                with pytest.raises(MalformedMessage):
                    parse_call(replace(message, fields={**message.fields, "layers": layers}))
        (said, *_) = (message for _, _, what, message in house.sent if what == "stage_drawn")
        assert parse_drawn(said).message().fields == {k: v for k, v in said.fields.items() if k != "kind"}
        for changed in ({"number": 2_000}, {"session": "0" * 32}, {"digest": "00"}):
            with pytest.raises(MalformedMessage):
                parse_drawn(replace(said, fields={**said.fields, **changed}))


def test_samplings_out_of_range_are_refused_before_anything_is_computed() -> None:
    with House(CONFIG, WEIGHTS, WHOLE, ends=True) as house:
        stepper, (text, _) = stepper_of(house), texts()
        advance(stepper, text)
        first = next(message for _, _, what, message in house.sent if what == "stage")
        call, passed = parse_call(first)
        host = house.hosts[house.keys[0]]
        (lease,) = host.leases
        assert call.draws[0] is not None
        bad = replace(call, number=lease.number + 1, draws=(call.draws[0]._replace(temperature=9.0),))

        async def begun() -> None:
            with pytest.raises(InvalidInput, match="temperature"):
                cast(Any, host.handlers["stage"]).begin(
                    house.links[house.keys[0], house.lead_key], message_of(bad, passed)
                )

        house.run(begun())


def test_calls_that_wait_for_tokens_come_before_those_after_them() -> None:
    """Numbers are taken in order, whatever the first of them waits for."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (one, two) = stepper_of(house), texts()
        for _ in range(3):
            advance(stepper, one)
        for _ in range(3):
            advance(stepper, two)  # what was foreseen for the first is still on its way
        numbers = [
            message.fields["number"] for own, _, what, message in house.sent if what == "stage" and own == house.keys[0]
        ]
        assert all(before + 1 == after for before, after in pairwise(numbers))
        assert two.tokens == right(3)[1]


def test_calls_for_which_no_tokens_come_take_no_place_of_others_and_end_with_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lead that has none drawn holds up no other; of its calls a stage keeps those of a few steps."""
    monkeypatch.setattr(limits, "stage_queue_max", 8)
    with House(CONFIG, WEIGHTS, WHOLE, ends=True) as house:
        (stage,) = house.keys
        host, begin = house.hosts[stage], cast(Prompt, house.handlers[stage]["stage"]).begin
        link = house.links[stage, house.lead_key]
        stepper_of(house).step([texts()[0].run(drawing=False)])
        (lease,) = host.leases
        (made,) = (each for own, _, what, each in house.sent if what == "stage" and own == house.lead_key)
        call, _ = parse_call(made)
        run = call.runs[0]._replace(rows=1, start=0, pages=call.runs[0].pages[:1])
        waits = replace(call, number=2, given="tokens", runs=(run,), draws=(), after=After(1, (0,)), milliseconds=500)

        async def sent(count: int) -> list[Any]:
            numbers = range(lease.number + 1, lease.number + 1 + count)
            return [begin(link, message_of(replace(waits, number=each), Passed(b"", b""))) for each in numbers]

        house.run(sent(16))
        assert (len(lease.turns), len(host._carrying)) == (16, 16)
        with pytest.raises(Busy, match="16 that wait for tokens"):
            house.run(sent(1))
        other = PublicKey("e" * 64)
        host._carrying.want_room(other, 100)
        house.now += 0.4
        house.run(swept(host))
        assert list(host.leases) == [lease]
        house.now += 0.2
        house.run(swept(host))
        assert not list(host.leases)
        assert not len(host._carrying)


async def swept(host: StageHost) -> None:
    host.leases.sweep()
    await asyncio.sleep(0.05)


def test_many_tokens_are_not_drawn_in_the_networks_loop() -> None:
    """A stage knows what one takes: that is more than layers take where the vocabulary is large."""
    threads: list[str] = []
    with House(CONFIG, WEIGHTS, WHOLE, ends=True) as house:
        host = house.hosts[house.keys[0]]
        host._monotonic = time.monotonic
        stepper, (text, other) = stepper_of(house), texts()
        stepper.step([other.run(drawing=False)])
        (lease,) = host.leases
        house.before_layers = lambda: threads.append(threading.current_thread().name)
        lease.row_seconds = 1e-6
        stepper.step([text.run(more=False)])
        assert lease.draw_seconds is not None
        for seconds, name in ((1e-6, "blyan-network"), (1.0, "blyan-stage_0")):
            lease.row_seconds, lease.draw_seconds = 1e-6, seconds
            stepper.step([text.run(more=False)])
            assert threads[-1] == name
        assert threads[0] == "blyan-stage_0", "nothing was known of it"


def test_what_was_drawn_is_taken_though_the_pieces_of_a_prompt_came_meanwhile() -> None:
    """They are sent between a call and the one that goes on with it; what is older is of no use."""
    sender, turns = PublicKey("a" * 64), Turns()
    turns._drawer, between = sender, limits.stage_pieces_max + 2
    turns._runs = dict.fromkeys(range(3, 4 + between), 1)
    turns.told(sender, Drawn("5" * 32, 3, b"\1\0\0\0"))
    assert 3 in turns._drawn
    for number, tokens in ((2, b"\1\0\0\0"), (4 + between, b"\1\0\0\0"), (4, b"\1\0\0\0" * 2)):
        with pytest.raises(InvalidInput, match="one of the last calls"):
            turns.told(sender, Drawn("5" * 32, number, tokens))


def test_a_first_stage_that_takes_nothing_of_the_last_one_is_not_the_last_ones_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was drawn reaches the lead, of the last token too; that the first lacks it is between the two."""
    with House(CONFIG, WEIGHTS, range(1), range(1, 3), ends=True) as house:
        stepper, (text, _) = stepper_of(house), texts()
        advance(stepper, text)

        async def full(*_what: object, **_how: object) -> None:
            await asyncio.Event().wait()

        clogged = house.links[house.keys[1], house.keys[0]]
        monkeypatch.setattr(clogged, "tell_now", lambda *_what, **_how: False)
        monkeypatch.setattr(clogged, "tell", full)
        (found,) = stepper.step([text.run(more=False)])
        text.take(found)
        assert text.tokens == right(2)[0]
        assert [house.lead.counters.of(key).lost for key in house.keys] == [0, 0]
