"""The route of a pipeline from what trial calls and pings measured of stages: `partition`, fed. Pure.

Where no stage was measured yet the layers are split evenly. Of stages that were measured and those that were not the
measured are asked, if they hold all layers together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from blyan.inference.layer_cost import LayerCost
from blyan.inference.partition import Demand, Hop, Speed, Stage, StageNode, StagePlan, partition
from blyan.inference.stage_route import Candidate, even_split
from blyan.network.measurements import LayerTimes
from blyan.primitives import limits
from blyan.primitives.ids import PublicKey
from blyan.wire.stage_shapes import Hop as Span

_nodes_max: Final = 6  # among which the solver looks, the quickest
_nodes_most: Final = 16  # the same where those do not hold all layers
_nodes_quick: Final = 3  # where it must not take long
_groups: Final = 16  # of layers, which it does not cut then
_piece_rows: Final = 64  # of a step that is cut into pieces, as the lead cuts it
unlimited: Final = 1 << 62
_quick: Final = Speed(math.inf, math.inf)

Between: TypeAlias = Mapping[tuple[PublicKey, PublicKey], float]  # seconds from one stage to another, one way


class Known(NamedTuple):
    """A node that may be a stage, and what was measured of it."""

    node: PublicKey
    layers: frozenset[int]  # that it has
    times: LayerTimes | None
    round_trip_s: float
    bytes_per_s: float = math.inf
    room_bytes: int = unlimited  # for keys and values, where it refused more lately
    embeds: bool = False  # whether it takes tokens where the first layer is its
    draws: bool = False  # whether it gives tokens where the last one is


class Model(NamedTuple):
    """What is to be computed."""

    costs: Sequence[LayerCost]
    end: LayerCost
    own: PublicKey  # who leads


@dataclass(frozen=True, slots=True)
class Measured:
    """A node's speed by trial calls: of one row by the bytes that it reads, of each further one by its operations."""

    fixed_s: float
    byte_s: float
    operation_s: float

    @classmethod
    def of(cls, times: LayerTimes, costs: Sequence[LayerCost]) -> Measured:
        """From what layers took, on average over those of the model."""
        read = sum(cost.read_bytes(1) for cost in costs)
        operations = sum(cost.operations for cost in costs)
        return cls(times.call_s, len(costs) * times.layer_s / read, len(costs) * times.row_s / max(1, operations))

    def seconds(self, cost: LayerCost, tokens: int) -> float:
        """What one layer takes for so many tokens."""
        return cost.read_bytes(1) * self.byte_s + (tokens - 1) * cost.operations * self.operation_s


def solved(
    model: Model, known: Sequence[Known], demand: Demand, between: Between, *, nodes_max: int = _nodes_max
) -> StagePlan | None:
    """The best route over stages that were measured; None where they do not hold all layers."""
    timed = [each for each in known if each.times is not None and each.node != model.own]
    quickest = sorted(timed, key=lambda each: _alone(each, len(model.costs)))[:nodes_max]
    for among in (quickest, timed[:_nodes_most]) if len(timed) > nodes_max else (timed,):
        if not among:
            return None
        ends = model.end.always_bytes + model.end.expert_bytes  # of which the lead has room for no layer
        nodes = [StageNode(model.own, ends, _quick, frozenset())]
        nodes = [_node(each, model) for each in known if each.node == model.own and each.times is not None] or nodes
        nodes += [_node(each, model) for each in among]
        found = partition(model.costs, model.end, nodes, _links(among, between), demand, lead=0)
        if found is not None:
            return found
    return None


def _node(each: Known, model: Model) -> StageNode:
    assert each.times is not None, "measured"
    speed = Measured.of(each.times, model.costs)
    return StageNode(each.node, each.room_bytes, speed, each.layers, loaded=True, embeds=each.embeds, draws=each.draws)


