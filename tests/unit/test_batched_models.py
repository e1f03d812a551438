"""Answers of small random models in a batch are those of the plain loop alone: with the plain stepper, with the jitted
one and its threads, and where one takes over from the other; whoever else comes, leaves, or loses its pages.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from batches import Received
from blyan.inference.embedding import embed
from blyan.inference.engine import MakeStepper
from blyan.inference.pages import PagePool
from blyan.inference.policy import Rules
from blyan.inference.scheduler import Scheduler, Setting
from blyan.inference.session import Embedded, Event, Finished, GenerationRequest, run
from blyan.inference.steppers import plain_stepper
from blyan.model.choosing import Step
from blyan.model.config import ModelConfig
from blyan.model.fused_step import FusedStepper
from blyan.model.generate import forward_locally, generate
from blyan.model.likeliest import Scores
from blyan.model.pooling import MeanPool
from blyan.model.quantization import Quantization
from blyan.model.rope_scaling import RopeScaling
from blyan.model.sampling import Sampling
from blyan.model.stepping import KVPages, page_positions
from random_models import RandomWeights, small_config, vector_config

pytestmark = pytest.mark.slow

MODELS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "qwen2_moe with windows": {"family": "qwen2_moe", "window": 11, "window_layers": (0, 2)},
    "a rope that depends on the length": {"rope_scaling": RopeScaling("dynamic", factor=4.0, original_context=70)},
}


class Evens:
    """A grammar of tokens that alternate between even and odd, twelve of them."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def begin(self) -> Evens:
        return Evens()

    def allowed(self, scores: Scores) -> Scores:
        odd = np.arange(len(scores)) % 2 == 1
        return np.where(odd if len(self.taken) % 2 else ~odd, np.float32(-np.inf), scores)

    def take(self, token: int) -> None:
        self.taken.append(token)

    @property
    def ended(self) -> bool:
        return len(self.taken) == 12


def loaded(config: ModelConfig, dtype: torch.dtype = torch.float32, scheme: Quantization | None = None) -> Any:
    manifest = SimpleNamespace(config=config, generation=SimpleNamespace(eos=(3,)))
    weights = RandomWeights(config, dtype, scheme=scheme)
    return SimpleNamespace(manifest_id="f" * 64, manifest=manifest, weights=weights, tokenizer=None, name="random")


def jitted(model: Any, kv: KVPages, _offer: object) -> FusedStepper:
    """Two threads."""
    return FusedStepper(model.weights, model.manifest.config, kv, 2, time.monotonic)


@contextmanager
def scheduled(model: Any, pages: int, rules: Rules, make_stepper: MakeStepper = plain_stepper) -> Iterator[Scheduler]:
    config = model.manifest.config
    page = KVPages.page_bytes(config, model.weights.embed().dtype)
    page += 2 * page_positions * len(config.moe_layers) * config.experts_per_token
    scheduler = Scheduler(Setting(pages * page, rules, make_stepper), time.monotonic)
    try:
        yield scheduler
    finally:
        scheduler.close()


def submit(scheduler: Scheduler, model: Any, request: GenerationRequest, client: str) -> Received:
    events: queue.Queue[Event] = queue.Queue()
    work = run(model, request, scheduler.drafts_max)
    return Received(scheduler.submit(model, work, events.put, client=client), events)


def requests(config: ModelConfig, count: int, *, alike: int) -> list[GenerationRequest]:
    """Greedy and seeded, with penalties, echo, candidates, a grammar; the first `alike` tokens are everybody's."""
    chance = random.Random(3)
    first = [chance.randrange(5, 200) for _ in range(alike)]
    made = []
    for number in range(count):
        own = [5 + number, *(chance.randrange(5, 200) for _ in range(chance.randrange(1, 60)))]
        grammar: Any = Evens() if number % 5 == 3 else None
        sampling = Sampling(
            temperature=0.0 if number % 2 else 0.9,
            seed=number,
            top_p=0.95,
            repetition_penalty=1.1 if number % 3 == 0 else 1.0,
            frequency_penalty=0.3 if number % 4 == 1 else 0.0,
        )
        made.append(
            GenerationRequest(
                tuple(first + own), sampling, 6 + 5 * number, top=number % 3, echo=number % 6 == 2, grammar=grammar
            )
        )
    return made


