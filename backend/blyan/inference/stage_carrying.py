"""Calls on their way through a stage: how many, of how many bytes, of which lead. For the network's loop.

What a lead, or the stage after, does not take stays here; it has a share, so that the others' calls are taken.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blyan.primitives import limits
from blyan.primitives.errors import Busy
from blyan.primitives.ids import PublicKey

if TYPE_CHECKING:
    from blyan.inference.stage_leases import Lease


@dataclass(slots=True)
class Carrying:
    """Those that are computed, or passed on and not taken yet."""

    _of: dict[asyncio.Future[None], tuple[Lease, int]] = field(
        default_factory=dict["asyncio.Future[None]", "tuple[Lease, int]"]
    )

    def __len__(self) -> int:
        return len(self._of)

    def want_room(self, lead: PublicKey, size: int) -> None:
        """`Busy` where a call of so many bytes would be too much for all together, or for this lead's share.

        Calls that wait for tokens take no place of others: leads that never have any drawn would fill all of them.
        """
        shares = (
            (list(self._of.values()), limits.stage_queue_max, limits.stage_bytes_max, ""),
            (
                [each for each in self._of.values() if each[0].lead == lead],
                limits.stage_queue_lead_max,
                limits.stage_bytes_lead_max,
                " of this lead",
            ),
        )
        for found, most, bytes_max, whose in shares:
            count = len(found) if whose else len(found) - sum(len(lease.turns) for lease in {each for each, _ in found})
            if count >= most:
                raise Busy(f"stage calls{whose}: expected fewer than {most} under way, found {count}")
            held = sum(each for _, each in found)
            if found and held + size > bytes_max:
                raise Busy(f"stage calls{whose}: expected at most {bytes_max} bytes under way, found {held + size}")

    def begin(self, carrying: asyncio.Future[None], lease: Lease, size: int) -> None:
        """This one counts until it is done."""
        self._of[carrying] = lease, size
        carrying.add_done_callback(self._of.pop)

    def call_off(self, lease: Lease) -> None:
        """The lease ended: what it gave is of no use to anybody."""
        for carrying, (of, _) in list(self._of.items()):
            if of is lease:
                carrying.cancel()
