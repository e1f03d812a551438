"""How much each client got: virtual token counters (Sheng et al. 2024, arXiv:2401.00588).

Who got least is served first. A client that comes back after a pause begins no lower than the one that got least
among those who are here, so that nobody saves up service by staying away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

read_weight: Final = 1  # of a prompt's token that was computed
written_weight: Final = 2  # of an answer's, which costs a step of its own
_gone_max: Final = 4_096  # clients without work whose counters are remembered


class ClientShares:
    """Counters of those who have work here, and of some who had."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._here: dict[str, int] = {}  # client → how many generations of theirs are here
        self._gone: OrderedDict[str, int] = OrderedDict()

    @property
    def served(self) -> Mapping[str, int]:
        """Weighted tokens by client, of those who are here."""
        return MappingProxyType(self._served)

    def count(self, client: str) -> int:
        """How many generations of this client are here."""
        return self._here.get(client, 0)

    def enter(self, client: str) -> None:
        """One more generation of this client came."""
        if client not in self._here:
            before = self._gone.pop(client, 0)
            least = min(self._served.values(), default=before)
            self._served[client] = max(before, least)
        self._here[client] = self._here.get(client, 0) + 1

    def charge(self, client: str, weighted_tokens: int) -> None:
        """A client that is here got this much."""
        self._served[client] += weighted_tokens

    def leave(self, client: str) -> None:
        """One generation of this client ended."""
        self._here[client] -= 1
        if self._here[client]:
            return
        del self._here[client]
        self._gone[client] = self._served.pop(client)
        if not self._here:
            self._gone.clear()  # nobody was kept waiting: everybody begins anew
        elif len(self._gone) > _gone_max:
            self._gone.popitem(last=False)
