"""The books of a running node: opened with it, looked after while it runs, closed with it.

Looking after means: holds whose time is over end, what is new is sealed, and the sealed root is promised in the joint
checkpoint. A database that goes away is waited for: until it is back, whoever asks is refused at once. Books that hold
less than was promised of them, or something else, take nothing more.

Accounts here: `user:` and the account of auth in lower case, and the node's own, all in USD.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from blyan.chain.joint import Head
from blyan.ledger import reading, seal
from blyan.ledger.accounts import Terms
from blyan.ledger.books import Books
from blyan.ledger.sql import Outcome, apply
from blyan.ledger.store import Session
from blyan.ledger.transfers import Leg, Open, Post, Request, Reverse, request_hash
from blyan.node.config import NodeConfig
from blyan.node.ledger import AnyStore, ledger_file, open_store
from blyan.node.writer import WritableGround
from blyan.primitives import limits
from blyan.primitives.amount import USD
from blyan.primitives.clock import UnixSeconds
from blyan.primitives.errors import Fault, IntegrityFault, InternalError, Unavailable

Result = TypeVar("Result")

income: Final = "income:inference"
rounding: Final = "rounding"
allowance: Final = "allowance"  # what is owed here was given to newcomers
operator_credit: Final = "operator:credit"  # what is owed here was credited by hand
_own: Final = (
    Terms(income, USD.code),
    Terms(rounding, USD.code),
    Terms(allowance, USD.code, floor=-limits.amount_max),
    Terms(operator_credit, USD.code, floor=-limits.amount_max),
)
_probe: Final = Open(_own[0])  # was done before, so it changes nothing
own_names: Final = tuple(terms.name for terms in _own)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the last look at the books found."""

    records: int = 0
    sealed: int = 0  # records
    promised: int = 0  # records, in the joint checkpoint
    held: int = 0  # smallest units of USD, promised to the income


def user_account(account: str) -> str:
    """The name in the books of an account that signs in: 0x…, or eip155:CHAIN:0x… of a contract."""
    return f"user:{account.lower()}"


def credit(store: AnyStore, account: str, amount: int, *, key: str, note: str, now: UnixSeconds) -> Outcome:
    """Give an account that signs in smallest units of USD by hand, beside whoever else writes; once for a key."""
    name = user_account(account)
    post = Post(f"credit {key}", (Leg(operator_credit, name, amount),), note)
    requests: list[Request] = [*(Open(terms) for terms in _own), Open(Terms(name, USD.code)), post]
    return _written(store, requests, now)


def reverse(store: AnyStore, record: int, *, key: str, note: str, now: UnixSeconds) -> Outcome:
    """Move back what a record moved, by hand, beside whoever else writes; a second time is refused."""
    return _written(store, [Reverse(f"reverse {key}", record, note)], now)


def _written(store: AnyStore, requests: Sequence[Request], now: UnixSeconds) -> Outcome:
    """The outcome of the last; a fault of any is raised."""
    with store.session() as session:
        answers = apply(session, [(each, request_hash(each)) for each in requests], now)
    for answer in answers:
        if isinstance(answer, Fault):
            raise answer
    last = answers[-1]
    assert isinstance(last, Outcome), "faults were raised"
    return last


