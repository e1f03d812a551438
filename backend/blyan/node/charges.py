"""Charging for answers: hold before they are computed, settle what was delivered, keep a receipt of it.

Steps of a settlement, of which the first two may come in any order: (1) the receipt's row is durable, not signed yet,
(2) the books have settled; then (3) the rounding is booked, (4) the receipt is signed and replaces the row. Each is
repeated after a crash with the same key, from the rows that are open. An answer is over some time before its hold is
(`payments/charges`); one whose hold ended all the same, because the books were away for longer, is given away: it is
counted as lost, and nobody is charged later for what nobody holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from blyan.inference import receipt as receipts
from blyan.inference.receipt import Receipt, SignedReceipt, Work
from blyan.ledger import reading
from blyan.ledger.sql import Outcome
from blyan.ledger.transfers import Request
from blyan.node import books as names
from blyan.node.accounts import file_name as accounts_file
from blyan.node.allowance import Allowance
from blyan.node.books import NodeBooks
from blyan.node.config import NodeConfig
from blyan.node.receipts import ReceiptRows, Row
from blyan.node.writer import WritableGround
from blyan.payments import charges
from blyan.payments.charges import Most
from blyan.payments.prices import Bill, Tariff
from blyan.primitives import limits
from blyan.primitives.clock import Entropy, UnixSeconds
from blyan.primitives.errors import Fault, InternalError, NotFound, Unavailable
from blyan.primitives.ids import PayloadId, PublicKey
from blyan.primitives.keys import Key

Result = TypeVar("Result")
_hold_wait_seconds: Final = 10.0  # then an answer is not begun
_settle_wait_seconds: Final = 5.0  # then an answer ends, and is settled when the books are back
_again_seconds: Final = 2.0  # between two tries
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """An answer that may be computed: its most is held, or costs nothing."""

    id: str  # of the receipt
    payer: str  # account of the books
    tariff: Tariff
    record: int | None  # of the hold


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the caller got."""

    model: str
    manifest: PayloadId
    prompt_tokens: int
    completion_tokens: int
    request: str  # digests, see inference/receipt
    output: str
    plan: str = "local"
    others: Mapping[PublicKey, int | None] = field(default_factory=dict["PublicKey", "int | None"])  # tokens; None: all


