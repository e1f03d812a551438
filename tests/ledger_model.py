"""The books as anybody would write them: dictionaries and no database. What the real ones are held to."""

from __future__ import annotations

from dataclasses import dataclass, field

from blyan.ledger.transfers import Close, Expire, Hold, Leg, Open, Post, Request, Reverse, Settle, Void
from blyan.primitives import limits

Answer = tuple[str, int | None, bool]  # kind of record or code of refusal, record number, replayed


@dataclass
class ModelAccount:
    asset: str
    floor: int
    ceiling: int
    number: int
    closed: bool = False
    balance: int = 0
    out: int = 0
    into: int = 0


@dataclass
class ModelHold:
    leg: Leg
    expires: int


@dataclass
class Model:
    """Transfers in plain sight."""

    accounts: dict[str, ModelAccount] = field(default_factory=dict)
    holds: dict[int, ModelHold] = field(default_factory=dict)  # all there ever were
    moves: dict[int, list[Leg]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    known: dict[str, tuple[Request, Answer]] = field(default_factory=dict)
    size: int = 0
    time: int = 0

    def submit(self, request: Request, clock: int) -> Answer | None:
        """What the books should answer; None for a key that was used for something else."""
        if request.key in self.known:
            before, (what, number, _) = self.known[request.key]
            return (what, number, True) if before == request else None
        now = max(clock, self.time)
        code = self._do(request, now)
        if code is not None and request.key.startswith("="):
            return (code, None, False)
        if code is None:
            what = "void" if isinstance(request, Void) else type(request).__name__.lower()
            answer = (what, self.size, False)
            self.size, self.time = self.size + 1, now
        else:
            answer = (code, None, False)
        self.known[request.key] = (request, answer)
        return answer

    def _do(self, request: Request, now: int) -> str | None:
        match request:
            case Open(terms):
                self.accounts[terms.name] = ModelAccount(terms.asset, terms.floor, terms.ceiling, self.size)
            case Close(name):
                account = self.accounts.get(name)
                if account is None:
                    return "account_unknown"
                if account.balance or account.out or account.into:
                    return "account_not_empty"
                account.closed = True
            case Post(_, legs, _):
                for leg in legs:
                    if code := self._pair(leg):
                        return code
                if code := self._move(list(legs)):
                    return code
                self.moves[self.size] = list(legs)
            case Hold(_, leg, seconds, _):
                if code := self._pair(leg) or self._hold(leg):
                    return code
                self.holds[self.size] = ModelHold(leg, now + seconds)
            case Settle() | Void() | Expire():
                return self._end(request, now)
            case Reverse(_, number, _):
                if number not in self.moves:
                    return "not_reversible"
                if number in self.ended:
                    return "already_reversed"
                back = [Leg(leg.credit, leg.debit, leg.amount) for leg in reversed(self.moves[number])]
                if code := self._move(back):
                    return code
                self.ended.add(number)
        return None

    def _end(self, request: Settle | Void | Expire, now: int) -> str | None:
        hold = self.holds.get(request.hold)
        if hold is None:
            return "hold_unknown"
        if request.hold in self.ended:
            return "hold_ended"
        if isinstance(request, Settle) and now >= hold.expires:
            return "hold_expired"
        if isinstance(request, Settle) and request.amount > hold.leg.amount:
            return "exceeds_hold"
        if isinstance(request, Expire) and now < hold.expires:
            return "hold_stands"
        debit, credit = self.accounts[hold.leg.debit], self.accounts[hold.leg.credit]
        debit.out -= hold.leg.amount
        credit.into -= hold.leg.amount
        self.ended.add(request.hold)
        if isinstance(request, Settle):
            debit.balance -= request.amount
            credit.balance += request.amount
            self.moves[self.size] = [Leg(hold.leg.debit, hold.leg.credit, request.amount)]
        return None

    def _pair(self, leg: Leg) -> str | None:
        if leg.debit not in self.accounts or leg.credit not in self.accounts:
            return "account_unknown"
        same = self.accounts[leg.debit].asset == self.accounts[leg.credit].asset
        return None if same else "assets_differ"

    def _move(self, legs: list[Leg]) -> str | None:
        before = {name: account.balance for name, account in self.accounts.items()}
        for leg in legs:
            for name, amount in ((leg.debit, -leg.amount), (leg.credit, leg.amount)):
                self.accounts[name].balance += amount
                if code := self._broken(name, amount):
                    for each, balance in before.items():
                        self.accounts[each].balance = balance
                    return code
        return None

    def _hold(self, leg: Leg) -> str | None:
        debit, credit = self.accounts[leg.debit], self.accounts[leg.credit]
        debit.out += leg.amount
        if code := self._broken(leg.debit, -leg.amount):
            debit.out -= leg.amount
            return code
        credit.into += leg.amount
        if code := self._broken(leg.credit, leg.amount):
            debit.out -= leg.amount
            credit.into -= leg.amount
            return code
        return None

    def _broken(self, name: str, amount: int) -> str | None:
        account = self.accounts[name]
        if account.closed:
            return "account_closed"
        if max(abs(account.balance), account.out, account.into) > limits.amount_max:
            return "amount_overflow"
        if account.balance - account.out < account.floor:
            return "insufficient_funds"
        return "over_ceiling" if account.balance + account.into > account.ceiling else None