class NodeBooks:
    """The books of one node. `submit` and `read` as `ledger/books` says; `Unavailable` while the database is gone."""

    def __init__(self, store: AnyStore, ground: WritableGround, now: UnixSeconds, seal_seconds: float) -> None:
        self._store = store
        self._ground = ground
        self._books = Books(store, now)
        self._seconds = seal_seconds
        self._opened: set[str] = set()  # users whose account is there, as far as we know
        self._gone: Fault | None = None  # why nothing can be asked now
        self._closed = False
        self._looking = asyncio.Lock()  # held by who looks after them
        self._wake = asyncio.Event()  # somebody found the database gone
        self.sizes = Sizes()
        self.refused: Counter[str] = Counter()  # requests by the code of their refusal

    @property
    def gone(self) -> Fault | None:
        """Why the books answer nobody at present, None where they do."""
        return self._gone

    def want_answers(self) -> None:
        """`Unavailable` while they answer nobody."""
        self._want_there()

    @property
    def waiting(self) -> int:
        """Requests that wait for a commit."""
        return self._books.waiting

    async def submit(self, request: Request) -> Outcome:
        """What became of the request, durably; a key means one thing, however often it is asked."""
        self._want_there()
        try:
            outcome = await self._books.submit(request)
        except Unavailable as reason:
            if type(reason) is not Unavailable or self._closed:
                raise
            # perhaps only a connection went stale: the same key does it once, whether it was done or not
            with self._told():
                outcome = await self._books.submit(request)
        if outcome.refusal is not None and not outcome.replayed:
            self.refused[outcome.refusal.code] += 1
        return outcome

    async def read(self, what: Callable[[Session], Result]) -> Result:
        """What a function of `ledger/reading` or `ledger/seal` says, of one moment."""
        self._want_there()
        with self._told():
            return await self._books.read(what)

    async def open_user(self, account: str) -> str:
        """The name in the books of an account that signs in; it is opened if it is not there."""
        name = user_account(account)
        if name not in self._opened:
            await self.submit(Open(Terms(name, USD.code)))
            if len(self._opened) >= limits.accounts_remembered_max:
                self._opened.clear()
            self._opened.add(name)
        return name

    async def keep(self) -> None:
        """Look after the books until cancelled."""
        mistaken = True
        try:
            while True:
                await self.look_after()
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds):
                        await self._wake.wait()
        except asyncio.CancelledError:
            mistaken = False
            raise
        finally:
            if mistaken:  # unsealed books must not go on as if nothing were
                _log.exception("books: nobody looks after them any more: %s", InternalError.code)
                self._gone = InternalError("books: expected somebody to look after them, found that it stopped")

    async def look_after(self) -> None:
        """End what is over, seal and promise what is new. What goes wrong is said once, until it has changed."""
        async with self._looking:
            await self._look_after()

    async def _look_after(self) -> None:
        try:
            await self._books.submit(_probe)  # the writer too: it may have stopped, or hold a connection that is gone
            await self._books.expire()
            found = await self._books.read(lambda session: _look(session, self._ground))
            newest = found.newest
            while newest is None or newest.size < found.records:
                newest = await self._books.seal()
            promised = await self._promise(newest)
        except Fault as reason:
            if self._gone is None or type(reason) is not type(self._gone):
                hint = f" ({reason.hint})" if reason.hint else ""
                _log.error("books: %s%s; nothing is taken until that has changed", reason.message, hint)
            self._gone = reason
            return
        self.sizes = Sizes(max(found.records, newest.size), newest.size, promised, found.held)
        if self._gone is not None:
            self._gone = None
            _log.warning("books: they answer again")

    async def close(self) -> None:
        """Promise what is new, if that can be done at once, commit what waits, and close."""
        if self._closed:
            return
        if self._gone is None:
            await self.look_after()
        self._closed = True
        await self._books.close()
        await asyncio.to_thread(self._store.close)

    def close_unused(self) -> None:
        """Close what no event loop ever used, as where the address was taken."""
        if not self._closed:
            self._closed = True
            self._books.stop()
            self._store.close()

    async def _promise(self, newest: seal.Seal) -> int:
        """Put a seal into the joint checkpoint, if it is newer; how many records are promised then."""
        before, head = self._ground.chains.joint.ledger_root, Head(newest.size, newest.root)
        if head != before and self._ground.may_write:
            await asyncio.wrap_future(self._ground.sequencer.promise_ledger(head))
            return head.size
        return before.size if before else 0

    def _want_there(self) -> None:
        if self._gone is not None:
            raise _absent()

    @contextmanager
    def _told(self) -> Generator[None]:
        """A database that does not answer: the log says why, callers only that; and somebody looks after it now."""
        try:
            yield
        except (Unavailable, IntegrityFault) as reason:
            if isinstance(reason, IntegrityFault) or type(reason) is Unavailable:
                self._wake.set()
                raise _absent() from reason
            raise


def _absent() -> Unavailable:
    return Unavailable(
        "books: expected them to answer, found that they do not",
        hint="ask again in a while, with the same key: the node keeps trying, and its log says what is wrong",
    )


@dataclass(frozen=True, slots=True)
class _Look:
    records: int
    held: int
    newest: seal.Seal | None


def open_books(config: NodeConfig, ground: WritableGround, now: UnixSeconds) -> NodeBooks | None:
    """The books of a node, with the accounts of its own; None where no accounts are configured.

    `Unavailable` if the database does not answer or waits for a migration, `IntegrityFault` if it holds less than was
    promised of it. A file that is not there is made, unless records were promised.
    """
    if config.accounts.where is None:
        return None
    store = _opened(config, ground, now)
    try:
        store.want_current()
        requests: list[Request] = [Open(terms) for terms in _own]
        with store.session() as session:
            want_promised(session, ground.chains.joint.ledger_root)
            for answer in apply(session, [(each, request_hash(each)) for each in requests], now):
                if isinstance(answer, Fault):
                    raise answer
        if not ground.may_write:
            _log.warning("books: expected to be the sequencer, who promises sealed roots, found another's chains")
    except BaseException:
        store.close()
        raise
    return NodeBooks(store, ground, now, config.ledger.seal_seconds)


def want_promised(session: Session, promised: Head | None) -> None:
    """`IntegrityFault` unless these books have sealed what the joint checkpoint says of them."""
    if promised is None:
        return
    found = seal.seal_of(session, promised.size)
    if found is None or found.root != promised.root:
        there = "another" if found else f"{reading.size_and_time(session)[0]} records without it"
        raise IntegrityFault(
            f"books: expected the seal of {promised.size} records with root {promised.root.hex()}, which was promised, "
            f"found {there}",
            hint="run `blyan ledger verify`; books that were put back from an older backup must not go on",
        )


def _opened(config: NodeConfig, ground: WritableGround, now: UnixSeconds) -> AnyStore:
    database = config.ledger.database or None
    if database is not None:
        return open_store(config.data_dir, database)
    promised, path = ground.chains.joint.ledger_root, ledger_file(config.data_dir)
    if promised is not None and not path.exists():
        raise IntegrityFault(
            f"books {path}: expected the {promised.size} records that were promised, found none",
            hint="put the file back from a backup, or set ledger.database to where the books are",
        )
    store = open_store(config.data_dir, create=True)
    try:
        store.migrate(now)
    except BaseException:
        store.close()
        raise
    return store


def _look(session: Session, ground: WritableGround) -> _Look:
    want_promised(session, ground.chains.joint.ledger_root)
    records, _ = reading.size_and_time(session)
    return _Look(records, reading.account(session, income).held_in, seal.last_seal(session))
