"""Running a text through a model whose weights come part by part, to see what quantising them costs.

One layer is in memory at a time, so that a checkpoint larger than memory can be measured while it is imported. The
first half of the tokens shows which inputs are large (`quantize` weighs its errors by them), the second half is what
both models are scored on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from blyan.model.config import ModelConfig
from blyan.model.experts import ExpertCall, swiglu
from blyan.model.linear import WatchedTensors
from blyan.model.parts import Part, expert_part, parts_of
from blyan.model.tokenizer import Tokenizer
from blyan.model.transformer import drive, forward, logits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import InvalidInput, UnsupportedModel

ReadTensor: TypeAlias = Callable[[Part, str], Tensor]
Names: TypeAlias = Callable[[Part], Iterable[str]]
MeanSquares: TypeAlias = dict[str, dict[str, Tensor]]  # part → matrix → [in] fp32

tokens_max: Final = 512  # of each half
_runs_max: Final = 5
_seconds_enough: Final = 1.0  # of computing, to time it
_rows_at_once: Final = 64  # positions scored at once: a row of scores is as wide as the vocabulary
_random_tokens: Final = 256  # of each half, for a model without a tokenizer


@dataclass(frozen=True, slots=True)
class Halves:
    """Token ids [1, T] to calibrate with and [1, T] to measure on."""

    calibration: Tensor
    held_out: Tensor


@dataclass(frozen=True, slots=True)
class Pass:
    """What one run of a text gave."""

    hidden: Tensor  # [T, hidden] after the final norm
    seconds: float  # of computing, reading left out
    mean_squares: MeanSquares
    weights: StreamedWeights


@dataclass(frozen=True, slots=True)
class Cost:
    """What the model lost, in nats a token."""

    before: float  # mean negative log-likelihood
    after: float
    divergence: float  # mean Kullback-Leibler divergence of the answers after from those before


def halves_of(text: str, tokenizer: Tokenizer | None, config: ModelConfig) -> Halves:
    """The text's tokens in two halves; drawn ones, always the same, where there is no tokenizer."""
    most = min(tokens_max, config.context_length)
    if tokenizer is None:
        drawn = torch.randint(
            config.vocab_size, (2, 1, min(most, _random_tokens)), generator=torch.Generator().manual_seed(0)
        )
        return Halves(drawn[0], drawn[1])
    tokens = torch.tensor([tokenizer.encode_start(text, 2 * most)], dtype=torch.int64)
    half = tokens.shape[1] // 2
    if half < 2:
        raise InvalidInput(f"calibration text: expected at least 4 tokens, found {tokens.shape[1]}")
    return Halves(tokens[:, :half], tokens[:, half : 2 * half])


class StreamedPart(Mapping[str, Tensor]):
    """The tensors of a part, each read when it is looked up and kept by nobody here."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self._names = tuple(names)
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StreamedWeights:
    """A model's trunk, read when it is needed. Implements `transformer.TrunkWeights`."""

    def __init__(
        self, config: ModelConfig, read: ReadTensor, now: Monotonic, layout: Names | None, *, watch: bool
    ) -> None:
        self._parts = {part.name: part for part in parts_of(config)}
        self._read = read
        self._now = now
        self._layout = layout
        self._watch = watch
        self.mean_squares: MeanSquares = {}
        self.seconds_reading = 0.0

    def embed(self) -> Tensor:
        """Token embeddings [vocab, hidden]."""
        return self._read(self._parts["embed"], "embed_tokens.weight")

    def head(self) -> Mapping[str, Tensor]:
        """Final norm, and the output matrix unless it is tied."""
        part = self._parts["head"]
        return StreamedPart(part.shapes, lambda name: self._read(part, name))

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        """The trunk's tensors of one layer."""
        return self._part(f"layer.{layer}")

    def answer(self, call: ExpertCall) -> Tensor:
        """Compute an expert call here."""
        return swiglu(self._part(expert_part(call.layer, call.expert)), "", call.hidden)

    def _part(self, name: str) -> Mapping[str, Tensor]:
        part = self._parts[name]
        names = part.shapes if self._layout is None else self._layout(part)
        streamed = StreamedPart(names, lambda tensor: self._loaded(part, tensor))
        if not self._watch:
            return streamed
        watched = WatchedTensors(streamed)
        self.mean_squares[name] = watched.mean_squares
        return watched

    def _loaded(self, part: Part, name: str) -> Tensor:
        began = self._now()
        tensor = self._read(part, name).clone()  # reads it now, so that computing is timed without
        self.seconds_reading += self._now() - began
        return tensor


@torch.inference_mode()
def run(
    config: ModelConfig,
    read: ReadTensor,
    tokens: Tensor,
    now: Monotonic,
    *,
    layout: Names | None = None,
    watch: bool = False,
) -> Pass:
    """Put tokens [1, T] through the model that `read` gives, tensor by tensor; `layout` names those of a part.

    A short run is repeated and its fastest counts: the first warms up. `UnsupportedModel` if what comes out is no
    number.
    """
    seconds: list[float] = []
    while True:
        weights = StreamedWeights(config, read, now, layout, watch=watch)
        began = now()
        hidden = drive(forward(weights, config, tokens), weights.answer)[0]
        seconds.append(max(now() - began - weights.seconds_reading, 1e-9))
        if not bool(torch.isfinite(hidden).all()):
            raise UnsupportedModel(
                f"model: expected numbers on {tokens.shape[1]} tokens, found infinities or NaN: an overflow?"
            )
        if watch or sum(seconds) > _seconds_enough or len(seconds) == _runs_max:
            return Pass(hidden, min(seconds), weights.mean_squares, weights)


@torch.inference_mode()
def compare(config: ModelConfig, tokens: Tensor, before: Pass, after: Pass) -> Cost:
    """How much worse the model after predicts tokens [1, T], of which there must be two."""
    lost_before = lost_after = divergence = 0.0
    targets = tokens[0, 1:]
    for begin in range(0, len(targets), _rows_at_once):
        rows = slice(begin, min(begin + _rows_at_once, len(targets)))
        first = functional.log_softmax(logits(before.weights, config, before.hidden[rows]).float(), dim=-1)
        second = functional.log_softmax(logits(after.weights, config, after.hidden[rows]).float(), dim=-1)
        lost_before += float(functional.nll_loss(first, targets[rows], reduction="sum"))
        lost_after += float(functional.nll_loss(second, targets[rows], reduction="sum"))
        divergence += float(functional.kl_div(second, first, reduction="sum", log_target=True))
    count = len(targets)
    return Cost(lost_before / count, lost_after / count, max(0.0, divergence / count))
