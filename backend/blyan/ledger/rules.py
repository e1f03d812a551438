"""The one definition of the rules: may the books, as they stand, take this request, and what do they write then?

Pure: `decide` reads a `View` and returns a draft of the record or a refusal; `View.take` applies a draft. Both
databases hold the same rules as constraints and triggers (migrations/), so that a mistake here is refused there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from blyan.ledger.accounts import Account, Refusal, Terms, changed
from blyan.ledger.records import Entry, Kind, Record
from blyan.ledger.transfers import (
    Close,
    Expire,
    Hold,
    Leg,
    Open,
    Post,
    Request,
    Reverse,
    Settle,
    Void,
    note_of,
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that has neither number nor time yet."""

    kind: Kind
    entries: tuple[Entry, ...]
    after: tuple[Account, ...]  # every account that it changes, as it is then; the last of each counts
    target: int | None = None
    expires: int | None = None
    terms: Terms | None = None


@dataclass(frozen=True, slots=True)
class Earlier:
    """A record that a request may be about: of its entries the accounts and changes, and what ended it."""

    number: int
    kind: Kind
    expires: int | None
    ended_by: int | None
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class View:
    """The part of the books that some requests touch: as they stand, and then as the requests change them."""

    next_number: int
    time: int  # of the last record
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    names: dict[int, str] = field(default_factory=dict[int, str])
    earlier: dict[int, Earlier] = field(default_factory=dict[int, Earlier])

    def know(self, accounts: Iterable[Account], earlier: Iterable[Earlier]) -> None:
        """Add what was read."""
        for account in accounts:
            self.accounts[account.terms.name] = account
            self.names[account.number] = account.terms.name
        for each in earlier:
            self.earlier[each.number] = each

    def by_number(self, number: int) -> Account:
        """The account that an entry is of."""
        return self.accounts[self.names[number]]

    def take(self, request: Request, digest: bytes, draft: Draft, time: int) -> Record:
        """Number and date a draft, and let what follows see it."""
        record = Record(
            number=self.next_number,
            time=time,
            kind=draft.kind,
            key=request.key,
            request=digest,
            target=draft.target,
            expires=draft.expires,
            note=note_of(request),
            entries=draft.entries,
            terms=draft.terms,
        )
        self.next_number, self.time = record.number + 1, time
        for account in draft.after:
            self.accounts[account.terms.name] = account
        if draft.terms is not None:
            self.know([Account(record.number, draft.terms)], ())
        if draft.kind != "open":
            self.earlier[record.number] = Earlier(record.number, draft.kind, draft.expires, None, draft.entries)
        if draft.target in self.earlier:
            self.earlier[draft.target] = replace(self.earlier[draft.target], ended_by=record.number)
        return record


def decide(request: Request, view: View, time: int) -> Draft | Refusal:
    """What the books write for `request` at `time`, seconds since the Unix epoch, or why they do not take it."""
    match request:
        case Open(terms):
            return Draft("open", (), (), terms=terms)
        case Close(name):
            return _close(name, view)
        case Post():
            return _post(request.legs, view)
        case Hold():
            return _hold(request, view, time)
        case Settle() | Void() | Expire():
            return _end_hold(request, view, time)
        case Reverse():
            return _reverse(request.record, view)


def _close(name: str, view: View) -> Draft | Refusal:
    account = view.accounts.get(name)
    if account is None:
        return _unknown(name)
    if account.balance or account.held_out or account.held_in:
        return Refusal(
            "account_not_empty",
            f"account {name}: expected nothing in it, found {account.balance}, "
            f"{account.held_out} held from it and {account.held_in} for it",
        )
    return Draft("close", (), (replace(account, closed=True),), target=account.number)


