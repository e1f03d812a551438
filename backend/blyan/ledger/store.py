"""What the books need of a database: sessions that write one after another and read one moment.

The SQL is one text for both engines (`ledger/sql`), written as SQLite has it; a store changes what its dialect says
otherwise. Drivers' errors become faults here: `IntegrityFault` where a constraint or trigger refused, `StorageFull`
and `Unavailable` where nothing was changed or nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

from blyan.primitives.clock import UnixSeconds

Row: TypeAlias = tuple[Any, ...]

migration_numbers: Final = range(1, 10)


class Session(Protocol):
    """One connection, used by one thread at a time. A list among the values stands for `IN (…)`."""

    def rows(self, text: str, *values: object) -> list[Row]:
        """What a query finds."""
        ...

    def stream(self, text: str, *values: object) -> Iterator[Row]:
        """The same without holding all of it; inside `reading`."""
        ...

    def many(self, text: str, rows: Iterable[Row]) -> None:
        """Execute a statement for each row."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """A transaction beside which nobody writes; durable on a clean exit, undone on any other."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """A transaction that sees one moment."""
        ...

    def damage(self) -> list[str]:
        """What the engine itself finds wrong with its files, as sentences."""
        ...


class Store(Protocol):
    """A database of the books."""

    def session(self) -> AbstractContextManager[Session]:
        """Borrow a connection."""
        ...

    def migrate(self, now: UnixSeconds) -> tuple[str, ...]:
        """Bring the schema up to date; the names of what ran."""
        ...

    def close(self) -> None:
        """Give up the connections."""
        ...