class Charges:
    """The charges of one node. Construct, `keep` running in the event loop, use, `drain`, `close`."""

    def __init__(
        self, books: NodeBooks, rows: ReceiptRows, allowance: Allowance, key: Key, now: UnixSeconds, entropy: Entropy
    ) -> None:
        self._books, self._rows, self._allowance = books, rows, allowance
        self._key, self._now, self._entropy = key, now, entropy
        self._open: dict[str, Row] = {}  # delivered, and not known to be settled
        self._asked: set[str] = set()  # of these, those that the books are being asked about
        self._unreleased: dict[str, int] = {}  # holds of which nothing was delivered, by the receipt they were for
        self._tasks: set[asyncio.Task[Any]] = set()  # what goes on when its caller has gone
        self.ended: Counter[str] = Counter()  # charges by their end: settled, voided, lost

    @property
    def unsettled(self) -> int:
        """Answers that were delivered and are not settled yet."""
        return len(self._open)

    async def hold(self, account: str, tariff: Tariff, most: Most) -> Held:
        """Hold the most that an answer can cost; `InsufficientFunds`, or `Unavailable` where the books do not say."""
        holding = self._go_on(self._hold(account, tariff, most))
        try:
            async with asyncio.timeout(_hold_wait_seconds):
                return await asyncio.shield(holding)
        except TimeoutError:
            holding.add_done_callback(self._not_wanted)
            raise Unavailable(
                f"books: expected an answer within {_hold_wait_seconds:g} s, found none", hint="try again in a while"
            ) from None
        except asyncio.CancelledError:  # the caller has gone
            holding.add_done_callback(self._not_wanted)
            raise

    async def _hold(self, account: str, tariff: Tariff, most: Most) -> Held:
        identity = receipts.new_id(self._entropy)
        payer = await self._books.open_user(account)
        await self._allowance.grant(payer)
        accounts = charges.Books(payer, names.income, names.rounding)
        request = charges.hold(identity, accounts, tariff, most)
        if request is None:
            return Held(identity, payer, tariff, None)
        outcome = await self._books.submit(request)
        available = 0
        if outcome.number is None:
            available = (await self._books.read(lambda session: reading.account(session, payer))).available
        return Held(identity, payer, tariff, charges.want_held(outcome, request, available, tariff.price.asset))

    def _not_wanted(self, holding: asyncio.Task[Held]) -> None:
        if not holding.cancelled() and holding.exception() is None:
            self.void(holding.result())

    async def settle(self, held: Held, cost: Bill, delivered: Delivered) -> bool:
        """Charge for what was delivered; whether there is, or will be, a receipt.

        Returns when the books and the row of the receipt are durable; where that takes too long, it goes on by itself.
        """
        if not cost.paid or held.record is None:
            self.void(held)
            return False
        draft = self._draft(held, held.record, cost, delivered)
        body = SignedReceipt(draft, bytes(64)).encode()
        row = Row(held.id, held.payer, held.record, cost.rounding, body, "open", draft.time)
        self._open[row.id] = row
        kept = self._go_on(self._rows.put(row))
        settled = self._go_on(self._settle(row, draft))
        done, _ = await asyncio.wait({kept, settled}, timeout=_settle_wait_seconds)
        if settled not in done:
            _log.warning("an answer ended before the books settled it; they are asked again")
        return kept in done and kept.exception() is None

    def settle_later(self, held: Held, cost: Bill, delivered: Delivered) -> None:
        """The same for a caller who has gone; nobody waits."""
        self._go_on(self.settle(held, cost, delivered))

    def void(self, held: Held) -> None:
        """Release a hold: nothing was delivered. Whoever called it does not wait."""
        if held.record is not None:
            self._unreleased[held.id] = held.record
            self._go_on(self._void(held.id, held.record))

    async def welcome(self, account: str) -> None:
        """Open the account in the books if it is not there, and give what newcomers are given."""
        await self._allowance.grant(await self._books.open_user(account))

    async def keep(self) -> None:
        """Take up what an earlier process left open; settle and release what is open, until it is cancelled."""
        found: list[Row] | None = None
        while True:
            if found is None:
                with suppress(Unavailable):  # asked again, like the books
                    found = await self._rows.open()
                    self._open |= {row.id: row for row in found}
            for row in list(self._open.values()):
                if self._books.gone is None:
                    await asyncio.wait({self._go_on(self._settle(row))})  # a mistake about one stops no other
            for identity, record in list(self._unreleased.items()):
                if self._books.gone is None:
                    await asyncio.wait({self._go_on(self._void(identity, record))})
            await asyncio.sleep(_again_seconds)

    async def receipt(self, account: str, identity: str) -> Row:
        """The row of a receipt of this account; `NotFound` for everybody else's too."""
        row = self._open.get(identity) or await self._rows.get(identity)
        if row is None or row.account != names.user_account(account):
            raise NotFound(f"receipt {identity[:64]!r}: expected one of this account, found none")
        return row

    async def drain(self) -> None:
        """Wait for what is under way; what cannot be done now is done by the next process."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def close(self) -> None:
        """Close the rows."""
        self._rows.close()

    def _draft(self, held: Held, record: int, cost: Bill, delivered: Delivered) -> Receipt:
        tariff = held.tariff
        price = receipts.Price(tariff.price.asset, tariff.price.prompt, tariff.price.completion, tariff.entry)
        return Receipt(
            id=held.id,
            gateway=self._key.public,
            model=delivered.model,
            manifest=delivered.manifest,
            request=delivered.request,
            output=delivered.output,
            prompt_tokens=delivered.prompt_tokens,
            completion_tokens=delivered.completion_tokens,
            plan=delivered.plan,
            nodes=worked(self._key.public, delivered),
            price=price,
            charged=cost.paid,
            account=held.payer,
            record=record,  # of the hold, until there is that of the settlement
            time=self._now(),
        )

    async def _settle(self, row: Row, draft: Receipt | None = None) -> None:
        """Ask the books to settle an open row; nothing changes while they do not answer."""
        if row.id in self._asked or row.id not in self._open:
            return
        self._asked.add(row.id)
        try:
            draft = draft or receipts.parse(row.body).receipt
            cost = Bill(draft.charged, draft.charged - row.rounding)
            outcome = await self._books.submit(charges.settlement(row.id, row.hold, cost, draft.model))
            await self._ended(row, draft, cost, outcome)
        except Fault as reason:
            _log.debug("receipt %s stays open: %s", row.id, reason.message)
        finally:
            self._asked.discard(row.id)

    async def _ended(self, row: Row, draft: Receipt, cost: Bill, outcome: Outcome) -> None:
        """Steps 3 and 4. A row is open until both are done."""
        if outcome.number is None or outcome.time is None:
            assert outcome.refusal is not None, "either taken or refused"
            _log.error("receipt %s: delivered and not paid: %s", row.id, outcome.refusal.message)
            await self._rows.put(replace(row, state="lost"))
            self._count("lost", row)
            return
        rounding = charges.rounding(row.id, charges.Books(row.account, names.income, names.rounding), cost)
        if rounding is not None:
            await self._books.submit(rounding)
        said = replace(draft, record=outcome.number, time=outcome.time)
        signed = receipts.make(replace(said, gateway=self._key.public), self._key)
        await self._rows.put(replace(row, body=signed.encode(), state="settled"))
        self._count("settled", row)

    def _count(self, end: str, row: Row) -> None:
        del self._open[row.id]
        self.ended[end] += 1

    async def _void(self, identity: str, record: int) -> None:
        """Release a hold; asked again until the books say something. What no process asks again ends by itself."""
        request: Request = charges.release(identity, record)
        try:
            await self._books.submit(request)
        except Fault as reason:
            _log.debug("the hold for %s stays: %s", identity, reason.message)
            return
        if self._unreleased.pop(identity, None) is not None:
            self.ended["voided"] += 1

    def _go_on(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Do it whether its caller stays or not; `drain` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        reason = None if task.cancelled() else task.exception()
        if reason is not None and not isinstance(reason, Fault):
            _log.error("a charge failed: %s", InternalError.code, exc_info=reason)


def worked(own: PublicKey, delivered: Delivered) -> tuple[Work, ...]:
    """What each node computed of an answer; what nobody else did this one did."""
    prompt, answer = delivered.prompt_tokens, delivered.completion_tokens
    others = list(delivered.others.items())[: limits.receipt_nodes_max - 1]
    left = max(0, answer - sum(count or 0 for _, count in others))
    work = [Work(node, prompt, answer if count is None else min(count, answer)) for node, count in others]
    whole = delivered.plan == "static_delegate" and not left and bool(work)
    return tuple(work if whole else [Work(own, prompt, left), *work])


def open_charges(
    config: NodeConfig, ground: WritableGround, books: NodeBooks, now: UnixSeconds, entropy: Entropy
) -> Charges:
    """The charges of a node whose accounts are open."""
    rows = ReceiptRows(config.data_dir / accounts_file)
    return Charges(books, rows, Allowance(books, now, *config.accounts.newcomers), ground.key, now, entropy)
