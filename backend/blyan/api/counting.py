"""Counting one generation: when its first token came, how far apart the others were, how it ended.

All of it happens in the event loop beside the passing on of events, nothing in the compute thread.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from blyan.inference.session import Delta, Embedded, Event, Finished
from blyan.node.metrics import Metrics
from blyan.node.tracing import current_trace
from blyan.primitives.clock import Monotonic


@dataclass(slots=True)
class GenerationCount:
    """What is known of a generation so far. `outcome` stays `cancelled` until an event says otherwise."""

    metrics: Metrics
    monotonic: Monotonic
    began: float
    echoed: int  # tokens of the prompt that come back before the first of the answer
    first: float | None = None  # when its first token came
    last: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: str = "cancelled"

    def passed(self, events: Sequence[Event]) -> None:
        """These events are on their way to whoever asked, together."""
        fresh = 0
        for event in events:
            if isinstance(event, Delta):
                fresh += len(event.tokens)
            elif isinstance(event, Finished):
                self.outcome = event.reason
            elif isinstance(event, Embedded):
                self.outcome, self.prompt_tokens = "embedded", event.tokens
            else:
                self.outcome = f"failed:{event.fault.code}"
        skipped = min(fresh, self.echoed)
        self.echoed -= skipped
        if fresh > skipped:
            self._tokens(fresh - skipped)
        if isinstance(events[-1], Finished):
            self.prompt_tokens, self.completion_tokens = events[-1].prompt_tokens, events[-1].completion_tokens

    def _tokens(self, fresh: int) -> None:
        now = self.monotonic()
        self.completion_tokens += fresh
        if self.last is None:
            self.first = now
            self.metrics.first_token_seconds.observe(now - self.began)
            self.metrics.between_tokens_seconds.add(0.0, fresh - 1)
        else:
            self.metrics.between_tokens_seconds.add((now - self.last) / fresh, fresh)
        self.last = now


@contextmanager
def counted(metrics: Metrics, monotonic: Monotonic, *, echoed: int = 0) -> Generator[GenerationCount]:
    """Count one generation, and add it to the request's trace, when the context is left."""
    count = GenerationCount(metrics, monotonic, monotonic(), echoed)
    try:
        yield count
    finally:
        metrics.generated(count.outcome.partition(":")[0], count.prompt_tokens, count.completion_tokens)
        trace = current_trace()
        if trace is not None:
            trace.prompt_tokens += count.prompt_tokens
            trace.completion_tokens += count.completion_tokens
            trace.outcome = count.outcome