def alone(model: Any, request: GenerationRequest) -> list[Step]:
    assert request.tokens_max is not None
    grammar: Any = request.grammar
    steps = generate(
        model.weights,
        model.manifest.config,
        request.prompt,
        request.sampling,
        tokens_max=request.tokens_max,
        stop_tokens=frozenset({3}),
        top=request.top,
        echo=request.echo,
        constraint=grammar and grammar.begin(),
    )
    return [step for step in steps if step is not None]


def compare(received: Received, steps: list[Step], request: GenerationRequest, tolerance: float) -> None:
    end = received.end(60)
    assert isinstance(end, Finished)
    stopped = steps[-1].token == 3
    told = steps[:-1] if stopped else steps
    assert received.tokens == [step.token for step in told]
    assert end.reason == ("stop" if stopped or (request.grammar and end.completion_tokens == 12) else "length")
    reports = [report for delta in received.deltas for report in delta.tokens]
    for report, step in zip(reports, told, strict=True):
        if step.logprob is None:
            assert report.logprob is None
        else:
            assert report.logprob == pytest.approx(step.logprob, abs=tolerance, rel=0)
        assert [each.token for each in report.top] == [each.token for each in step.top]
    sums = [
        sum(count for _, _, count in used)
        for used in (
            (each for delta in received.deltas for each in delta.experts),
            (each for step in steps for each in step.experts),
        )
    ]
    assert sums[0] == sums[1]


def all_come_free(pool: PagePool) -> bool:
    """Whether it does in time: who left is let go before the next step, which nobody who is left may wait for."""
    end = time.monotonic() + 10
    while pool.free != pool.pages and time.monotonic() < end:
        time.sleep(0.01)
    return pool.free == pool.pages


def test_a_batch_of_whole_prompts_equals_the_plain_loop_bit_for_bit() -> None:
    """Nothing cut, nothing shared: the very numbers."""
    model = loaded(small_config())
    asked = [one for one in requests(model.manifest.config, 9, alike=0) if not one.echo]
    with scheduled(model, 200, Rules(16, 1024, 1024)) as scheduler:
        received = [submit(scheduler, model, one, f"c{number % 3}") for number, one in enumerate(asked)]
        for one, request in zip(received, asked, strict=True):
            compare(one, alone(model, request), request, 0.0)


@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize("name", MODELS)
def test_cut_shared_preempted_and_guessed_ahead_answers_are_the_same(name: str, drafts: int) -> None:
    """The same tokens and candidates; log-probabilities within what torch's kernels of other shapes differ by."""
    model = loaded(small_config(**MODELS[name]))
    asked = requests(model.manifest.config, 9, alike=40)
    with scheduled(model, 9, Rules(6, 48, 16, drafts)) as scheduler:
        received = [submit(scheduler, model, one, f"c{number % 3}") for number, one in enumerate(asked)]
        left = submit(scheduler, model, asked[0], "left")
        left.ticket.cancel()
        for one, request in zip(received, asked, strict=True):
            compare(one, alone(model, request), request, 1e-4)
        assert (scheduler.counters.drafted > 0) == (drafts > 0)
        pool = next(iter(scheduler.engines)).pool
        assert all_come_free(pool), "what those who left held too"
        assert pool.counters.reused_positions > 0


@pytest.mark.parametrize("make_stepper", [plain_stepper, jitted])
def test_an_answer_that_lost_its_pages_goes_on_with_the_same_tokens(make_stepper: MakeStepper) -> None:
    """Two need four pages each, and there are five: whoever is younger is computed again."""
    model = loaded(vector_config(vocab_size=211))
    asked = [
        GenerationRequest(
            tuple((number + 3 * at) % 200 + 5 for at in range(33)), Sampling(seed=number), 90, ignore_eos=True
        )
        for number in range(2)
    ]
    with scheduled(model, 5, Rules(4, 64, 64), make_stepper) as scheduler:
        with scheduler._wake:  # both are there before the first step
            received = [submit(scheduler, model, one, f"c{number}") for number, one in enumerate(asked)]
        for one, request in zip(received, asked, strict=True):
            assert isinstance(one.end(60), Finished)
            steps = generate(model.weights, model.manifest.config, request.prompt, request.sampling, tokens_max=90)
            assert one.tokens == [step.token for step in steps if step is not None]
        assert scheduler.counters.preemptions > 0


