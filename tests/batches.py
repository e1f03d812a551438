"""Generations for the scheduler's tests, on a model of a few numbers and a stepper that computes nothing."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch

from blyan.inference.decoding import decode
from blyan.inference.drafting import Drafter
from blyan.inference.engine import Offer
from blyan.inference.needs import Need
from blyan.inference.policy import Rules
from blyan.inference.reader import Delta, Finished, TokenReport
from blyan.inference.scheduler import Scheduler, Setting, Ticket
from blyan.inference.session import Embedded, Event, Failed, Work
from blyan.inference.step_times import Timed, untimed
from blyan.model.choosing import Choice, Chooser, Step
from blyan.model.config import ModelConfig
from blyan.model.loading import LoadedModel
from blyan.model.sampling import Sampling
from blyan.model.stepping import KVPages, Run, page_positions
from blyan.primitives.ids import PayloadId
from fakes import TokenPages

CONFIG = ModelConfig(
    family="qwen3_moe",
    vocab_size=61,
    hidden=4,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=2,
    dense_intermediate=4,
    expert_intermediate=4,
    experts=5,
    experts_per_token=2,
    normalise_top_k=True,
    moe_layers=(0, 1),
    attention_bias=False,
    tied_embeddings=True,
    rms_eps=1e-6,
    rope_theta=1e4,
    context_length=4096,
)
MANIFEST = PayloadId("f" * 64)
PAGE_BYTES = KVPages.page_bytes(CONFIG, torch.float32) + 2 * page_positions * 2 * 2


def model_of(config: ModelConfig = CONFIG) -> LoadedModel:
    """Looks like a loaded model as far as the scheduler looks."""
    weights = SimpleNamespace(embed=lambda: torch.zeros((config.vocab_size, config.hidden)))
    manifest = SimpleNamespace(config=config)
    made: Any = SimpleNamespace(manifest_id=MANIFEST, manifest=manifest, weights=weights, name="fake")
    return made


def answer(prompt: Sequence[int], tokens_max: int, sampling: Sampling = Sampling(), drafts: int = 0) -> Work:  # noqa: B008 - frozen
    """A generation of token ids."""
    drafter = Drafter(prompt, drafts) if drafts else None
    steps = decode(tuple(prompt), Choice(sampling, tokens_max), drafter=drafter)
    sent = None
    count = 0
    while True:
        try:
            item = steps.send(sent)
        except StopIteration:
            break
        sent = None
        if isinstance(item, Need):
            sent = yield item
        else:
            count += 1
            yield Delta("", (TokenReport(item.token, item.logprob, (), 0),), item.experts)
    yield Finished("length", len(prompt), count)


def expected(prompt: Sequence[int], tokens_max: int, sampling: Sampling = Sampling()) -> list[Step]:  # noqa: B008 - frozen
    """What that generation must give, by the plainest loop."""
    tokens, chooser = list(prompt), Chooser(prompt, Choice(sampling, tokens_max))
    steps: list[Step] = []
    while chooser.left:
        steps.append(chooser.choose(TokenPages.scores(CONFIG, tokens), ()))
        tokens.append(steps[-1].token)
    return steps


@dataclass
class Received:
    """The events of one generation."""

    ticket: Ticket
    events: queue.Queue[Event]
    deltas: list[Delta] = field(default_factory=list)

    def end(self, seconds: float = 10) -> Event:
        """The last event; what came before is in `deltas`."""
        limit = time.monotonic() + seconds
        while True:
            event = self.events.get(timeout=max(0.01, limit - time.monotonic()))
            if isinstance(event, Delta):
                self.deltas.append(event)
            else:
                assert isinstance(event, Finished | Failed | Embedded)
                return event

    @property
    def tokens(self) -> list[int]:
        return [report.token for delta in self.deltas for report in delta.tokens]

    @property
    def logprobs(self) -> list[float | None]:
        return [report.logprob for delta in self.deltas for report in delta.tokens]


@dataclass
class Bench:
    """A scheduler with its fake steppers."""

    scheduler: Scheduler
    steppers: list[TokenPages]
    model: LoadedModel

    def submit(self, work: Work, client: str = "", model: LoadedModel | None = None) -> Received:
        events: queue.Queue[Event] = queue.Queue()
        return Received(self.scheduler.submit(model or self.model, work, events.put, client=client), events)

    @property
    def steps(self) -> list[list[Run]]:
        """What the first stepper computed so far."""
        return self.steppers[0].steps if self.steppers else []

    @property
    def pool(self) -> Any:
        return next(iter(self.scheduler.engines)).pool

    def settle(self, holds: Callable[[], bool], seconds: float = 5) -> None:
        """Wait until that holds."""
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, "it does not come to hold"
            time.sleep(0.002)


RULES = Rules(running_max=8, step_tokens=64, prompt_tokens=32)


@contextmanager
def bench(
    *,
    pages: int = 64,
    rules: Rules = RULES,
    drafts_max: int = 0,
    models: Callable[[], int] = lambda: 1,
    offers: Callable[[LoadedModel], bool] = lambda _: True,
    prepare: Callable[[TokenPages], None] = lambda _: None,
    timed: Timed = untimed,
) -> Iterator[Bench]:
    """A scheduler over fake steppers, closed at the end."""
    steppers: list[TokenPages] = []

    def make(model: LoadedModel, kv: KVPages, _offer: Offer) -> TokenPages:
        made = TokenPages(model.manifest.config, kv)
        prepare(made)
        steppers.append(made)
        return made

    setting = Setting(pages * PAGE_BYTES, replace(rules, drafts_max=drafts_max), make)
    scheduler = Scheduler(setting, time.monotonic, models=models, offers=offers, timed=timed)
    try:
        yield Bench(scheduler, steppers, model_of())
    finally:
        for stepper in steppers:
            if stepper.allowed is not None:
                stepper.allowed.release(10_000)
        scheduler.close()
