"""One step of several sequences through a model: the seam between who schedules and who computes.

A scheduler decides which sequences advance by how many positions; a `Stepper` computes exactly that, in one call, and
keeps keys and values in pages that the scheduler hands out. Two steppers exist: the plain one (`eager_step`), and the
jitted one (`fused_step`), which is held to it. What one run gives does not depend on the other runs of its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blyan.model.config import ModelConfig
from blyan.model.sampling import Sampling
from blyan.primitives.errors import Fault
from blyan.primitives.ids import PublicKey

page_positions: Final = 32  # positions whose keys and values share a page


class Patience:
    """How long whoever asked waits for what is computed for him. One thread sets it, any may look."""

    __slots__ = ("until",)

    def __init__(self, until: float = math.inf) -> None:
        self.until = until  # by the node's monotonic clock

    def end(self) -> None:
        """He has left."""
        self.until = -math.inf

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self.until == -math.inf


endless: Final = Patience()


class Drawing(NamedTuple):
    """How the token after a run is chosen, where whoever computes its scores may choose it too."""

    sampling: Sampling  # nothing of it reshapes scores
    more: bool  # whether a token after that one will be wanted, as far as is known


class Run(NamedTuple):
    """New positions of one sequence, computed in one step: a piece of a prompt, one token, or a draft to verify."""

    tokens: tuple[int, ...]  # [n], at least one, each below the vocabulary's size
    start: int  # positions before them, whose keys and values lie in the pages already
    pages: tuple[int, ...]  # in order, enough for positions 0 … start + n - 1; those written are this sequence's alone
    scored: int = 0  # for how many of the last positions scores are wanted: 0 … n
    hidden: bool = False  # whether the hidden states of all n positions are wanted
    reach: int = 0  # how long the sequence is known to become, for rotary scalings that depend on it; 0: not known
    patience: Patience = endless
    drawing: Drawing | None = None  # with one score wanted: the token that follows is as good as that
    following: Run | None = None  # what is asked for after this, as far as is known: it may be begun, and may not come


class RunResult(NamedTuple):
    """What one run gave."""

    scores: NDArray[np.float32]  # [scored, vocab], the caller's; none where the token was drawn
    chosen: NDArray[np.int32]  # [moe layers, n, top_k]: the experts of each position, in the order of the layers
    hidden: Tensor | None = None  # [n, hidden] after the final norm, if it was wanted
    drawn: int | None = None  # the token that follows, in place of its scores


class RunFault(NamedTuple):
    """Why one run gave nothing, while others of its step did; its pages are undefined from its start on."""

    reason: Fault


class Stretch(NamedTuple):
    """New positions of one sequence whose hidden states go through some of the layers: what a stage knows of a run."""

    rows: int  # positions, at least one
    start: int  # positions before them
    pages: tuple[int, ...]
    reach: int = 0


class PagesLost(Exception):
    """The keys and values of all sequences are gone: what is under way is to be computed again from its tokens.

    For whoever hands out pages; no fault of a request.
    """


Ready: TypeAlias = Callable[[], object]


def nothing() -> None:
    """Nobody is told."""


class Stepper(Protocol):
    """Computes steps of one model. Not thread-safe: the compute thread's alone."""

    def step(self, runs: Sequence[Run], ready: Ready = nothing) -> Sequence[RunResult | RunFault]:
        """One result per run, in order. A fault of a block or of the numbers leaves the pages of its runs undefined.

        `ready` is called when most of what is left needs no interpreter: whoever waits for it may have it then.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; it computes no more."""
        ...


PlanName: TypeAlias = Literal["local", "dynamic", "static_delegate", "pipeline"]


@runtime_checkable
class Waits(Protocol):
    """What a stepper says beside, that has other nodes compute."""

    @property
    def plan(self) -> PlanName:
        """How the work is divided."""
        ...

    @property
    def waited_s(self) -> float:
        """Seconds in which it had nothing to do but wait for them, since it was made."""
        ...


def waits_of(stepper: Stepper) -> Waits | None:
    """What it says of its waiting, if it has other nodes compute. Not for every step: asking takes 20 microseconds."""
    return stepper if isinstance(stepper, Waits) else None


@runtime_checkable
class Leased(Protocol):
    """What a stepper says beside, whose pages lie at other nodes."""

    def prepare(self, least: int, wanted: int) -> int:
        """How many pages there are for the next step; 0 while they are looked for, which nobody waits for.

        Fewer than `least` are of no use, `wanted` are needed for all. The same or more from one step to the next,
        until `PagesLost` says that what was in them is gone. The fault where none are found.
        """
        ...

    @property
    def nodes(self) -> tuple[PublicKey, ...]:
        """Who has them now, and computed the last step."""
        ...


class LayerStepper(Protocol):
    """Computes a range of a model's layers. One thread's alone."""

    def through(self, hidden: Tensor, runs: Sequence[Stretch]) -> tuple[Tensor, NDArray[np.int32]]:
        """Hidden states [N, hidden] after the layers, of those before them, run after run; and the experts chosen
        [moe layers of the range, N, top_k]. Raises what opening a block raises; pages are then undefined.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; it computes no more."""
        ...


class KVPages:
    """Keys and values of all sequences of one model, in `pages` pages. Memory is taken as pages are first written."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, pages: int, layers: range | None = None) -> None:
        """`layers`: of these alone; None for all."""
        held = range(config.layers) if layers is None else layers
        self.first = held.start  # the layer that stands at the front
        shape = (len(held), pages, config.kv_heads, page_positions, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype)
        self.values = torch.empty(shape, dtype=dtype)
        self.pages = pages

    def close(self) -> None:
        """Give the memory back; nobody computes with it any more, whoever still holds this."""
        self.keys = self.values = self.keys.new_empty(0)
        self.pages = 0

    @staticmethod
    def page_bytes(config: ModelConfig, dtype: torch.dtype, layers: int | None = None) -> int:
        """Bytes of one page over all layers or so many, keys and values."""
        return (
            2
            * (config.layers if layers is None else layers)
            * config.kv_heads
            * page_positions
            * config.head_dim
            * dtype.itemsize
        )
