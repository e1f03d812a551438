"""A whole generation that another node is asked for, and the steps that come back in chunks (docs/spec/peer.md).

The request carries what was chosen already, so that whoever is asked next goes on where the last one stopped. A chunk
carries a digest over the request, which has a nonce, and over its own bytes. Steps are checked against what was asked
for: what could not be an answer to it is not taken.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from blyan.primitives import canonical, limits
from blyan.primitives.canonical import Canonical
from blyan.primitives.digest import hash_generation_chunk
from blyan.primitives.errors import InvalidInput, MalformedMessage
from blyan.primitives.ids import PayloadId, payload_id
from blyan.wire.fields import as_dict
from blyan.wire.framing import Message, WireTensor

kind: Final = "generate"
nonce_bytes: Final = 12
_sampling_numbers: Final = (
    "temperature",
    "top_p",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)
_logprob_max: Final = 1e-3  # rounding alone takes one above zero
_waited_us_max: Final = int(limits.request_seconds_max * 1_000_000)


@dataclass(frozen=True, slots=True)
class SamplingFields:
    """How to choose tokens, as it is sent; whoever computes checks the ranges."""

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    top_k: int = 0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What to generate. A value that exists is within the limits, though perhaps beyond what a model can."""

    model: PayloadId  # of the manifest
    prompt: tuple[int, ...]
    sampling: SamplingFields
    tokens_max: int  # of the answer, those of `chosen` included
    chosen: tuple[int, ...] = ()  # the answer's first tokens, which are there already
    eos: tuple[int, ...] = ()  # tokens that end it
    top: int = 0
    told: bool = True  # whether log-probabilities are
    routed: bool = True  # whether experts are
    drafts: int = 0  # how many tokens may be guessed ahead
    milliseconds: int = int(limits.request_seconds_max * 1000)  # from its arrival, until nobody waits any more
    nonce: str = "00" * nonce_bytes
    expected: bytes = b""  # routed experts that will be of use, as in a summary's bitmap: a hint

    def __post_init__(self) -> None:
        fits = (
            len(self.prompt) > 0
            and len(self.chosen) < self.tokens_max
            and len(self.prompt) + self.tokens_max <= limits.generation_tokens_max
            and all(0 <= token < limits.vocab_max for token in (*self.prompt, *self.chosen, *self.eos))
            and len(self.eos) <= limits.generation_eos_max
            and 0 <= self.top <= limits.logprobs_max
            and 0 <= self.drafts <= limits.draft_tokens_max
            and 0 < self.milliseconds <= limits.request_seconds_max * 1000
            and len(self.nonce) == 2 * nonce_bytes
            and len(self.expected) <= limits.holdings_bytes_max
            and len(self.sampling.logit_bias) <= limits.logit_bias_max
        )
        if not fits:
            raise InvalidInput("generation: expected prompt, answer, limits and time within the bounds")

    def fields(self) -> dict[str, Any]:
        """As it is sent, beside the tokens."""
        sampling = self.sampling
        return {
            "model": self.model,
            "prompt": len(self.prompt),
            "tokens_max": self.tokens_max,
            "sampling": {
                **{name: getattr(sampling, name) for name in _sampling_numbers},
                "top_k": sampling.top_k,
                "seed": sampling.seed,
                "logit_bias": [list(each) for each in sampling.logit_bias],
            },
            "eos": list(self.eos),
            "top": self.top,
            "told": self.told,
            "routed": self.routed,
            "drafts": self.drafts,
            "ms": self.milliseconds,
            "nonce": self.nonce,
        }

    def tensors(self) -> tuple[WireTensor, ...]:
        """The tokens, and which experts are expected if that is known."""
        tokens = _wire("tokens", np.asarray(self.prompt + self.chosen, "<i4"))
        expected = (WireTensor("expected", "U8", (len(self.expected),), self.expected),) if self.expected else ()
        return (tokens, *expected)

    def bound(self) -> bytes:
        """What every chunk of the answer is bound to."""
        said: dict[str, Canonical] = {"model": self.model, "nonce": self.nonce, "prompt": len(self.prompt)}
        return canonical.encode(said) + bytes(self.tensors()[0].data)


