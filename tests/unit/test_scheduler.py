"""The scheduler: generations in one batch, bounds, cancellation, and a thread that outlives any generation.

The stepper keeps tokens in the pages it is handed and scores by what it finds there, so that a page in the wrong hands
changes an answer.
"""

import random
import threading
import time
from collections.abc import Iterator

import pytest

from batches import CONFIG, RULES, Received, answer, bench, expected, model_of
from blyan.inference.needs import Need
from blyan.inference.policy import Rules
from blyan.inference.session import Delta, Failed, Finished, Work
from blyan.model.sampling import Sampling
from blyan.primitives import limits
from blyan.primitives.errors import BlockCorrupt, InvalidInput, Overloaded, QueueFull, Unavailable
from fakes import TokenPages

GREEDY = Sampling(temperature=0.0)


def prompts(count: int, seed: int = 0, longest: int = 150) -> list[list[int]]:
    """Random prompts, some of which begin alike."""
    chance = random.Random(seed)
    alike = [chance.randrange(61) for _ in range(longest)]
    made = []
    for _ in range(count):
        shared = chance.choice([0, 0, 32, 64, 70])
        made.append(alike[:shared] + [chance.randrange(61) for _ in range(chance.randrange(1, longest - shared))])
    return made


def check(received: Received, prompt: list[int], tokens_max: int, sampling: Sampling) -> None:
    assert isinstance(received.end(), Finished)
    steps = expected(prompt, tokens_max, sampling)
    assert [step.token for step in steps] == received.tokens
    assert [step.logprob for step in steps] == received.logprobs
    used = sum(count for delta in received.deltas for _, _, count in delta.experts)
    positions = len(prompt) + tokens_max - 1
    assert used == positions * len(CONFIG.moe_layers) * CONFIG.experts_per_token


@pytest.mark.parametrize("drafts", [0, 4])
@pytest.mark.parametrize("pages", [200, 14])
def test_answers_in_a_batch_are_those_of_the_plain_loop(pages: int, drafts: int) -> None:
    """Tokens, log-probabilities and experts, with memory for all or for few, with guesses or without."""
    with bench(pages=pages, drafts_max=drafts) as made:
        asked = [
            (prompt, 20 + number, GREEDY if number % 2 else Sampling(seed=number))
            for number, prompt in enumerate(prompts(24))
        ]
        received = [
            made.submit(answer(prompt, count, how, drafts), client=f"c{number % 5}")
            for number, (prompt, count, how) in enumerate(asked)
        ]
        for one, (prompt, count, how) in zip(received, asked, strict=True):
            check(one, prompt, count, how)
        assert made.scheduler.depth() == (0, 0)
        assert made.pool.free == pages
        assert max(len(step) for step in made.steppers[0].steps) > 1
        assert made.scheduler.counters.preemptions > 0 or pages > 14
        assert made.pool.counters.reused_positions > 0


