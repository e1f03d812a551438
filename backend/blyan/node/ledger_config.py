"""The section of the configuration that says where the books are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blyan.primitives.errors import InvalidInput

_seal_seconds_max: Final = 600


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """The books, which a node with accounts has."""

    database: str = ""  # postgresql://…; empty: ledger.db in the data directory
    seal_seconds: int = 2  # between two looks at what is to be sealed and which holds are over

    def __post_init__(self) -> None:
        if self.database and not self.database.startswith(("postgresql://", "postgres://")):
            raise InvalidInput("ledger.database: expected postgresql://…, found something else")
        if not 0 < self.seal_seconds <= _seal_seconds_max:
            raise InvalidInput(f"ledger.seal_seconds: expected 1 to {_seal_seconds_max}, found {self.seal_seconds}")
