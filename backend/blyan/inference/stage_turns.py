"""Calls of a lease that wait for tokens which the last stage draws, in their order. For the network's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from blyan.primitives import limits
from blyan.primitives.errors import Busy, Denied, InvalidInput
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_call import Passed, StageCall
from blyan.wire.stage_draws import Drawn

_held_max: Final = 4 * limits.stage_pieces_max
_kept: Final = 4 * limits.stage_pieces_max  # calls of which what was drawn is remembered: others come between

Given = Passed | BaseException | None  # of a call; None where its outputs left already


class Held(NamedTuple):
    """A call that waits, or comes after one that does, and what becomes of it."""

    call: StageCall
    passed: Passed
    given: asyncio.Future[Given]
    until: float  # waits for its tokens no longer


@dataclass(slots=True, eq=False)
class Turns:
    """Those of one lease. The first stage's; at others nothing waits."""

    _held: deque[Held] = field(default_factory=deque[Held])
    _drawn: dict[int, bytes] = field(default_factory=dict[int, bytes])  # number → tokens
    _drawer: PublicKey | None = None  # the last stage, by the calls that came
    _runs: dict[int, int] = field(default_factory=dict[int, int])  # number → runs, of calls of which it tells

    def __len__(self) -> int:
        return len(self._held)

    @property
    def awaited(self) -> int:
        """The call whose tokens the next one waits for; 0 for none."""
        after = self._held[0].call.after if self._held else None
        return 0 if after is None else after.number

    def came(self, call: StageCall) -> bool:
        """One more call; whether it has to wait."""
        if call.taker is not None:
            self._drawer = call.route[-1].node if call.route else None
            self._runs[call.number] = len(call.runs)
            while len(self._runs) > _kept:
                del self._runs[min(self._runs)]
        return bool(self._held) or call.after is not None

    def hold(self, call: StageCall, passed: Passed, now: float) -> asyncio.Future[Given]:
        """It waits, for as long as it may take; what will become of it."""
        given: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
        self._held.append(Held(call, passed, given, now + call.milliseconds / 1000))
        return given

    def want_place(self) -> None:
        """`Busy` where more wait than calls of two steps."""
        if len(self._held) >= _held_max:
            raise Busy(f"stage calls: expected fewer than {_held_max} that wait for tokens, found {len(self._held)}")

    def overdue(self, now: float) -> bool:
        """Whether tokens for which a call waits did not come in its time."""
        return bool(self._held) and now > self._held[0].until

    def told(self, sender: PublicKey, drawn: Drawn) -> None:
        """What a call drew. `Denied` and `InvalidInput` for what is not the last stage's to say, or no call's."""
        if sender != self._drawer:
            raise Denied("stage drawn: expected it of the last stage of its session, found another's")
        if self._runs.get(drawn.number) != len(drawn.tokens) // 4:
            raise InvalidInput(f"stage drawn: expected tokens of one of the last calls, found those of {drawn.number}")
        self.drew(drawn.number, drawn.tokens)

    def drew(self, number: int, tokens: bytes) -> None:
        """What a call of this session drew."""
        self._drawn[number] = tokens
        while len(self._drawn) > _kept:
            del self._drawn[min(self._drawn)]

    def ready(self) -> Iterator[Held]:
        """Calls whose tokens are there, each once, in order."""
        while self._held:
            held = self._held[0]
            after = held.call.after
            if after is not None:
                if after.number not in self._drawn:
                    return
                tokens = np.frombuffer(self._drawn[after.number], "<i4")
                runs = np.array(after.runs)
                picked = tokens[runs] if int(runs.max()) < len(tokens) else np.empty(0, "<i4")
                held = held._replace(passed=replace(held.passed, tokens=picked.astype("<i4").tobytes()))
            self._held.popleft()
            yield held

    def clear(self) -> None:
        """The lease ended."""
        self._held.clear()
