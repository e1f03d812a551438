"""The transformer as a generator: at each MoE layer it yields expert calls and is sent their outputs.

It never fetches a weight of an expert and never calls the network; who computes an expert is the driver's matter
(`generate` drives it with local experts, `inference/executor` over the network). That makes "local equals
remote" one assertion. It is differentiable, so that training drives the same seam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from blyan.model.attention import rms_norm
from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall, by_expert
from blyan.model.kv_cache import Cache
from blyan.model.stage import Forward, LayerWeights, Observer, through


class TrunkWeights(LayerWeights, Protocol):
    """Everything of a model that is not a routed expert. Tensor names are those inside the blocks (see `parts`)."""

    def embed(self) -> Tensor:
        """Token embeddings [vocab, hidden]."""
        ...

    def head(self) -> Mapping[str, Tensor]:
        """`norm.weight`, and `lm_head.weight` unless the embeddings are tied."""
        ...


def forward(
    weights: TrunkWeights,
    config: ModelConfig,
    tokens: Tensor,
    cache: Cache | None = None,
    observe: Observer | None = None,
) -> Forward:
    """Hidden states [B, T, hidden] after the final norm, of token ids [B, T] int64.

    Yields, once per MoE layer, the expert calls of that layer (rising expert number, each expert at most once) and
    expects their outputs in the same order. With a cache, the T tokens follow the cached positions.
    """
    hidden = functional.embedding(tokens, weights.embed())
    hidden = yield from through(weights, config, range(config.layers), hidden, cache, observe)
    return rms_norm(hidden, weights.head()["norm.weight"], config.rms_eps)


def drive(steps: Forward, answer: Callable[[ExpertCall], Tensor]) -> Tensor:
    """Run a forward pass to its end, answering each call alone: the plainest driver, which others are held to."""
    try:
        calls = next(steps)
        while True:
            calls = steps.send([answer(call) for call in calls])
    except StopIteration as end:
        hidden: Tensor = end.value
        return hidden


def drive_together(
    passes: Sequence[Forward], answer: Callable[[Sequence[ExpertCall]], Sequence[Tensor]]
) -> list[Tensor]:
    """Run passes through the same layers side by side: each has at its end what `drive` gives for it alone.

    `answer` gets all calls of a layer that are for the same expert, and gives the output of each.
    """
    ended: list[Tensor] = []

    def advanced(steps: Forward, outputs: list[Tensor] | None) -> list[ExpertCall]:
        try:
            return next(steps) if outputs is None else steps.send(outputs)
        except StopIteration as end:
            ended.append(end.value)
            return []

    calls = [advanced(steps, None) for steps in passes]
    while len(ended) < len(passes):
        outputs = iter(_answered([call for each in calls for call in each], answer))
        calls = [advanced(steps, list(islice(outputs, len(each)))) for steps, each in zip(passes, calls, strict=True)]
        assert len(ended) in (0, len(passes)), "all go through the same layers"
    return ended


def _answered(calls: Sequence[ExpertCall], answer: Callable[[Sequence[ExpertCall]], Sequence[Tensor]]) -> list[Tensor]:
    """The output of each call of one layer, in order, one expert after the other."""
    outputs: dict[int, Tensor] = {}
    for places in by_expert(calls):
        outputs.update(zip(places, answer([calls[place] for place in places]), strict=True))
    return [outputs[place] for place in range(len(calls))]


def logits(weights: TrunkWeights, config: ModelConfig, hidden: Tensor) -> Tensor:
    """Scores over the vocabulary [..., vocab] of final hidden states [..., hidden]."""
    matrix = weights.embed() if config.tied_embeddings else weights.head()["lm_head.weight"]
    return functional.linear(hidden, matrix)