def test_an_embedding_in_a_batch_is_the_one_of_the_text_alone() -> None:
    """Long ones come in pieces."""
    model = loaded(small_config(context_length=2048))
    config = model.manifest.config
    texts = [tuple((7 * at + number) % 200 for at in range(length)) for number, length in enumerate((3, 90, 700))]
    with scheduled(model, 64, Rules(8, 128, 64)) as scheduler:
        received = []
        for text in texts:
            events: queue.Queue[Event] = queue.Queue()
            received.append(Received(scheduler.submit(model, embed(model, text), events.put), events))
        for one, text in zip(received, texts, strict=True):
            end = one.end(60)
            assert isinstance(end, Embedded)
            pool = MeanPool(config.hidden)
            pool.add(forward_locally(model.weights, config, text, None))
            assert end.tokens == len(text)
            assert end.vector == pytest.approx(pool.vector(), abs=1e-5)


JITTED: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "qwen2_moe with windows": {
        "family": "qwen2_moe", "shared_intermediate": 32, "attention_bias": True, "window": 9, "window_layers": (0, 2),
    },
    "olmoe": {"family": "olmoe", "clip_qkv": 0.7, "normalise_top_k": False},
}  # fmt: skip


def leave_at_random(scheduler: Scheduler, model: Any, asked: list[GenerationRequest], seed: int) -> None:
    """Others come meanwhile, and leave before they began, in their prompts, or in their answers."""
    chance = random.Random(seed)
    for number in range(12):
        other = submit(scheduler, model, chance.choice(asked), f"other {number % 4}")
        if number % 3:
            time.sleep(chance.random() * 0.01)
        if number % 3 == 2:
            other.events.get(timeout=60)
        other.ticket.cancel()


TYPES = {
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "bf16, int8": (torch.bfloat16, Quantization("int8")),
    "bf16, int4": (torch.bfloat16, Quantization("int4", group=16)),
    "fp32, fp8": (torch.float32, Quantization("fp8")),
}


@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize(("name", "kind"), [*((name, "fp32") for name in JITTED), *(("olmoe", each) for each in TYPES)])
def test_jitted_answers_are_the_same_bits_whoever_comes_and_leaves(name: str, kind: str, drafts: int) -> None:
    """Tokens, log-probabilities and candidates of every type, in little memory, beside callers that leave."""
    model = loaded(vector_config(vocab_size=211, **JITTED[name]), *TYPES.get(kind, ()))
    asked = requests(model.manifest.config, 9, alike=40)
    lonely: list[Received] = []
    with scheduled(model, 60, Rules(1, 512, 512), jitted) as scheduler:
        for request in asked:
            lonely.append(submit(scheduler, model, request, ""))
            assert isinstance(lonely[-1].end(60), Finished)
    with scheduled(model, 9, Rules(6, 48, 16, drafts), jitted) as scheduler:
        received = [submit(scheduler, model, one, f"c{number % 3}") for number, one in enumerate(asked)]
        leave_at_random(scheduler, model, asked, drafts)
        for one, other in zip(received, lonely, strict=True):
            assert isinstance(one.end(60), Finished)
            assert one.tokens == other.tokens
            assert one.logprobs == other.logprobs
            tops = [[report.top for delta in each.deltas for report in delta.tokens] for each in (one, other)]
            assert tops[0] == tops[1]
        pool = next(iter(scheduler.engines)).pool
        assert all_come_free(pool), "what those who left held too"


@pytest.mark.parametrize("name", JITTED)
def test_answers_go_on_where_the_jitted_step_takes_over(name: str) -> None:
    """In the midst of prompts and answers, in little memory, beside callers that leave: as the plain loop has it."""
    model = loaded(vector_config(vocab_size=211, **JITTED[name]))
    asked = requests(model.manifest.config, 9, alike=40)
    with scheduled(model, 9, Rules(6, 48, 16)) as scheduler:
        received = [submit(scheduler, model, one, f"c{number % 3}") for number, one in enumerate(asked)]
        first = received[0].events.get(timeout=60)
        engine = next(iter(scheduler.engines))
        engine.offer(lambda: jitted(model, engine.kv, None))
        leave_at_random(scheduler, model, asked, 7)
        received[0].events.queue.appendleft(first)
        for one, request in zip(received, asked, strict=True):
            compare(one, alone(model, request), request, 1e-3)
        assert engine.jitted