def parse_order(message: Message) -> Order:
    """Read a request; `MalformedMessage` for what is none."""
    fields = message.fields
    try:
        tensors = {tensor.name: tensor for tensor in message.tensors}
        if not {"tokens"} <= tensors.keys() <= {"tokens", "expected"}:
            raise InvalidInput("expected tensors tokens and perhaps expected")
        tokens = _ints(tensors["tokens"], 1, limits.generation_tokens_max).tolist()
        count = _number(fields["prompt"])
        if not 0 < count <= len(tokens):
            raise InvalidInput(f"expected a prompt of 1 to {len(tokens)} tokens")
        expected = tensors.get("expected")
        if expected is not None and (expected.dtype != "U8" or len(expected.data) > limits.holdings_bytes_max):
            raise InvalidInput("expected a bitmap of experts")
        return Order(
            payload_id(fields["model"]),
            tuple(tokens[:count]),
            _sampling(fields["sampling"]),
            _number(fields["tokens_max"]),
            tuple(tokens[count:]),
            tuple(_number(each) for each in _list(fields["eos"], limits.generation_eos_max)),
            _number(fields["top"]),
            _flag(fields["told"]),
            _flag(fields["routed"]),
            _number(fields["drafts"]),
            _number(fields["ms"]),
            str(fields["nonce"]),
            b"" if expected is None else bytes(expected.data),
        )
    except (KeyError, InvalidInput) as reason:
        raise MalformedMessage(f"generation: {reason}") from None


class SentStep(NamedTuple):
    """One step of an answer."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]  # tokens and log-probabilities, best first
    experts: tuple[tuple[int, int, int], ...]  # (layer, expert, tokens)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What steps of a model may say."""

    vocabulary: int
    layers: frozenset[int]  # those with experts
    experts: int
    experts_per_token: int


@dataclass(slots=True)
class ChunkWriter:
    """Makes chunks of steps, in order."""

    order: Order
    at: int = field(init=False)  # steps of the answer before the next chunk
    _bound: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.at, self._bound = len(self.order.chosen), self.order.bound()

    def chunk(self, steps: Sequence[SentStep], *, jitted: bool = False, waited_us: int = 0) -> Message:
        """One chunk of at least one step; by which code, and how long experts elsewhere were waited for in them."""
        order, count = self.order, len(steps)
        made = [_wire("tokens", np.asarray([step.token for step in steps], "<i4"))]
        if order.told:
            made.append(_wire("logprobs", np.asarray([step.logprob for step in steps], "<f4")))
            listed = len(steps[0].top)
            flat = [each for step in steps for each in step.top]
            if listed:
                made.append(_wire("top", np.asarray([token for token, _ in flat], "<i4").reshape(count, listed)))
                made.append(_wire("top_logprobs", np.asarray([p for _, p in flat], "<f4").reshape(count, listed)))
        if order.routed:
            used = [each for step in steps for each in step.experts]
            made.append(_wire("experts", np.asarray(used, "<i4").reshape(len(used), 3)))
            made.append(_wire("used", np.asarray([len(step.experts) for step in steps], "<i4")))
        fields = {"at": self.at, "digest": _digest(self._bound, self.at, made)}
        fields |= {"jitted": jitted, "waited_us": waited_us}
        self.at += count
        return Message(fields, tuple(made))


@dataclass(slots=True)
class ChunkReader:
    """Reads the chunks of the answer to one order; what does not follow is `MalformedMessage`."""

    order: Order
    bounds: Bounds
    at: int = field(init=False)  # steps of the answer so far
    ended: bool = False  # by a token that ends it, or as it is long enough
    jitted: bool = False  # whether the last chunk's steps were computed by code that nothing quicker takes over
    waited_s: float = 0.0  # of the time that they took, for experts elsewhere
    _bound: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.at, self._bound = len(self.order.chosen), self.order.bound()

    def read(self, chunk: Message) -> list[SentStep]:
        """The steps of the next chunk."""
        said = chunk.fields.get("digest")
        expected = _digest(self._bound, self.at, chunk.tensors)
        if chunk.fields.get("at") != self.at or not isinstance(said, str):
            raise MalformedMessage(f"chunk: expected steps from {self.at} on, found others")
        if not hmac.compare_digest(said.encode(), expected.encode()):
            raise MalformedMessage(f"chunk: expected the digest {expected[:16]}…, found {said[:16]!r}")
        self.jitted, self.waited_s = _computed(chunk.fields)
        tensors = {tensor.name: tensor for tensor in chunk.tensors}
        tokens = _ints(tensors.get("tokens"), 1, limits.generation_chunk_steps_max).tolist()
        logprobs, top = self._told(tensors, len(tokens))
        experts = self._routed(tensors, len(tokens))
        steps: list[SentStep] = []
        for place, token in enumerate(tokens):
            if self.ended or not 0 <= token < self.bounds.vocabulary:
                raise MalformedMessage("chunk: expected tokens of the model up to the answer's end, found others")
            steps.append(SentStep(token, logprobs[place], top[place], experts[place]))
            self.at += 1
            self.ended = token in self.order.eos or self.at == self.order.tokens_max
        return steps

    def _told(
        self, tensors: Mapping[str, WireTensor], count: int
    ) -> tuple[list[float | None], list[tuple[tuple[int, float], ...]]]:
        if not self.order.told:
            return [None] * count, [()] * count
        logprobs = _floats(tensors.get("logprobs"), (count,))
        listed = min(self.order.top, self.bounds.vocabulary)
        if not listed:
            return list(logprobs.tolist()), [()] * count
        best = _ints(tensors.get("top"), count * listed, count * listed)
        if (best < 0).any() or (best >= self.bounds.vocabulary).any():
            raise MalformedMessage("chunk: expected tokens of the model, found others")
        theirs = _floats(tensors.get("top_logprobs"), (count, listed)).tolist()
        rows = best.reshape(count, listed).tolist()
        return list(logprobs.tolist()), [tuple(zip(*row, strict=True)) for row in zip(rows, theirs, strict=True)]

    def _routed(self, tensors: Mapping[str, WireTensor], count: int) -> list[tuple[tuple[int, int, int], ...]]:
        if not self.order.routed:
            return [()] * count
        used = _ints(tensors.get("used"), count, count).tolist()
        listed = _ints(tensors.get("experts"), 0, 3 * limits.generation_chunk_experts_max)
        if any(each < 0 for each in used) or len(listed) != 3 * sum(used):
            raise MalformedMessage("chunk: expected experts of each of its steps, found others")
        rows = [cast("tuple[int, int, int]", tuple(row)) for row in listed.reshape(-1, 3).tolist()]
        found: list[tuple[tuple[int, int, int], ...]] = []
        for place, many in enumerate(used):
            mine = tuple(rows[:many])
            del rows[:many]
            self._want_routed(mine, len(self.order.prompt) if self.at + place == 0 else 1)
            found.append(mine)
        return found

    def _want_routed(self, used: Sequence[tuple[int, int, int]], positions: int) -> None:
        """As many experts in each layer as so many positions take."""
        bounds = self.bounds
        left = dict.fromkeys(bounds.layers, positions * bounds.experts_per_token)
        seen: set[tuple[int, int]] = set()
        for layer, expert, tokens in used:
            known = layer in left and 0 <= expert < bounds.experts and (layer, expert) not in seen
            if not known or not 0 < tokens <= positions:
                raise MalformedMessage(f"chunk: expected experts of the model, found layer {layer} expert {expert}")
            seen.add((layer, expert))
            left[layer] -= tokens
        if any(left.values()):
            raise MalformedMessage(f"chunk: expected {bounds.experts_per_token} experts a layer and position")