def test_an_answer_that_repeats_itself_is_guessed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps than tokens, and the same tokens."""
    plain = TokenPages.scores
    monkeypatch.setattr(TokenPages, "scores", staticmethod(lambda config, tokens: plain(config, [len(tokens) % 7])))
    with bench(drafts_max=4) as made:
        received = made.submit(answer([1, 2, 3], 98, GREEDY, 4))
        check(received, [1, 2, 3], 98, GREEDY)
        assert len(made.steppers[0].steps) < 50
        counted = made.scheduler.counters
        assert counted.accepted == 98 - len(made.steppers[0].steps)  # each step gives one token that is no guess
        assert counted.accepted <= counted.drafted


def test_a_newcomer_joins_the_batch_at_the_next_step() -> None:
    """It does not wait for the end of those that run."""
    gate = threading.Semaphore(0)
    with bench(prepare=lambda stepper: setattr(stepper, "allowed", gate)) as made:
        first = made.submit(answer([1], 500))
        gate.release(5)
        made.settle(lambda: len(made.steps) == 5)
        second = made.submit(answer([2], 2))
        gate.release(4)
        assert isinstance(second.end(), Finished)
        assert 2 in [len(step) for step in made.steps[5:7]]  # the sixth may have been planned before it came
        first.ticket.cancel()
        gate.release(10)


def test_who_writes_gets_a_token_in_every_step_beside_a_long_prompt() -> None:
    """A prompt is computed in pieces, and no piece is longer than the rules say."""
    gate = threading.Semaphore(0)
    with bench(prepare=lambda stepper: setattr(stepper, "allowed", gate)) as made:
        writer = made.submit(answer([1], 300))
        gate.release(3)
        made.settle(lambda: len(made.steps) == 3)
        reader = made.submit(answer([2] * 1000, 1))
        gate.release(60)
        assert isinstance(reader.end(), Finished)
        steps = [[len(run.tokens) for run in step] for step in made.steppers[0].steps]
        pieces = [step for step in steps if len(step) == 2]
        assert len(pieces) >= 1000 // RULES.prompt_tokens
        assert all(min(step) == 1 and max(step) <= RULES.prompt_tokens for step in pieces)
        writer.ticket.cancel()
        gate.release(10)


def test_a_cancelled_generation_gives_its_pages_back_at_the_next_step() -> None:
    """And no event of it follows."""
    with bench() as made:
        received = made.submit(answer([1] * 100, 3000))
        received.events.get(timeout=5)
        assert made.pool.free < 64
        received.ticket.cancel()
        made.settle(lambda: made.pool.free == 64)
        assert made.scheduler.depth() == (0, 0)
        count = received.events.qsize()
        time.sleep(0.05)
        assert received.events.qsize() == count


def test_a_full_queue_refuses_one_client_with_429_and_everybody_with_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded: what cannot wait is told so at once, and when to come again."""
    monkeypatch.setattr(limits, "generations_queued_max", 6)
    monkeypatch.setattr(limits, "generations_queued_client_max", 4)
    gate = threading.Semaphore(0)
    rules = Rules(running_max=1, step_tokens=64, prompt_tokens=32)
    with bench(rules=rules, prepare=lambda stepper: setattr(stepper, "allowed", gate)) as made:
        first = made.submit(answer([1], 50), client="a")
        made.settle(lambda: made.scheduler.depth() == (1, 0))
        waiting = [made.submit(answer([1], 1), client="a") for _ in range(4)]
        with pytest.raises(QueueFull, match="expected fewer than 4 of one client") as refused:
            made.submit(answer([1], 1), client="a")
        assert int(str(refused.value.detail["retry_after_seconds"])) > 0
        waiting += [made.submit(answer([1], 1), client="b") for _ in range(2)]
        with pytest.raises(Overloaded, match="expected fewer than 6"):
            made.submit(answer([1], 1), client="c")
        waiting[0].ticket.cancel()
        waiting.append(made.submit(answer([1], 1), client="c"))  # who left takes no place
        gate.release(10_000)
        for received in [first, *waiting[1:]]:
            assert isinstance(received.end(), Finished)


class NativePanic(BaseException):
    """As the binding of a Rust library raises it: no Exception."""


def broken(reason: BaseException) -> Work:
    yield Delta("some", (), ())
    yield Need(0, (1, 2), scored=1)
    raise reason


@pytest.mark.parametrize(
    ("reason", "code"),
    [(InvalidInput("bad"), "invalid_input"), (KeyError("x"), "internal_error"), (NativePanic(), "internal_error")],
)
def test_a_generation_that_breaks_ends_alone(reason: BaseException, code: str) -> None:
    """Its caller gets `Failed`, and others in its batch go on."""
    with bench() as made:
        other = made.submit(answer([3], 40, GREEDY))
        failed = made.submit(broken(reason)).end()
        assert isinstance(failed, Failed)
        assert failed.fault.code == code
        check(other, [3], 40, GREEDY)


def test_a_step_that_fails_ends_its_generations_and_no_later_one() -> None:
    """As a damaged block does; their pages are free again."""
    with bench() as made:
        made.submit(answer([1], 1)).end()
        made.steppers[0].fault = BlockCorrupt("layer 1 expert 2: expected whole, found damaged")
        failed = made.submit(answer([1] * 70, 5)).end()
        assert isinstance(failed, Failed)
        assert failed.fault.code == "block_corrupt"
        check(made.submit(answer([1] * 70, 5, GREEDY)), [1] * 70, 5, GREEDY)
        assert made.pool.free == 64


