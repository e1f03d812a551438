"""What a stage does at a model's two ends for its leads: it embeds tokens before the first layer, and draws the next
ones after the last. The thread's alone that computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blyan.inference.head_in_turn import HeadInTurn
from blyan.model.choosing import drawn
from blyan.model.sampling import Sampling
from blyan.model.stage_step import Head, StagedModel
from blyan.primitives.errors import InvalidInput, NotComputable, NotHeld
from blyan.wire.stage_call import StageCall
from blyan.wire.stage_draws import Draw, not_finite, nothing
from blyan.wire.stage_shapes import RunShape


def sampling_of(draw: Draw) -> Sampling:
    """As it is computed with; `InvalidInput` for what is out of range."""
    return Sampling(draw.temperature, draw.top_p, draw.top_k, draw.seed, draw.min_p)


def draw_of(sampling: Sampling) -> Draw:
    """As it is sent; nothing of it reshapes scores."""
    return Draw(sampling.temperature, sampling.top_p, sampling.min_p, sampling.top_k, sampling.seed)


@dataclass(frozen=True, slots=True)
class Ends:
    """Of one lease: what it may do beside its layers."""

    model: StagedModel
    embeds: bool  # its layers are the first, and embeddings are here
    head: HeadInTurn | None  # its layers are the last, and the head is here

    def want(self, call: StageCall) -> None:
        """A fault for a call that asks for more."""
        if call.given == "tokens" and not self.embeds:
            raise NotHeld("stage call: expected hidden states, found tokens, and no embeddings are held here")
        if call.draws and not call.route:
            if self.head is None:
                raise NotHeld("stage call: expected none to be drawn, for no head is held here")
            for each in call.draws:
                if each is not None:
                    sampling_of(each)

    def want_tokens(self, tokens: bytes) -> None:
        """`InvalidInput` for tokens that the model has not; what could not be drawn is one that nobody waits for."""
        vocabulary = self.model.config.vocab_size
        if tokens and int(np.frombuffer(tokens, "<i4").max()) >= vocabulary:
            raise InvalidInput(f"stage call: expected tokens below {vocabulary}, found others")

    def embedded(self, tokens: bytes) -> Tensor:
        """Hidden states [n, hidden] of token ids I32 LE [n]."""
        ids = torch.tensor(np.frombuffer(tokens, "<i4").clip(min=0).tolist(), dtype=torch.int64)
        return self.model.weights.embed()[ids]

    def drawn(self, call: StageCall, hidden: Tensor) -> bytes:
        """The token after each run, I32 LE, of hidden states [n, hidden] after the last layer."""
        assert self.head is not None, "wanted"
        head, first, found = self.head.current(), 0, list[int]()
        sound = bool(torch.isfinite(hidden).all())
        for run, draw in zip(call.runs, call.draws, strict=True):
            rows, first = hidden[first : first + run.rows], first + run.rows
            if not sound and not bool(torch.isfinite(rows).all()):
                found.append(not_finite)
            else:
                found.append(nothing if draw is None else _token(head, rows[-1:], draw, run))
        return np.array(found, "<i4").tobytes()

    def close(self) -> None:
        """Nobody computes with it any more."""
        if self.head is not None:
            self.head.close()


def _token(head: Head, last: Tensor, draw: Draw, run: RunShape) -> int:
    try:
        (scores,) = head.scores(last)
    except NotComputable:
        return not_finite
    return drawn(scores, sampling_of(draw), run.start + run.rows)


def tokens_of(tokens: bytes) -> Sequence[int]:
    """Token ids of I32 LE."""
    return np.frombuffer(tokens, "<i4").tolist()