def _digest(bound: bytes, at: int, tensors: Sequence[WireTensor]) -> str:
    return hash_generation_chunk(bound, at.to_bytes(8, "little") + b"".join(bytes(each.data) for each in tensors))


def _computed(fields: Mapping[str, object]) -> tuple[bool, float]:
    """What a chunk says of how its steps were computed; one that says nothing is of plain code."""
    jitted, waited_us = fields.get("jitted", False), fields.get("waited_us", 0)
    if type(jitted) is not bool or type(waited_us) is not int or not 0 <= waited_us <= _waited_us_max:
        raise MalformedMessage("chunk: expected by which code, and microseconds that were waited, found others")
    return jitted, waited_us / 1e6


def _sampling(value: object) -> SamplingFields:
    given = as_dict(value)
    if given is None:
        raise InvalidInput("expected how to sample")
    bias: list[tuple[int, float]] = []
    for each in _list(given["logit_bias"], limits.logit_bias_max):
        pair = _list(each, 2)
        if len(pair) != 2:
            raise InvalidInput("expected biases as pairs of token and number")
        bias.append((_number(pair[0]), _float(pair[1])))
    numbers = {name: _float(given[name]) for name in _sampling_numbers}
    return SamplingFields(**numbers, top_k=_number(given["top_k"]), seed=_number(given["seed"]), logit_bias=tuple(bias))


def _wire(name: str, values: NDArray[Any]) -> WireTensor:
    return WireTensor(name, "I32" if values.dtype == np.int32 else "F32", values.shape, values.tobytes())


def _ints(tensor: WireTensor | None, least: int, most: int) -> NDArray[np.int32]:
    """The numbers of a tensor, flat."""
    if tensor is None or tensor.dtype != "I32" or not least <= len(tensor.data) // 4 <= most:
        raise MalformedMessage(f"generation: expected {least} to {most} numbers, found others")
    return np.frombuffer(tensor.data, "<i4")


def _floats(tensor: WireTensor | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Log-probabilities."""
    if tensor is None or tensor.dtype != "F32" or tensor.shape != shape:
        raise MalformedMessage(f"chunk: expected log-probabilities {list(shape)}, found others")
    values = np.frombuffer(tensor.data, "<f4").reshape(shape)
    if not np.isfinite(values).all() or (values > _logprob_max).any():
        raise MalformedMessage("chunk: expected log-probabilities, found numbers that are none")
    return values


def _number(value: object) -> int:
    if type(value) is not int:
        raise InvalidInput("expected a whole number")
    return value


def _float(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InvalidInput("expected a number")
    return float(value)


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise InvalidInput("expected true or false")
    return value


def _list(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(cast("list[Any]", value)) > most:
        raise InvalidInput(f"expected a list of at most {most}")
    return cast("list[Any]", value)
