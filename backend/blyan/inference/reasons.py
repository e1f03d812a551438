"""Why a node gets the traffic that it gets, in plain words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from blyan.inference.registry import Registry, Standing
from blyan.inference.snapshot import Rank
from blyan.primitives.ids import PayloadId, PublicKey

_slower: float = 1.5  # times what is usual


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable code, and what it means in this case."""

    code: str
    text: str


def explain(registry: Registry, node: PublicKey, now: float, manifests: Iterable[PayloadId] = ()) -> Reason:
    """Why `node` gets what it gets of plans for these models; of all that are served, if none is named."""
    standing = registry.standing(node, now)
    if standing is None:
        return Reason("unknown", "nothing was heard of it lately")
    wanted = tuple(manifests) or tuple(standing.holds)
    asked = [view for view in registry.views(now) if view.rank <= Rank.newcomer]
    usual = median(view.score for view in asked) if asked else standing.view.score
    return _not_asked(standing, now) or _nothing_to_ask(standing, wanted) or _asked_less(standing, usual)


def _not_asked(standing: Standing, now: float) -> Reason | None:
    breaker, rank = standing.breaker, standing.view.rank
    if rank == Rank.unreachable:
        if standing.elsewhere:
            return Reason("duplicate", "another process speaks for the same key, and the link is to that one")
        return Reason("unconnected", "no link to it is up")
    if breaker.since is None:
        return None
    failed = f"it failed ({breaker.reason}) {now - breaker.since:.0f} s ago"
    if rank == Rank.probe:
        return Reason("half_open", f"{failed}, and is being tried again with one call")
    return Reason("open", f"{failed}; it is tried again in {max(0.0, breaker.until - now):.0f} s")


def _nothing_to_ask(standing: Standing, wanted: Iterable[PayloadId]) -> Reason | None:
    wanted = tuple(wanted)
    if any(standing.holds.get(manifest) for manifest in wanted):
        return None
    if standing.doubted.intersection(wanted):
        return Reason("doubted", "it has not what it said that it holds; its next claim is awaited")
    return Reason("nothing_held", "it holds no expert of the models that are asked for")


def _asked_less(standing: Standing, usual: float) -> Reason:
    view = standing.view
    if view.rank == Rank.doubtful:
        return Reason("reputation", f"too much that it did was wrong (reputation {view.reputation:.2f}): asked last")
    if view.rank == Rank.draining:
        return Reason("draining", "it is draining: asked only where no other has the expert")
    if view.rank == Rank.newcomer:
        return Reason("newcomer", "little is known of it yet: a small share, until enough of its answers held")
    if view.score > _slower * usual:
        return Reason("slower", f"a call takes {view.score * 1e3:.0f} ms, {usual * 1e3:.0f} ms elsewhere")
    return Reason("share", "it gets its share")
