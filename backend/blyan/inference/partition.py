"""Which layers of a model which node computes, when it goes through several: a cost model and a solver. Pure.

A pipeline is a route of stages, each with consecutive layers, from the *lead* (which may have the first layers itself)
back to the lead. A token costs each stage's seconds and each hop; where the first stage embeds and the last one draws
it goes straight from the last to the first, else over the lead. A prompt goes through in chunks,
of which several are under way, so that the slowest station counts once for each chunk. The solver is exact over all
cuts and orders of few nodes, and a beam search over many.

Left out: who is asked (`planner`), how fast nodes are (measured by whoever calls), other requests on the same stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, Protocol, TypeAlias

from blyan.inference.layer_cost import LayerCost
from blyan.primitives.ids import PublicKey

_exact_nodes: Final = 4  # of so many every order is looked at
_beam: Final = 24  # beginnings kept at each cut, where there are more
token_bytes: Final = 4  # as it is sent


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a node computes, as measured by whoever asked it."""

    bytes_per_s: float  # weights read, in a step of one token
    operations_per_s: float  # in a step of many
    fixed_s: float = 0.0  # for each time that it is asked

    def seconds(self, cost: LayerCost, tokens: int) -> float:
        """What one layer takes for so many tokens: as long as the longer of reading and computing."""
        return max(cost.read_bytes(tokens) / self.bytes_per_s, tokens * cost.operations / self.operations_per_s)


class Pace(Protocol):
    """What layers take at a node."""

    @property
    def fixed_s(self) -> float:
        """For each time that it is asked."""
        ...

    def seconds(self, cost: LayerCost, tokens: int) -> float:
        """What one layer takes for so many tokens."""
        ...


@dataclass(frozen=True, slots=True)
class StageNode:
    """A node that may be a stage."""

    node: PublicKey
    memory_bytes: int  # for weights, keys and values; where it has the weights, for the others alone
    speed: Pace
    layers: frozenset[int] | None = None  # that it has; None: it could take any
    loaded: bool = False  # whether it has their weights in memory already
    embeds: bool = False  # whether it takes tokens where the first layer is its
    draws: bool = False  # whether it gives tokens where the last one is


class Hop(NamedTuple):
    """The way from one node to another."""

    latency_s: float  # one way
    bytes_per_s: float = math.inf

    def seconds(self, count: int) -> float:
        """Until so many bytes are there."""
        return self.latency_s + count / self.bytes_per_s


Links: TypeAlias = Mapping[tuple[int, int], Hop]  # by places of nodes, from and to; who is not in it has no link


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be generated, and how."""

    prompt: int  # tokens
    answer: int  # tokens
    chunk: int  # tokens of a prompt that go through together
    positions: int  # that keys and values are to be held for

    @property
    def chunk_tokens(self) -> int:
        """Of one chunk of this prompt."""
        return max(1, min(self.chunk, self.prompt))

    @property
    def chunks(self) -> int:
        """In which the prompt goes through."""
        return max(1, -(-self.prompt // self.chunk_tokens))


@dataclass(frozen=True, slots=True)
class Stage:
    """A node, and its layers begin … end - 1."""

    node: PublicKey
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A route, and what it should take."""

    lead: PublicKey
    stages: tuple[Stage, ...]  # the lead's own first, if it has layers
    token_s: float  # for each token of the answer
    prompt_s: float  # until the first one

    def seconds(self, answer: int) -> float:
        """For a whole answer of so many tokens."""
        return self.prompt_s + max(0, answer - 1) * self.token_s


def _fitting(held: Sequence[int], room: int) -> int:
    """How many layers one after the other fit so many bytes at most, of sums over the first layers."""
    most, begin = 0, 0
    for end in range(1, len(held)):
        while held[end] - held[begin] > room and begin < end:
            begin += 1
        most = max(most, end - begin)
    return most


class _Label(NamedTuple):
    """A beginning of a route, up to some layer."""

    weighed: float  # seconds of what is there, tokens of the answer counted each
    slowest: float  # seconds of the slowest station for one chunk
    used: int  # places of nodes, as bits
    last: int  # the place where the hidden states are
    cuts: tuple[tuple[int, int], ...]  # place, end