def route(model: Model, known: Sequence[Known], demand: Demand, between: Between) -> tuple[Span, ...] | None:
    """Which nodes take which layers; None where nobody has some of them.

    The lead takes part with its first layers where it is among them; evenly, as all do, where it was not measured.
    In a few milliseconds: of models with many layers it cuts between groups of them, and looks at the quickest nodes.
    """
    size = -(-len(model.costs) // _groups)
    grouped = [each._replace(layers=_groups_of(each.layers, len(model.costs), size)) for each in known]
    costs = [_together(model.costs[at : at + size]) for at in range(0, len(model.costs), size)]
    timed = [each._replace(times=_grouped(each.times, size)) for each in grouped if each.times is not None]
    own = next((each for each in known if each.node == model.own), None)
    found = None
    if own is None or own.times is not None:
        found = solved(model._replace(costs=costs), timed, demand, between, nodes_max=_nodes_quick)
    if found is not None:
        ends = [min(stage.end * size, len(model.costs)) for stage in found.stages]
        begins = [0, *ends]
        return tuple(
            Span(stage.node, begin, end) for stage, begin, end in zip(found.stages, begins, ends, strict=False)
        )
    others = [Candidate(each.node, each.layers) for each in known if each is not own]
    return even_split(len(model.costs), others, None if own is None else Candidate(own.node, own.layers))


def _together(costs: Sequence[LayerCost]) -> LayerCost:
    """Layers that are not cut apart, as one."""
    first = costs[0]
    return LayerCost(
        sum(cost.always_bytes for cost in costs),
        sum(cost.expert_bytes for cost in costs),
        max(cost.experts for cost in costs),
        max(cost.experts_per_token for cost in costs),
        sum(cost.operations for cost in costs),
        first.activation_bytes,
        sum(cost.cache_bytes for cost in costs),
    )


def _grouped(times: LayerTimes, size: int) -> LayerTimes:
    return replace(times, layer_s=times.layer_s * size, row_s=times.row_s * size)


def _groups_of(layers: frozenset[int], count: int, size: int) -> frozenset[int]:
    """The groups of which all layers are held."""
    spans = ((at // size, range(at, min(at + size, count))) for at in range(0, count, size))
    return frozenset(number for number, span in spans if layers.issuperset(span))


def along(
    model: Model, known: Sequence[Known], spans: Sequence[Span], demand: Demand, between: Between, *, ends: bool = False
) -> StagePlan | None:
    """What a route that is given should take; None where one of its stages was not measured.

    With `ends` what the lead does beside layers counts also where it has none of them, as `solved` counts it.
    """
    by_node = {each.node: each for each in known}
    if any(span.node not in by_node or by_node[span.node].times is None for span in spans):
        return None
    fixed = [by_node[span.node]._replace(layers=frozenset(range(span.begin, span.end))) for span in spans]
    lead = by_node.get(model.own)
    if ends and lead is not None and all(span.node != model.own for span in spans):
        fixed.append(lead._replace(layers=frozenset()))
    return solved(model, fixed, demand, between)


class Route(NamedTuple):
    """Stages that are asked, or would be, and all that tells how long they take: a value."""

    model: Model
    known: Sequence[Known]
    spans: tuple[Span, ...]
    between: Between

    @property
    def stages(self) -> tuple[Stage, ...]:
        """As a plan has them."""
        return tuple(Stage(span.node, span.begin, span.end) for span in self.spans)

    def takes(self, prompt: int, answer: int, chunk: int) -> StagePlan | None:
        """What a request should take, whose prompt is computed in such chunks; None where a stage was not measured."""
        rows = min(prompt, chunk)
        pieces = 1 if len(self.spans) < 2 else max(1, min(limits.stage_pieces_max, rows // _piece_rows))
        demand = Demand(prompt, answer, -(-rows // pieces), prompt + answer)
        return along(self.model, self.known, self.spans, demand, self.between)


def _alone(each: Known, layers: int) -> float:
    assert each.times is not None, "measured"
    return each.times.seconds(layers, 1) + each.round_trip_s


def _links(known: Sequence[Known], between: Between) -> dict[tuple[int, int], Hop]:
    """Of the lead, which is place 0, and of each stage with each: what was not measured lies between its bounds."""
    links: dict[tuple[int, int], Hop] = {}
    for place, each in enumerate(known, 1):
        links[0, place] = links[place, 0] = Hop(each.round_trip_s / 2, each.bytes_per_s)
        for other, there in enumerate(known, 1):
            if other == place:
                continue
            least, most = abs(each.round_trip_s - there.round_trip_s) / 2, (each.round_trip_s + there.round_trip_s) / 2
            seconds = between.get((each.node, there.node), (least + most) / 2)
            links[place, other] = Hop(min(most, max(least, seconds)), min(each.bytes_per_s, there.bytes_per_s))
    return links
