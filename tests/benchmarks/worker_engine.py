"""Our engine as a contender, without HTTP: `worker_engine.py MODEL TYPE…`.

Requests go to the thread that computes for a node, through the door that a node uses, and times are taken where its
events leave that thread. This file is the one place that knows that door.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from line_protocol import Ask, Timed, serve
from reference_models import reference

from blyan.inference.scheduler import Scheduler, Setting
from blyan.inference.session import Delta, Event, Failed, Finished, GenerationRequest, run
from blyan.inference.steppers import SteppersInTurn
from blyan.model.loading import LoadedModel
from blyan.model.sampling import Sampling
from blyan.node.config import InferenceConfig

LIMIT_S = 300
KV_BYTES = 1 << 30

Submit = Callable[[LoadedModel, GenerationRequest, Callable[[Event], None]], Any]


def compute_thread(models: int) -> tuple[Submit, SteppersInTurn]:
    """The thread, set up as a node sets it up, how it is given a request, and who chooses what computes."""
    rules = InferenceConfig().rules
    steppers = SteppersInTurn(torch.get_num_threads(), time.monotonic)
    setting = Setting(KV_BYTES * models, rules, steppers.make)
    scheduler = Scheduler(setting, time.monotonic, models=lambda: models)

    def submit(model: LoadedModel, request: GenerationRequest, emit: Callable[[Event], None]) -> Any:
        return scheduler.submit(model, run(model, request, scheduler.drafts_max), emit)

    return submit, steppers


def contender(submit: Submit, model: LoadedModel, sampling: Sampling) -> Ask:
    """A loaded model as one that can be asked."""

    def ask(prompt: Sequence[int], count: int) -> Timed:
        tokens: list[int] = []
        moments: list[tuple[float, int]] = []
        ended = threading.Event()
        faults: list[Exception] = []

        def emit(event: Event) -> None:
            if isinstance(event, Delta) and event.tokens:
                tokens.extend(report.token for report in event.tokens)
                moments.append((time.perf_counter(), len(tokens)))
            if isinstance(event, Failed):
                faults.append(event.fault)
            if isinstance(event, Finished | Failed):
                ended.set()

        request = GenerationRequest(tuple(prompt), sampling, tokens_max=count, ignore_eos=True)
        began = time.perf_counter()
        submit(model, request, emit)
        if not ended.wait(LIMIT_S):
            raise TimeoutError(f"expected {count} tokens in {LIMIT_S} s, found {len(tokens)}")
        if faults:
            raise faults[0]
        (first, with_it), (last, _) = moments[0], moments[-1]
        return Timed(tokens, first - began, with_it, last - first)

    return ask


def load() -> tuple[dict[str, Ask], str]:
    """Every type of the model that the command line names, in one compute thread."""
    name, *types = sys.argv[1:]
    found = reference(name, tuple(types))
    submit, steppers = compute_thread(len(types))
    greedy = Sampling(temperature=0.0)
    asks = {kind: contender(submit, found.loaded(kind), greedy) for kind in types}
    for ask in asks.values():
        ask((1, 2, 3), 4)
    deadline = time.monotonic() + LIMIT_S
    while steppers.pending and time.monotonic() < deadline:
        time.sleep(0.1)
    return asks, ""


if __name__ == "__main__":
    serve(load)
