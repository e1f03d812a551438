"""Leases of a stage: pages of leads' sessions over some layers, who computes in them, and when they end.

Asked for and renewed by their lead, who may look how far its calls are. For the network's loop, but for what says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from blyan.inference.head_in_turn import HeadInTurn, MakeHead
from blyan.inference.layers_in_turn import LayersInTurn, MakeLayers
from blyan.inference.stage_ends import Ends
from blyan.inference.stage_turns import Turns
from blyan.model.stage_step import StagedModel
from blyan.model.stepping import KVPages, page_positions
from blyan.network.link import Link
from blyan.primitives import limits
from blyan.primitives.clock import Monotonic
from blyan.primitives.errors import Busy, Denied, InvalidInput, NotHeld
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.storage import tensor_block
from blyan.wire.framing import Message
from blyan.wire.stage_call import Passed, StageCall
from blyan.wire.stage_lease import Progress, StageOpen, parse_open

_boot_chars: Final = 16  # of a session: they tell one process of a lead from another

Find = Callable[[PayloadId], StagedModel | None]


@dataclass(slots=True, eq=False)
class Lease:
    """Pages of one lead's session over some layers, and who computes in them."""

    model: StagedModel
    asked: StageOpen
    lead: PublicKey
    pages: int  # of those that `kv` has room for
    page_bytes: int
    kv: KVPages
    layers: LayersInTurn
    ends: Ends
    heard: float
    number: int = 0  # of the last call that was taken
    passed: int = 0  # of the last call whose outputs left
    passed_at: float = 0.0
    under_way: int = 0  # calls that were taken and have not left
    row_seconds: float | None = None  # that a row took lately; None until one was computed
    draw_seconds: float | None = None  # the same of a token that is drawn
    open: bool = True
    turns: Turns = field(default_factory=Turns)

    @property
    def bytes(self) -> int:
        """What it may take."""
        return self.pages * self.page_bytes

    @property
    def rows(self) -> int:
        """What a position takes, in rows of experts; the attention of all layers counts as one."""
        config = self.model.config
        return 1 + len(set(config.moe_layers) & set(self.layers.layers)) * config.experts_per_token

    def expected_s(self, call: StageCall) -> float | None:
        """Seconds that computing a call should take, by those before it; None where nothing is known."""
        draws = 0 if call.route else sum(draw is not None for draw in call.draws)
        if not self.layers.settled or self.row_seconds is None or (draws and self.draw_seconds is None):
            return None
        return self.row_seconds * call.count + (self.draw_seconds or 0.0) * draws

    def want(self, sender: PublicKey, call: StageCall, passed: Passed) -> None:
        """A fault for a call that is not meant for it as it is now."""
        if sender != self.asked.before or call.lead != self.lead:
            raise Denied("stage call: expected it of the stage before, for the session's lead")
        if call.number != self.number + 1:
            raise InvalidInput(f"stage call: expected number {self.number + 1}, found {call.number}")
        if not self._fits(call) or len(passed.chosen) > self._chosen_bytes(call):
            raise InvalidInput(
                "stage call: expected the lease's model, layers and pages, rows of its hidden size, and experts of the "
                "layers before"
            )
        self.ends.want(call)
        self.ends.want_tokens(passed.tokens)

    def _chosen_bytes(self, call: StageCall) -> int:
        config = self.model.config
        return 2 * call.count * config.experts_per_token * sum(layer < call.begin for layer in config.moe_layers)

    def _fits(self, call: StageCall) -> bool:
        asked, config = self.asked, self.model.config
        return (
            (call.model, call.begin, call.end) == (asked.model, asked.begin, asked.end)
            and call.width == config.hidden
            and tensor_block.dtypes[call.dtype] == self.model.dtype
            and all(len(run.pages) == -(-(run.start + run.rows) // page_positions) for run in call.runs)
            and all(page < self.pages for run in call.runs for page in run.pages)
            and all(run.start + run.rows <= config.context_length for run in call.runs)
        )

    def close(self) -> None:
        """For the compute thread: nobody computes in it."""
        self.layers.close()
        self.ends.close()
        self.kv.close()


@dataclass(slots=True, eq=False)
class Leases:
    """Those of one stage."""

    find: Find
    make: MakeLayers
    make_head: MakeHead
    kv_bytes: int  # for the pages of all together
    monotonic: Monotonic
    let_go: Callable[[Lease], object]  # what is done with one that ended
    refused: int = 0
    expired: int = 0
    _held: dict[str, Lease] = field(default_factory=dict[str, Lease])

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._held.values()))

    @property
    def bytes(self) -> int:
        """What they may take together."""
        return sum(lease.bytes for lease in self)

    @property
    def pages(self) -> int:
        """Pages of all together, each over the layers of its lease."""
        return sum(lease.pages for lease in self)

    def find_open(self, session: str) -> Lease:
        """The lease of a session; `NotHeld` if there is none, or its model is here no more."""
        lease = self._held.get(session)
        if lease is None:
            raise NotHeld("stage call: expected a session with a lease here, found none")
        if self.find(lease.asked.model) is None:
            raise NotHeld(f"model {lease.asked.model[:12]}: expected its layers here, found they are not held any more")
        return lease

    async def opened(self, link: Link, message: Message) -> Message:
        """The handler of `stage_open`: how many pages there are. `NotHeld` and `Busy` say why there are none.

        A lease that is there goes on, with more pages where more are asked for or have come free.
        """
        asked, lead = parse_open(message.fields), link.peer.node
        held = self._held.get(asked.session)
        if held is not None:
            if (held.lead, held.asked) != (lead, replace(asked, least=held.asked.least)):
                raise Denied("stage lease: expected the session's own lead and terms, found others")
            held.heard = self.monotonic()
            held.pages = self._given(asked, held.page_bytes, held.kv.pages, held.pages)
            return self._answer(held)
        model = self.find(asked.model)
        layers = range(asked.begin, asked.end)
        if model is None or asked.end > model.config.layers or not model.holds(layers):
            raise NotHeld(f"layers {asked.begin} to {asked.end}: expected them here, found they are not held")
        self._forget_earlier(lead, asked.session)
        self._want_place(lead)
        size = KVPages.page_bytes(model.config, model.dtype, len(layers))
        most = min(asked.pages, max(asked.least, self.kv_bytes // size))
        pages = self._given(asked, size, most)
        kv = KVPages(model.config, model.dtype, most, layers)  # takes memory as pages are written, no more than it has
        draws = asked.end == model.config.layers and model.scores
        head = HeadInTurn(self.make_head, model, kv) if draws else None
        ends = Ends(model, asked.begin == 0 and model.embeds, head)
        turns = LayersInTurn(self.make, model, kv, layers)
        made = Lease(model, asked, lead, pages, size, kv, turns, ends, self.monotonic())
        self._held[asked.session] = made
        return self._answer(made)

    async def closed(self, link: Link, message: Message) -> Message:
        """The handler of `stage_close`."""
        lease = self._held.get(str(message.fields.get("session")))
        if lease is not None and lease.lead == link.peer.node:
            self.end(lease)
        return Message({}, ())

    async def looked(self, link: Link, message: Message) -> Message:
        """The handler of `stage_look`: how far the calls of a session are, for its lead."""
        lease = self._held.get(str(message.fields.get("session")))
        if lease is None or lease.lead != link.peer.node:
            raise NotHeld("stage look: expected a session of this lead with a lease here, found none")
        waited = self.monotonic() - lease.passed_at if lease.passed else 0.0
        awaited = lease.turns.awaited
        return Message(Progress(lease.number, lease.passed, int(waited * 1000), awaited).fields(), ())

    def sweep(self) -> None:
        """End those whose leads are silent, and those that wait for tokens which do not come."""
        now = self.monotonic()
        for lease in self:
            if now - lease.heard > limits.stage_lease_seconds or lease.turns.overdue(now):
                self.expired += 1
                self.end(lease)

    def end(self, lease: Lease) -> None:
        """It serves no more."""
        del self._held[lease.asked.session]
        lease.open = False
        lease.turns.clear()
        self.let_go(lease)

    def _room(self, lead: PublicKey) -> int:
        """Bytes for pages that a lead could have in all."""
        return max(0, self.kv_bytes - sum(lease.bytes for lease in self if lease.lead != lead))

    def _answer(self, lease: Lease) -> Message:
        """What its lead is told: pages, room for all of its pages, and whether it embeds or draws where its layers
        are the first or the last.
        """
        ends, last = lease.ends, lease.asked.end == lease.model.config.layers
        able = (ends.embeds or lease.asked.begin > 0) and (ends.head is not None or not last)
        return Message({"pages": lease.pages, "ends": able, "room": self._room(lease.lead)}, ())

    def _given(self, asked: StageOpen, size: int, most: int, has: int = 0) -> int:
        """How many pages of that size a lease gets: half of what it could, so that others find room; never less than
        it has, nor than it must.
        """
        could = has + (self.kv_bytes - self.bytes) // size
        if asked.least > could:
            self.refused += 1
            raise Busy(
                f"stage lease: expected at most {could} pages, found {asked.least} needed",
                detail={"bytes": max(0, self.kv_bytes - self.bytes)},
            )
        return min(most, max(asked.least, has, could // 2))

    def _want_place(self, lead: PublicKey) -> None:
        theirs = sum(lease.lead == lead for lease in self)
        if len(self) >= limits.stage_leases_max or theirs >= limits.stage_leases_node_max:
            self.refused += 1
            raise Busy(f"stage lease: expected few leases, found {len(self)}, and {theirs} of this lead")

    def _forget_earlier(self, lead: PublicKey, session: str) -> None:
        """What an earlier process of a lead had is of no use."""
        for lease in self:
            if lease.lead == lead and lease.asked.session[:_boot_chars] != session[:_boot_chars]:
                self.end(lease)
