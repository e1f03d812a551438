"""Quantising a checkpoint while it is imported: calibrate, make the tensors, measure what it cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final, Self

from torch import Tensor

from blyan.model import calibration
from blyan.model.calibration import MeanSquares, Pass
from blyan.model.hf_import import HfCheckpoint
from blyan.model.manifest import Manifest
from blyan.model.parts import Part
from blyan.model.quantization import Quantization
from blyan.model.quantize import QuantizedPart
from blyan.model.stored_tensors import stored_layout
from blyan.model.tokenizer import parse_payload
from blyan.model.weights import ModelWeights
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import InvalidInput
from blyan.storage import durable, tensor_block
from blyan.storage.blob_store import BlobStore

_micro: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class QuantizationRequest:
    """What to do to the matrices, and the text to calibrate with and to measure on."""

    plan: Quantization
    text: str
    now: Monotonic

    @classmethod
    def of(
        cls, scheme: str, *, now: Monotonic, group: int = 64, method: str | None = None, text: Path | None = None
    ) -> Self:
        """The request for a scheme; `InvalidInput` for a text that is none, `UnsupportedModel` for what does not go."""
        grouped = scheme == "int4"
        plan = Quantization(scheme, group if grouped else 0, method or ("search" if grouped else "round"))
        return cls(plan, _calibration_text(text), now)

    @property
    def text_digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Quantizer:
    """One request for one checkpoint; it is run with the text here, before anything is stored."""

    def __init__(self, checkpoint: HfCheckpoint, request: QuantizationRequest, say: Callable[[str], None]) -> None:
        """`UnsupportedModel` if the checkpoint's own answers are no numbers, `InvalidInput` for too short a text."""
        self._checkpoint = checkpoint
        self._request = request
        config = checkpoint.config
        tokenizer = None if checkpoint.tokenizer is None else parse_payload(checkpoint.tokenizer, config.vocab_size)
        halves = calibration.halves_of(request.text, tokenizer, config)
        self._held_out = halves.held_out
        self._mean_squares: MeanSquares = {}
        if request.plan.method == "search":
            say("calibrating: which inputs of each matrix are large")
            passed = calibration.run(config, checkpoint.tensor, halves.calibration, request.now, watch=True)
            self._mean_squares = passed.mean_squares
        say("measuring: the text through the model as it came")
        self._before = calibration.run(config, checkpoint.tensor, halves.held_out, request.now)

    def part(self, part: Part) -> Callable[[str], Tensor]:
        """The tensors of a part's block by name."""
        squares = self._mean_squares.get(part.name, {})
        read = self._checkpoint.tensor
        return QuantizedPart(part, lambda name: read(part, name), self._request.plan, squares).tensor

    def measured(self, store: BlobStore, manifest: Manifest) -> Quantization:
        """The plan with what it cost: loss and speed of the stored model beside those of the checkpoint."""
        config, tokens = self._checkpoint.config, self._held_out
        dtype = tensor_block.dtypes[manifest.dtype]

        def read(part: Part, name: str) -> Tensor:
            weights = ModelWeights(manifest, BlobStore(store.folder))  # let go of at once, or all would stay mapped
            return weights.part(part.name)[name]

        def layout(part: Part) -> list[str]:
            return list(stored_layout(part, dtype, manifest.quantization))

        after = calibration.run(config, read, tokens, self._request.now, layout=layout)
        cost = calibration.compare(config, tokens, self._before, after)

        def speed(passed: Pass) -> int:
            return round(tokens.shape[1] / passed.seconds)

        return replace(
            self._request.plan,
            text=self._request.text_digest if self._checkpoint.tokenizer is not None else "random",
            tokens=tokens.shape[1],
            loss_before=_micronats(cost.before),
            loss_after=_micronats(cost.after),
            divergence=_micronats(cost.divergence),
            speed_before=speed(self._before),
            speed_after=speed(after),
        )


def _micronats(nats: float) -> int:
    """As a record holds it; what is more than it can hold, or endless, is the most it can."""
    return round(min(nats * _micro, float(limits.canonical_integer_max)))


def _calibration_text(path: Path | None) -> str:
    if path is None:
        return resources.files("blyan.model").joinpath("calibration.txt").read_text("utf-8")
    try:
        return durable.read_limited(path, limits.calibration_text_bytes_max).decode("utf-8")
    except (OSError, ValueError) as reason:
        raise InvalidInput(f"calibration text: expected a file of UTF-8 text, found {reason}") from None
