"""Versions of the swarm's models: which have a newer one in their place, and when an old one is given up. Pure.

A node tells of an older version that it has the trunk no more once it answers with the newer one, and goes on computing
its experts for those who still answer with it. It gives it up when for a while nobody has said that he does, and the
newer one is whole among the nodes that are there: so there is never a moment at which a name has no version that works.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from blyan.chain.validity import version_key
from blyan.node.holdings import Hosted
from blyan.primitives.ids import PayloadId
from blyan.wire.peer import Summary, bits_of


def told_trunks(summaries: Iterable[Summary]) -> frozenset[PayloadId]:
    """The models of which somebody says that all but the routed experts is with him: he answers with them, or could."""
    return frozenset(model for each in summaries for model, held in each.holdings.items() if held.trunk)


def is_whole(hosted: Hosted, summaries: Iterable[Summary]) -> bool:
    """Whether every routed expert of a model is here, or somebody says that he has it."""
    found = int.from_bytes(bits_of(hosted.here), "little")
    for each in summaries:
        holding = each.holdings.get(hosted.manifest_id)
        found |= 0 if holding is None else int.from_bytes(holding.experts, "little")
    return found & (1 << hosted.grid.count) - 1 == (1 << hosted.grid.count) - 1


def replaced(
    models: Sequence[Hosted], answered: Callable[[str], PayloadId | None], served: Container[PayloadId]
) -> dict[PayloadId, Hosted]:
    """Which of these models have a newer version in their place, and which that is.

    `answered`: the version with which this node answers by a name. Where it answers by that name with none, it is the
    newest that is among those `served` by others.
    """
    found: dict[PayloadId, Hosted] = {}
    for old in models:
        ours = answered(old.manifest.name)
        for new in models:
            counts = new.manifest_id == ours if ours is not None else new.manifest_id in served
            if counts and new.manifest.name == old.manifest.name and _newer(new, found.get(old.manifest_id, old)):
                found[old.manifest_id] = new
    return found


@dataclass(slots=True)
class OldVersions:
    """Since when nobody needs each old version."""

    patience_s: float
    _since: dict[PayloadId, float] = field(default_factory=dict[PayloadId, float])

    def to_give_up(
        self,
        replaced: Mapping[PayloadId, Hosted],
        served: Container[PayloadId],
        linked: Sequence[Summary],
        now: float,
    ) -> list[PayloadId]:
        """Those that nobody has answered with for long enough, while the newer one was whole among those `linked`."""
        unneeded = {old for old, new in replaced.items() if old not in served and is_whole(new, linked)}
        self._since = {old: self._since.get(old, now) for old in unneeded}
        return [old for old, since in self._since.items() if now - since >= self.patience_s]


def _newer(new: Hosted, old: Hosted) -> bool:
    return version_key(new.manifest.version) > version_key(old.manifest.version)
