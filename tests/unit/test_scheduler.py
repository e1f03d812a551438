"""The scheduler: turns, bounds, cancellation, and a thread that outlives any generation."""

import queue
import threading
from collections.abc import Iterator

import pytest

from blyan.inference.scheduler import Scheduler
from blyan.inference.session import Delta, Event, Failed, Finished, Turn, Working
from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput, QueueFull, Unavailable
from fakes import StepByStep


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(running_max=2)
    yield made
    made.close()


def collect(scheduler: Scheduler, events: Iterator[Event]) -> "queue.Queue[Event]":
    received: queue.Queue[Event] = queue.Queue()
    scheduler.submit(events, received.put)
    return received


def test_running_generations_take_turns(scheduler: Scheduler) -> None:
    """One step each: neither waits for the other's end."""
    log: list[str] = []
    first, second = StepByStep("a", 3, log), StepByStep("b", 3, log)
    streams = [collect(scheduler, iter(first)), collect(scheduler, iter(second))]
    first.allowed.release(1)
    streams[0].get(timeout=5)
    second.allowed.release(3)
    first.allowed.release(2)
    for stream in streams:
        while not isinstance(stream.get(timeout=5), Finished):
            pass
    assert log.index("b0") < log.index("a2")
    assert log.index("a1") < log.index("b2")


def test_more_than_may_run_wait_their_turn(scheduler: Scheduler) -> None:
    """A third generation starts when one of two has ended."""
    log: list[str] = []
    fakes = [StepByStep(name, 1, log) for name in "abc"]
    streams = [collect(scheduler, iter(fake)) for fake in fakes]
    for fake in reversed(fakes):
        fake.allowed.release(1)
    for stream in streams:
        assert isinstance(stream.get(timeout=5), Delta)
        assert isinstance(stream.get(timeout=5), Finished)
    assert log[-1] == "c0"


def test_a_cancelled_generation_computes_no_further_step(scheduler: Scheduler) -> None:
    """Its iterator is not asked again."""
    fake = StepByStep("a", 100)
    received: queue.Queue[Event] = queue.Queue()
    ticket = scheduler.submit(iter(fake), received.put)
    fake.allowed.release(1)
    received.get(timeout=5)
    ticket.cancel()
    fake.allowed.release(1)  # the step under way, if it had begun
    other = StepByStep("b", 1)
    other.allowed.release(1)
    stream = collect(scheduler, iter(other))
    while not isinstance(stream.get(timeout=5), Finished):
        pass
    assert received.qsize() <= 1


def test_a_full_queue_refuses(scheduler: Scheduler) -> None:
    """Bounded: what cannot wait is told so at once."""
    blockers = [StepByStep("x", 1) for _ in range(2)]
    streams = [collect(scheduler, iter(fake)) for fake in blockers]
    waiting = [StepByStep("y", 1) for _ in range(limits.generations_queued_max + 2)]
    with pytest.raises(QueueFull, match="expected fewer than"):
        [collect(scheduler, iter(fake)) for fake in waiting]
    for fake in [*blockers, *waiting]:
        fake.allowed.release(1)
    for stream in streams:
        stream.get(timeout=5)


def test_who_left_does_not_take_a_place_in_the_queue(scheduler: Scheduler) -> None:
    """A full queue of cancelled generations is an empty one."""
    blockers = [StepByStep("x", 1) for _ in range(2)]
    streams = [collect(scheduler, iter(fake)) for fake in blockers]
    for _ in range(limits.generations_queued_max + 2):
        scheduler.submit(iter(StepByStep("y", 1)), lambda _: None).cancel()
    last = StepByStep("z", 1)
    streams.append(collect(scheduler, iter(last)))
    for fake in [*blockers, last]:
        fake.allowed.release(1)
    for stream in streams:
        assert isinstance(stream.get(timeout=5), Delta)


def test_a_turn_without_news_is_kept_from_the_caller(scheduler: Scheduler) -> None:
    """`Working` gives others their turn and no event."""

    def turns() -> Iterator[Turn]:
        yield Working()
        yield Working()
        yield Finished("stop", 1, 0)

    received: queue.Queue[Event] = queue.Queue()
    scheduler.submit(turns(), received.put)
    assert isinstance(received.get(timeout=5), Finished)


class NativePanic(BaseException):
    """As the binding of a Rust library raises it: no Exception."""


def broken(reason: BaseException) -> Iterator[Event]:
    yield Delta("some", (), ())
    raise reason


@pytest.mark.parametrize(
    ("reason", "code"), [(InvalidInput("bad"), "invalid_input"), (KeyError("x"), "internal_error")]
)
def test_a_generation_that_breaks_ends_alone(scheduler: Scheduler, reason: BaseException, code: str) -> None:
    """Its caller gets `Failed`, and the next generation works."""
    stream = collect(scheduler, broken(reason))
    stream.get(timeout=5)
    failed = stream.get(timeout=5)
    assert isinstance(failed, Failed)
    assert failed.fault.code == code
    fake = StepByStep("a", 1)
    fake.allowed.release(1)
    assert isinstance(collect(scheduler, iter(fake)).get(timeout=5), Delta)


def test_closing_fails_what_still_runs_and_refuses_what_comes(scheduler: Scheduler) -> None:
    """No caller waits for ever."""
    fake = StepByStep("a", 100)
    stream = collect(scheduler, iter(fake))
    fake.allowed.release(1)
    stream.get(timeout=5)
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    fake.allowed.release(100)
    closer.join(timeout=5)
    events = [stream.get(timeout=5) for _ in range(stream.qsize())]
    assert isinstance(events[-1], Failed | Finished)
    with pytest.raises(Unavailable):
        scheduler.submit(iter(fake), stream.put)
