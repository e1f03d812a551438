"""One model's computing: its pages, who computes in them, and the sequences that are on their way.

The compute thread's alone, but for `offer`. It carries out what `policy` decides: admits, preempts, computes a step,
and turns what a step gave into answers to needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from blyan.inference.chosen_experts import ChosenExperts
from blyan.inference.fairness import read_weight, written_weight
from blyan.inference.needs import Answer, Need
from blyan.inference.pages import PagePool
from blyan.inference.policy import Running, Waiting
from blyan.inference.sequence import TokenSequence, alike_until, pages_for
from blyan.model.loading import LoadedModel
from blyan.model.stepping import (
    KVPages,
    Leased,
    Patience,
    Ready,
    Run,
    RunFault,
    RunResult,
    Stepper,
    endless,
    page_positions,
    waits_of,
)
from blyan.primitives.errors import Fault

Offer: TypeAlias = Callable[[Callable[[], Stepper]], None]
MakeStepper: TypeAlias = Callable[[LoadedModel, KVPages, Offer], Stepper]  # one at once; perhaps a better one later
NotedExperts: TypeAlias = Callable[[LoadedModel, NDArray[np.int32]], None]  # [moe layers, n, top k] of one run


def unnoted(_model: LoadedModel, _chosen: NDArray[np.int32]) -> None:
    """Nobody is told which experts a run chose."""


_pages_max: Final = 1 << 16  # two million positions: more would cost lists without end for a tiny model


def page_bytes(model: LoadedModel) -> int:
    """What one page of this model takes, the experts of its positions included."""
    config = model.manifest.config
    chosen = 2 * page_positions * len(config.moe_layers) * config.experts_per_token
    return KVPages.page_bytes(config, model.weights.embed().dtype) + chosen


def page_count(model: LoadedModel, kv_bytes: int) -> int:
    """How many pages of this model fit `kv_bytes`."""
    return min(kv_bytes // page_bytes(model), _pages_max)


def waiting_of(sequence: TokenSequence, pages: int) -> Waiting:
    """What the policy reads of a sequence that waits for some of so many pages."""
    count = len(sequence.tokens)
    wants = min(pages_for(count + 1), pages)  # one position more, if there is one
    return Waiting(sequence.id, sequence.client, count - sequence.computed, wants)


class Engine:
    """Sequences of one model. `kv_bytes` bounds keys and values, which take memory as they are first written."""

    def __init__(self, model: LoadedModel, kv_bytes: int, make_stepper: MakeStepper, noted: NotedExperts) -> None:
        config = model.manifest.config
        self.model, self.kv_bytes, self._noted = model, kv_bytes, noted
        self.staged = False  # whether its pages are counted here and lie on stages
        pages = page_count(model, kv_bytes)
        self.positions = pages * page_positions  # that a sequence may have at most
        self.kv = KVPages(config, model.weights.embed().dtype, pages)
        self.pool = PagePool(pages)
        self._offered: Callable[[], Stepper] | None = None
        self.stepper = make_stepper(model, self.kv, self.offer)
        self.waits = waits_of(self.stepper)
        self.leased = self.stepper if isinstance(self.stepper, Leased) else None  # whose pages lie elsewhere
        self.limit: int | None = None  # bytes that it is to end in, once its model is offered no more
        self.outgrown_since: float | None = None  # that its memory is to change, and it was first found running
        self.jitted = False  # whether a stepper that was offered later took over
        self.running: dict[int, TokenSequence] = {}
        self.waiting: dict[str, dict[int, Waiting]] = {}  # client → id → what the policy reads, in order of id
        self.drafts_max = 0  # that were welcome in the last step
        self.sequences: dict[int, TokenSequence] = {}  # all of them
        self.alike, self._chosen = alike_until(config), ChosenExperts(config, pages)
        self._admissions = self._runs = 0
        self._no_scores = np.empty((0, config.vocab_size), np.float32)

    def offer(self, make: Callable[[], Stepper]) -> None:
        """Compute with another stepper over the same pages from the next step on. May be called from any thread."""
        self._offered = make

    def close(self) -> None:
        """Let go of everything; there is nothing to do."""
        self._offered = None
        self.stepper.close()
        self.kv.close()
        self._chosen.close()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.sequences

    @property
    def lacks_pages(self) -> bool:
        """Whether somebody waits who would be admitted if there were more pages."""
        heads = (next(iter(queue.values())) for queue in self.waiting.values())
        return any(head.pages + len(self.running) > self.pool.free for head in heads)

    def add(self, number: int, client: str, need: Need, patience: Patience = endless) -> TokenSequence:
        """A new sequence, which waits."""
        sequence = TokenSequence(number, client, self.alike, patience=patience)
        sequence.ask(need)
        self.adopt(sequence)
        return sequence

    def adopt(self, sequence: TokenSequence) -> None:
        """A sequence that waited for another engine of this model."""
        self.sequences[sequence.id] = sequence
        self.enqueue(sequence)

    def hand_over(self) -> list[TokenSequence]:
        """Those that wait, who go elsewhere. Nothing runs."""
        assert not self.running, "nothing runs"
        found = list(self.sequences.values())
        self.sequences.clear()
        self.waiting.clear()
        return found

    def ask(self, sequence: TokenSequence, need: Need) -> None:
        """The next need of a sequence that runs. Guesses that it kept stand from now on."""
        held = sequence.held
        assert held is not None, "it runs"
        if need.start > held.length:
            self.pool.filled(held, sequence.tokens[held.length : need.start])
        sequence.ask(need)

    def remove(self, sequence: TokenSequence) -> None:
        """It ended, or nobody wants it: its pages are free at once."""
        del self.sequences[sequence.id]
        self.running.pop(sequence.id, None)
        self._unwait(sequence)
        if sequence.held is not None:
            self.pool.release(sequence.held)
            sequence.held = None

    def preempt(self, number: int) -> None:
        """It gives its pages back and waits, to be computed again from its tokens."""
        sequence = self.running.pop(number)
        if sequence.held is not None:
            self.pool.release(sequence.held)
        sequence.restart()
        self.enqueue(sequence)

    def admit(self, number: int) -> bool:
        """Give a sequence pages for all its tokens; False, and it waits on, if fewer are free than was planned with."""
        sequence = self.sequences[number]
        count = len(sequence.tokens)
        held = self.pool.begin(sequence.tokens, compute_min=max(1, count - sequence.reusable), share=sequence.shared)
        if not self.pool.extend(held, count):
            self.pool.release(held)
            return False
        self._unwait(sequence)
        sequence.begin(held, self._admissions)
        self._admissions += 1
        self.running[number] = sequence
        return True

    def views(self) -> list[Running]:
        """What runs, as the policy reads it."""
        return [sequence.view() for sequence in self.running.values()]

    def runs(self, tokens: Mapping[int, int]) -> list[tuple[TokenSequence, Run]]:
        """The runs of a step in which each sequence gets that many tokens."""
        made: list[tuple[TokenSequence, Run]] = []
        for number, most in tokens.items():
            sequence = self.running.get(number)
            if sequence is None or most < 1:
                continue
            held = sequence.held
            assert held is not None, "it runs"
            if sequence.need.drafts:
                sequence.keep_drafts(max(0, most - sequence.left))
            if not self.pool.extend(held, sequence.computed + min(most, len(sequence.tokens) - sequence.computed)):
                continue  # a preempted one shared its pages: the next plan knows what is free
            self._runs += 1
            sequence.last = self._runs
            ahead = self.leased is not None and len(tokens) == 1  # others would come between
            made.append((sequence, sequence.run(most, ahead=ahead)))
        return made

    def compute(self, runs: list[tuple[TokenSequence, Run]], ready: Ready) -> dict[int, Fault]:
        """Compute a step; `ready` as `Stepper.step` has it. Faults of single runs by the ids of their sequences, which
        must then be removed, as all where the stepper raises something."""
        if self._offered is not None:
            make, self._offered = self._offered, None
            before, self.stepper = self.stepper, make()
            self.waits = waits_of(self.stepper)
            before.close()  # who asks other nodes does so without a moment in which nobody does
            self.jitted = True
        results = self.stepper.step([run for _, run in runs], ready)
        failed: dict[int, Fault] = {}
        for (sequence, run), result in zip(runs, results, strict=True):
            if isinstance(result, RunFault):
                failed[sequence.id] = result.reason
            else:
                self._took(sequence, run, result)
        return failed

    def charge(self, sequence: TokenSequence) -> int:
        """Weighted tokens that were computed for it since the last time, none of them twice."""
        begin, end = sequence.charged, sequence.computed
        if end <= begin:
            return 0
        sequence.charged = end
        read = max(0, min(end, sequence.need.reach) - begin)
        return read * read_weight + (end - begin - read) * written_weight

    def answer(self, sequence: TokenSequence) -> Answer:
        """The answer to a need that is complete."""
        need, held = sequence.need, sequence.held
        assert held is not None and sequence.complete, "computed"
        hidden = sequence.hidden
        return Answer(
            _joined(sequence.scores) if sequence.scores else self._no_scores,
            self._chosen.of(held.pages, need.start, need.end),
            self._chosen.layers,
            torch.cat(hidden) if hidden else None,
            self.drafts_max,
            sequence.drawn,
        )

    def _took(self, sequence: TokenSequence, run: Run, result: RunResult) -> None:
        held = sequence.held
        assert held is not None, "it runs"
        end = run.start + len(run.tokens)
        self._chosen.put(held.pages, run.start, result.chosen)
        self._noted(self.model, result.chosen)
        sequence.drawn = result.drawn
        if run.scored and result.drawn is None:
            sequence.scores.append(result.scores)
        if result.hidden is not None:
            sequence.hidden.append(result.hidden)
        sequence.computed = end
        sure = min(end, sequence.need.end - sequence.need.drafts)
        self.pool.filled(held, run.tokens[: sure - run.start])

    def enqueue(self, sequence: TokenSequence) -> None:
        """It waits, in its place."""
        queue = self.waiting.setdefault(sequence.client, {})
        waits = waiting_of(sequence, self.pool.pages)
        if not queue or sequence.id > next(reversed(queue)):
            queue[sequence.id] = waits
        else:  # it came before some who wait
            merged = dict(sorted({**queue, sequence.id: waits}.items()))
            self.waiting[sequence.client] = merged

    def _unwait(self, sequence: TokenSequence) -> None:
        queue = self.waiting.get(sequence.client)
        if queue is not None and queue.pop(sequence.id, None) is not None and not queue:
            del self.waiting[sequence.client]


def _joined(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return scores[0] if len(scores) == 1 else np.concatenate(scores)