@dataclass(frozen=True, slots=True)
class _Table:
    """All that the search asks for, added up in advance: sums over the first layers."""

    nodes: Sequence[StageNode]
    links: Links
    demand: Demand
    lead: int
    one: tuple[tuple[float, ...], ...]  # [node][layers] seconds for a token
    many: tuple[tuple[float, ...], ...]  # [node][layers] seconds for a chunk
    bytes: tuple[tuple[int, ...], ...]  # [node][layers] that it must hold, with keys and values
    activation: int
    ends: tuple[float, ...]  # [node] seconds of drawing a token
    room: tuple[int, ...]  # [node] bytes for layers
    most: tuple[int, ...]  # [node] layers that fit at most, wherever they begin
    least: tuple[float, ...]  # [layers] seconds that all layers from there on take at least, wherever

    @classmethod
    def of(
        cls,
        costs: Sequence[LayerCost],
        end: LayerCost,
        nodes: Sequence[StageNode],
        links: Links,
        demand: Demand,
        lead: int,
    ) -> _Table:
        tokens, chunk = max(0, demand.answer - 1), demand.chunk_tokens

        def sums(each: StageNode, count: int) -> tuple[float, ...]:
            return tuple(accumulate((each.speed.seconds(cost, count) for cost in costs), initial=0.0))

        room = [each.memory_bytes for each in nodes]
        room[lead] -= end.always_bytes + end.expert_bytes
        quickest = [
            min(tokens * n.speed.seconds(cost, 1) + n.speed.seconds(cost, chunk) for n in nodes) for cost in costs
        ]
        kept = tuple(accumulate((demand.positions * c.cache_bytes for c in costs), initial=0))
        held = tuple(accumulate((c.held_bytes + demand.positions * c.cache_bytes for c in costs), initial=0))
        sizes = tuple(kept if each.loaded else held for each in nodes)
        return cls(
            nodes,
            links,
            demand,
            lead,
            tuple(sums(each, 1) for each in nodes),
            tuple(sums(each, chunk) for each in nodes),
            sizes,
            max((cost.activation_bytes for cost in costs), default=0),
            tuple(each.speed.seconds(end, 1) for each in nodes),
            tuple(room),
            tuple(map(_fitting, sizes, room)),
            tuple(reversed(list(accumulate(reversed(quickest), initial=0.0)))),
        )

    @property
    def tokens(self) -> int:
        """Of the answer, after the first."""
        return max(0, self.demand.answer - 1)

    def hop(self, begin: int, end: int, *, first: bool) -> tuple[float, float] | None:
        """Weighed seconds of the way from one place to another, and a chunk's on it; None where there is none.

        To the first stage from a lead without layers: of the prompt alone. Which way tokens come is known at the end.
        """
        if begin == end:
            return 0.0, 0.0
        link = self.links.get((begin, end))
        if link is None:
            return None
        each = token_bytes if first and self.nodes[end].embeds else self.activation
        tokens, chunk = 0 if first else self.tokens, self.demand.chunk_tokens * each
        return tokens * link.seconds(self.activation) + link.seconds(chunk), chunk / link.bytes_per_s

    def way(self, first: int, last: int) -> tuple[Hop, ...] | None:
        """On which a token goes from the last stage to the first; None where it cannot."""
        if first == last == self.lead:
            return ()
        if first != self.lead and self.nodes[first].embeds and self.nodes[last].draws:
            direct = Hop(0.0) if first == last else self.links.get((last, first))
            return None if direct is None else (direct,)
        back, out = self.links.get((last, self.lead)), self.links.get((self.lead, first))
        if back is None or (out is None and first != self.lead):
            return None
        return (back,) if out is None or first == self.lead else (back, out)

    def drawer(self, last: int) -> int:
        """Who draws tokens where this one has the last layer."""
        return last if self.nodes[last].draws else self.lead

    def bytes_on(self, last: int) -> int:
        """That a token takes on its way from the last stage."""
        return token_bytes if self.nodes[last].draws else self.activation

    def whole(self, label: _Label) -> float:
        """Seconds of an answer, as far as the label goes."""
        return label.weighed + (self.demand.chunks - 1) * label.slowest

    def on(self, label: _Label, at: int, place: int) -> list[tuple[int, _Label]]:
        """Ways to go on from layer `at` with a stage on one node, by the layer where it ends."""
        if label.used >> place & 1 or (place == self.lead and label.cuts):
            return []
        hop = self.hop(label.last, place, first=not label.cuts)
        if hop is None:
            return []
        one, many, held = self.one[place], self.many[place], self.nodes[place].layers
        sizes = self.bytes[place]
        fixed = self.nodes[place].speed.fixed_s
        tokens, found = self.tokens, list[tuple[int, _Label]]()
        used, started = label.used | 1 << place, label.weighed + hop[0] + (tokens + 1) * fixed
        free = (most for other, most in enumerate(self.most) if not (used | 1 << self.lead) >> other & 1)
        least = len(one) - 1 - sum(free)  # where it must end at least for the others to hold the rest
        for end in range(at + 1, len(one)):
            if sizes[end] - sizes[at] > self.room[place] or (held is not None and end - 1 not in held):
                break
            if end < least:
                continue
            chunk = many[end] - many[at]
            weighed = started + tokens * (one[end] - one[at]) + chunk
            slowest = max(label.slowest, hop[1], chunk + fixed)
            found.append((end, _Label(weighed, slowest, used, place, (*label.cuts, (place, end)))))
        return found


