"""One embedding: token ids in, a vector out, computed in batches with generations and as fairly shared.

Pooling: the mean over all tokens of the hidden states after the final norm, divided by its length. A model that was
trained to answer and not to embed gives what it has: texts about the same are near, scores are not calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

from blyan.inference.needs import Need
from blyan.inference.session import Embedded, Failed, Work
from blyan.model.loading import LoadedModel
from blyan.model.pooling import MeanPool
from blyan.primitives.errors import ContextLengthExceeded, Fault, InvalidInput

_rows = 512  # positions whose hidden states are kept at once


def embed(model: LoadedModel, tokens: Sequence[int]) -> Work:
    """Needs and the event of one embedding; a fault of blocks or input becomes `Failed`, the last event."""
    try:
        yield from _embed(model, tokens)
    except Fault as fault:
        yield Failed(fault)


def want_embeddable(model: LoadedModel, tokens: Sequence[int]) -> None:
    """Raise unless these tokens can be put through the model."""
    config = model.manifest.config
    if not tokens:
        raise InvalidInput("input: expected at least one token, found none")
    if len(tokens) > config.context_length:
        raise ContextLengthExceeded(
            f"input: expected at most {config.context_length} tokens, found {len(tokens)}",
            detail={"context_length": config.context_length, "prompt_tokens": len(tokens)},
        )
    bad = next((token for token in tokens if not 0 <= token < config.vocab_size), None)
    if bad is not None:
        raise InvalidInput(f"input: expected token ids from 0 to {config.vocab_size - 1}, found {bad}")


def _embed(model: LoadedModel, tokens: Sequence[int]) -> Work:
    want_embeddable(model, tokens)
    pool = MeanPool(model.manifest.config.hidden)
    for begin in range(0, len(tokens), _rows):
        piece = tuple(tokens[begin : begin + _rows])
        answer = yield Need(begin, piece, hidden=True, reach=len(tokens))
        assert answer is not None and answer.hidden is not None, "a need is answered"
        pool.add(answer.hidden)
    yield Embedded(pool.vector(), len(tokens))