def _post(legs: Sequence[Leg], view: View) -> Draft | Refusal:
    changes: list[tuple[int, int, int, int]] = []
    for leg in legs:
        pair = _pair(leg, view)
        if isinstance(pair, Refusal):
            return pair
        changes += [(pair[0].number, -leg.amount, 0, 0), (pair[1].number, leg.amount, 0, 0)]
    return _drafted("post", changes, view)


def _hold(request: Hold, view: View, time: int) -> Draft | Refusal:
    pair = _pair(request.leg, view)
    if isinstance(pair, Refusal):
        return pair
    amount = request.leg.amount
    changes = [(pair[0].number, 0, amount, 0), (pair[1].number, 0, 0, amount)]
    return _drafted("hold", changes, view, expires=time + request.seconds)


def _end_hold(request: Settle | Void | Expire, view: View, time: int) -> Draft | Refusal:
    hold = view.earlier.get(request.hold)
    if hold is None or hold.expires is None:
        return Refusal("hold_unknown", f"hold {request.hold}: expected a hold, found {hold.kind if hold else 'none'}")
    if hold.ended_by is not None:
        return Refusal("hold_ended", f"hold {hold.number}: expected it to stand, found record {hold.ended_by}")
    debit, credit = hold.entries
    moved = 0
    kind: Kind = "void"
    if isinstance(request, Settle):
        kind, moved = "settle", request.amount
        if time >= hold.expires:
            return Refusal("hold_expired", f"hold {hold.number}: expected before {hold.expires}, found {time}")
        if moved > debit.out_change:
            return Refusal("exceeds_hold", f"hold {hold.number}: expected at most {debit.out_change}, found {moved}")
    if isinstance(request, Expire):
        kind = "expire"
        if time < hold.expires:
            return Refusal("hold_stands", f"hold {hold.number}: expected {hold.expires} or later, found {time}")
    changes = [
        (debit.account, -moved, -debit.out_change, 0),
        (credit.account, moved, 0, -credit.in_change),
    ]
    return _drafted(kind, changes, view, target=hold.number)


def _reverse(number: int, view: View) -> Draft | Refusal:
    record = view.earlier.get(number)
    if record is None or record.kind not in ("post", "settle"):
        found = "none" if record is None else record.kind
        return Refusal("not_reversible", f"record {number}: expected a post or settlement, found {found}")
    if record.ended_by is not None:
        return Refusal("already_reversed", f"record {number}: expected it to stand, found record {record.ended_by}")
    # last leg first, its credit before its debit: the way back passes no balance that the way there did not
    changes = [(entry.account, -entry.amount, 0, 0) for entry in reversed(record.entries)]
    return _drafted("reverse", changes, view, target=number)


def _pair(leg: Leg, view: View) -> tuple[Account, Account] | Refusal:
    debit, credit = view.accounts.get(leg.debit), view.accounts.get(leg.credit)
    if debit is None:
        return _unknown(leg.debit)
    if credit is None:
        return _unknown(leg.credit)
    if debit.terms.asset != credit.terms.asset:
        return Refusal(
            "assets_differ",
            f"accounts {leg.debit} and {leg.credit}: expected one asset, "
            f"found {debit.terms.asset} and {credit.terms.asset}",
        )
    return debit, credit


def _drafted(
    kind: Kind,
    changes: Sequence[tuple[int, int, int, int]],
    view: View,
    *,
    target: int | None = None,
    expires: int | None = None,
) -> Draft | Refusal:
    now: dict[int, Account] = {}
    entries: list[Entry] = []
    for number, amount, out_change, in_change in changes:
        before = now.get(number) or view.by_number(number)
        after = changed(before, amount, out_change, in_change)
        if isinstance(after, Refusal):
            return after
        now[number] = after
        entries.append(
            Entry(number, after.version, amount, out_change, in_change, after.balance, after.held_out, after.held_in)
        )
    return Draft(kind, tuple(entries), tuple(now.values()), target, expires)


def _unknown(name: str) -> Refusal:
    return Refusal("account_unknown", f"account {name}: expected one of this name, found none")