def partition(
    costs: Sequence[LayerCost],
    end: LayerCost,
    nodes: Sequence[StageNode],
    links: Links,
    demand: Demand,
    *,
    lead: int | None = None,
) -> StagePlan | None:
    """The route with the shortest answer; None where none fits. `lead`: a place in `nodes`, or None for the best."""
    found: list[StagePlan] = []
    for place in range(len(nodes)) if lead is None else (lead,):
        table = _Table.of(costs, end, nodes, links, demand, place)
        if table.room[place] < 0:
            continue
        best = _search(table, len(costs), _beam, math.inf)
        if len(nodes) <= _exact_nodes:
            best = _search(table, len(costs), None, math.inf if best is None else table.whole(best)) or best
        if best is not None:
            found.append(_planned(table, best))
    return min(found, key=lambda each: each.seconds(demand.answer), default=None)


def _search(table: _Table, layers: int, width: int | None, below: float) -> _Label | None:
    """The best route of all, or of those that `width` beginnings at each cut lead to; None if none is below a bound."""
    rows: list[dict[tuple[int, int, int], list[_Label]]] = [{} for _ in range(layers + 1)]
    rows[0][0, table.lead, table.lead] = [_Label(0.0, 0.0, 0, table.lead, ())]
    best: _Label | None = None
    for at in range(layers):
        labels = [label for group in rows[at].values() for label in group]
        if width is not None and len(labels) > width:
            labels = _beginnings(table, labels, width)
        rows[at].clear()
        for label in labels:
            for place in range(len(table.nodes)):
                for end, made in table.on(label, at, place):
                    if table.whole(made) + table.least[end] >= below:
                        continue
                    if end < layers:
                        _keep(rows[end].setdefault((made.used, place, made.cuts[0][0]), []), made)
                    elif (back := _returned(table, made)) is not None and table.whole(back) < below:
                        best, below = back, table.whole(back)
    return best


def _beginnings(table: _Table, labels: list[_Label], width: int) -> list[_Label]:
    """Some to go on from: the quickest, and of those with the most nodes left, which may be needed, the quickest."""
    labels.sort(key=table.whole)
    quick, rest = labels[: width // 2], labels[width // 2 :]
    return quick + sorted(rest, key=lambda label: label.used.bit_count())[: width - len(quick)]


def _returned(table: _Table, label: _Label) -> _Label | None:
    """With the prompt's end back at the lead, and each token at the first stage."""
    way, back = table.way(label.cuts[0][0], label.last), table.links.get((label.last, table.lead), Hop(0.0))
    if way is None or (label.last != table.lead and (label.last, table.lead) not in table.links):
        return None
    weighed, slowest = label.weighed, label.slowest
    weighed += table.tokens * sum(hop.seconds(table.bytes_on(label.last)) for hop in way)
    weighed += (table.tokens + 1) * table.ends[table.drawer(label.last)]
    if label.last != table.lead:
        chunk = table.bytes_on(label.last) * table.demand.chunk_tokens
        weighed, slowest = weighed + back.seconds(chunk), max(slowest, chunk / back.bytes_per_s)
    return label._replace(weighed=weighed, slowest=slowest)


def _keep(group: list[_Label], made: _Label) -> None:
    """Add a beginning unless another is better in both; drop those that it is better than."""
    if any(each.weighed <= made.weighed and each.slowest <= made.slowest for each in group):
        return
    group[:] = [each for each in group if each.weighed < made.weighed or each.slowest < made.slowest]
    group.append(made)


def _planned(table: _Table, label: _Label) -> StagePlan:
    begins = [0, *(cut for _, cut in label.cuts)]
    stages = tuple(
        Stage(table.nodes[place].node, begin, cut) for begin, (place, cut) in zip(begins, label.cuts, strict=False)
    )
    places, demand = [place for place, _ in label.cuts], table.demand
    token = prompt = table.ends[table.drawer(places[-1])]
    token += sum(hop.seconds(table.bytes_on(places[-1])) for hop in table.way(places[0], places[-1]) or ())
    for before, after in pairwise([table.lead, *places, table.lead]):
        if before == after:
            continue
        link, size = table.links[before, after], table.activation
        out, back = before == table.lead != places[0], after == table.lead
        if not (out or back):
            token += link.seconds(size)
        elif table.nodes[after].embeds if out else table.nodes[before].draws:
            size = token_bytes
        prompt += link.seconds(demand.chunk_tokens * size)
    for begin, (place, cut) in zip(begins, label.cuts, strict=False):
        fixed = table.nodes[place].speed.fixed_s
        token += table.one[place][cut] - table.one[place][begin] + fixed
        prompt += table.many[place][cut] - table.many[place][begin] + fixed
    prompt += (demand.chunks - 1) * label.slowest
    return StagePlan(table.nodes[table.lead].node, stages, token, prompt)