def test_closing_fails_what_still_runs_or_waits_and_refuses_what_comes() -> None:
    """No caller waits for ever."""
    rules = Rules(running_max=1, step_tokens=64, prompt_tokens=32)
    with bench(rules=rules) as made:
        received = [made.submit(answer([1], 4000)) for _ in range(3)]
        received[0].events.get(timeout=5)
        made.scheduler.close()
        for one in received:
            last = one.end()
            assert isinstance(last, Failed)
            assert last.fault.code == "unavailable"
        with pytest.raises(Unavailable):
            made.submit(answer([1], 1))


def test_a_prompt_that_memory_can_never_hold_is_refused() -> None:
    """With both numbers."""
    with bench(pages=4) as made:
        failed = made.submit(answer([1] * 200, 1)).end()
        assert isinstance(failed, Failed)
        assert "at most 127 tokens" in failed.fault.message
        assert "found 200" in failed.fault.message


def test_one_client_with_many_does_not_keep_another_with_one_waiting() -> None:
    """Fifty came first, and there are places for four: the one of another client is among the next to run."""
    rules = Rules(running_max=4, step_tokens=64, prompt_tokens=32)
    with bench(rules=rules) as made:
        many = [made.submit(answer([1, number], 200), client="many") for number in range(50)]
        many[0].events.get(timeout=5)
        one = made.submit(answer([2], 50, GREEDY), client="one")
        check(one, [2], 50, GREEDY)
        assert made.scheduler.depth()[1] > 30  # most of the fifty still wait
        for received in many:
            received.ticket.cancel()


def test_models_take_turns_and_share_the_memory() -> None:
    """Each has half; a model that came later gets its half when the first has none under way."""
    count = [1]
    with bench(models=lambda: count[0]) as made:
        first = made.submit(answer([1], 150, GREEDY))
        first.events.get(timeout=5)
        count[0] = 2
        other = model_of()
        second = made.submit(answer([2], 5, GREEDY), model=other)
        check(second, [2], 5, GREEDY)
        again = made.submit(answer([1], 150, GREEDY))
        more = made.submit(answer([2], 150, GREEDY), model=other)
        check(again, [1], 150, GREEDY)
        check(more, [2], 150, GREEDY)
        assert [engine.pool.pages for engine in made.scheduler.engines] == [32, 32]


def test_a_faster_stepper_takes_over_between_two_steps() -> None:
    """The pages stay, and so do the tokens."""
    with bench() as made:
        received = made.submit(answer([1, 2, 3], 400, GREEDY))
        received.events.get(timeout=5)
        engine = next(iter(made.scheduler.engines))
        old = made.steppers[0]

        def successor():
            made.steppers.append(TokenPages(engine.model.manifest.config, engine.kv))
            made.steppers[1]._tokens = old._tokens
            return made.steppers[1]

        engine.offer(successor)
        assert isinstance(received.end(), Finished)
        assert received.tokens[-1] == expected([1, 2, 3], 400, GREEDY)[-1].token
        assert made.steppers[1].steps


def embedding(count: int) -> Work:
    total = 0.0
    for begin in range(0, count, 100):
        piece = tuple(range(begin % 50, begin % 50 + min(100, count - begin)))
        given = yield Need(begin, tuple(token % 61 for token in piece), hidden=True, reach=count)
        assert given is not None and given.hidden is not None
        assert len(given.hidden) == len(piece)
        assert [int(row[0]) for row in given.hidden] == [token % 61 for token in piece]
        total += float(given.hidden.sum())
    yield Finished("stop", count, 0)


def test_hidden_states_of_all_positions_come_beside_a_batch() -> None:
    """Embeddings are computed in the same steps, in pieces, and after a preemption too."""
    with bench(pages=14) as made:
        others = [made.submit(answer(prompt, 60, GREEDY), client="a") for prompt in prompts(6)]
        vectors = [made.submit(embedding(230), client="b") for _ in range(4)]
        for received in [*vectors, *others]:
            assert isinstance(received.end(), Finished)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "blyan-compute"]


def test_runs_say_for_how_long_somebody_waits_for_them() -> None:
    """Until the deadline of the request, or until he leaves, also in the middle of a step."""
    gate = threading.Semaphore(0)
    with bench(prepare=lambda stepper: setattr(stepper, "allowed", gate)) as made:
        ticket = made.scheduler.submit(made.model, answer([1], 300), lambda _: None, until=7.0)
        gate.release(1)
        made.settle(lambda: len(made.steps) == 1)
        (run,) = made.steps[0]
        assert run.patience.until == 7.0
        ticket.cancel()
        assert run.patience.gone
        gate.release(10)
