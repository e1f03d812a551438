"""The partition solver against all cuts and orders that there are, and the limits that it must honour."""

import itertools
import math
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.inference.layer_cost import LayerCost
from blyan.inference.partition import Demand, Hop, Links, Speed, Stage, StageNode, StagePlan, partition, token_bytes
from blyan.primitives.ids import PublicKey

NO_END = LayerCost(0, 0, 0, 0, 0, 0, 0)
Case = tuple[list[LayerCost], LayerCost, list[StageNode], Links, Demand]


def key(place: int) -> PublicKey:
    return PublicKey(f"{place:064x}")


@st.composite
def cases(draw: st.DrawFn, nodes_max: int = 3, layers_max: int = 5) -> Case:
    """A small model, a few nodes of very different kinds, some links missing."""
    count = draw(st.integers(1, nodes_max))
    layers = [
        LayerCost(
            draw(st.integers(1, 100)),
            draw(st.integers(0, 50)),
            experts := draw(st.integers(0, 4)),
            min(experts, 2),
            draw(st.integers(1, 1_000)),
            draw(st.integers(1, 64)),
            draw(st.integers(0, 3)),
        )
        for _ in range(draw(st.integers(1, layers_max)))
    ]
    nodes = [
        StageNode(
            key(place),
            draw(st.integers(100, 1_500)),
            Speed(draw(st.floats(10, 1_000)), draw(st.floats(10, 10_000)), draw(st.floats(0, 0.5))),
            embeds=draw(st.booleans()),
            draws=draw(st.booleans()),
        )
        for place in range(count)
    ]
    links = {
        pair: Hop(draw(st.floats(0, 0.2)), draw(st.sampled_from((math.inf, 50.0, 5_000.0))))
        for pair in itertools.permutations(range(count), 2)
        if draw(st.integers(0, 3))
    }
    end = LayerCost(draw(st.integers(0, 100)), 0, 0, 0, draw(st.integers(0, 100)), 0, 0)
    demand = Demand(draw(st.integers(1, 200)), draw(st.integers(1, 20)), draw(st.integers(1, 16)), 10)
    return layers, end, nodes, links, demand


def routes(case: Case, lead: int) -> Iterator[tuple[Stage, ...]]:
    """All that there are: nodes in any order, the lead only first, and every way to cut."""
    layers, _, nodes, _, _ = case
    for length in range(1, min(len(nodes), len(layers)) + 1):
        for order in itertools.permutations(range(len(nodes)), length):
            if lead in order[1:]:
                continue
            for cuts in itertools.combinations(range(1, len(layers)), length - 1):
                edges = (0, *cuts, len(layers))
                yield tuple(
                    Stage(nodes[place].node, begin, end)
                    for place, begin, end in zip(order, edges, edges[1:], strict=False)
                )


def priced(case: Case, lead: int, stages: tuple[Stage, ...]) -> float | None:
    """Seconds of an answer by a route, added up plainly; None where it breaks a limit."""
    layers, end, nodes, links, demand = case
    at = {node.node: place for place, node in enumerate(nodes)}
    chunk, activation = min(demand.chunk, demand.prompt), max(cost.activation_bytes for cost in layers)
    first, last = at[stages[0].node], at[stages[-1].node]
    drawn, rings = last != lead and nodes[last].draws, first != lead and nodes[first].embeds and nodes[last].draws
    token = prompt = nodes[last if drawn else lead].speed.seconds(end, 1)
    if rings and first != last:
        if (last, first) not in links:
            return None
        token += links[last, first].seconds(token_bytes)
    stations: list[float] = []
    room = {place: node.memory_bytes for place, node in enumerate(nodes)}
    room[lead] -= end.always_bytes
    here = lead
    for stage in (*stages, None):
        there = lead if stage is None else at[stage.node]
        if there != here:
            if (here, there) not in links:
                return None
            hop = links[here, there]
            begins = here == lead != first
            size = token_bytes if (begins and nodes[there].embeds) or (stage is None and drawn) else activation
            if begins or stage is None:  # the way from the last stage to the first, over the lead
                token += 0 if rings else hop.seconds(token_bytes if drawn else activation)
            else:
                token += hop.seconds(activation)
            prompt += hop.seconds(chunk * size)
            stations.append(chunk * size / hop.bytes_per_s)
        if stage is not None:
            node = nodes[there]
            mine = layers[stage.begin : stage.end]
            room[there] -= sum(cost.held_bytes + demand.positions * cost.cache_bytes for cost in mine)
            token += node.speed.fixed_s + sum(node.speed.seconds(cost, 1) for cost in mine)
            stations.append(node.speed.fixed_s + sum(node.speed.seconds(cost, chunk) for cost in mine))
            prompt += stations[-1]
        here = there
    if min(room.values()) < 0:
        return None
    chunks = math.ceil(demand.prompt / chunk)
    return prompt + (chunks - 1) * max(stations) + (demand.answer - 1) * token


def best(case: Case, lead: int) -> float | None:
    found = [seconds for stages in routes(case, lead) if (seconds := priced(case, lead, stages)) is not None]
    return min(found, default=None)


def check(case: Case, lead: int, made: StagePlan) -> float:
    """What a plan that was made takes, which it says itself; it covers every layer once."""
    assert [stage.begin for stage in made.stages] == [0, *(stage.end for stage in made.stages[:-1])]
    assert made.stages[-1].end == len(case[0])
    assert made.lead == case[2][lead].node
    seconds = priced(case, lead, made.stages)
    assert seconds is not None
    assert math.isclose(seconds, made.seconds(case[4].answer), rel_tol=1e-9)
    return seconds


@settings(max_examples=300, deadline=None)
@given(cases())
def test_no_route_is_quicker_than_the_one_that_is_found_and_none_is_found_only_where_there_is_none(case: Case) -> None:
    expected, made = best(case, 0), partition(*case, lead=0)
    assert (made is None) == (expected is None)
    if made is not None and expected is not None:
        assert math.isclose(check(case, 0, made), expected, rel_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_a_free_lead_is_the_best_of_all_leads(case: Case) -> None:
    expected = [found for lead in range(len(case[2])) if (found := best(case, lead)) is not None]
    made = partition(*case)
    assert (made is None) == (not expected)
    if made is not None:
        assert math.isclose(made.seconds(case[4].answer), min(expected), rel_tol=1e-9)


@settings(max_examples=25, deadline=None)
@given(cases(nodes_max=7, layers_max=8))
def test_the_beam_over_many_nodes_keeps_every_limit(case: Case) -> None:
    made = partition(*case, lead=0)
    if made is not None:
        check(case, 0, made)


def alike(layers: int, nodes: int, memory: int) -> Case:
    """Equal layers on equal nodes, all linked."""
    cost = LayerCost(100, 0, 0, 0, 1_000, 8, 0)
    each = [StageNode(key(place), memory, Speed(1_000.0, 10_000.0)) for place in range(nodes)]
    links = {pair: Hop(0.001) for pair in itertools.permutations(range(nodes), 2)}
    return [cost] * layers, NO_END, each, links, Demand(64, 16, 8, 1)


def test_a_model_that_fits_one_node_stays_there_when_prompts_are_short() -> None:
    made = partition(*alike(4, 3, 10_000)[:4], Demand(1, 16, 8, 1), lead=0)
    assert made is not None
    assert [(stage.node, stage.begin, stage.end) for stage in made.stages] == [(key(0), 0, 4)]


def test_a_long_prompt_is_worth_a_hop() -> None:
    """In chunks that overlap, two stages read it in about half the time."""
    layers, end, nodes, links, _ = alike(4, 2, 10_000)
    made = partition(layers, end, nodes, links, Demand(800, 2, 8, 1), lead=0)
    alone = partition(layers, end, nodes[:1], {}, Demand(800, 2, 8, 1), lead=0)
    assert made is not None and alone is not None
    assert [(stage.begin, stage.end) for stage in made.stages] == [(0, 2), (2, 4)]
    assert made.prompt_s < 0.52 * alone.prompt_s


def test_keys_and_values_count_as_memory() -> None:
    layers, end, nodes, links, demand = alike(4, 2, 400)
    assert partition(layers, end, nodes[:1], links, demand, lead=0) is not None
    kept = [LayerCost(100, 0, 0, 0, 1_000, 8, 1) for _ in layers]
    assert partition(kept, end, nodes[:1], links, demand, lead=0) is None
    both = partition(kept, end, nodes, links, demand, lead=0)
    assert both is not None and len(both.stages) == 2


def test_sixteen_nodes_and_sixty_four_layers_take_a_moment() -> None:
    """A node alone holds five layers: thirteen stages at least."""
    case = alike(64, 16, 560)
    made = partition(*case, lead=0)
    assert made is not None and len(made.stages) == 13
    check(case, 0, made)


def test_a_step_of_many_tokens_reads_most_experts_and_of_one_token_those_that_it_is_sent_to() -> None:
    cost = LayerCost(10, 100, 8, 2, 1, 1, 1)
    assert cost.read_bytes(1) == 10 + 200
    assert 10 + 790 < cost.read_bytes(20) < cost.held_bytes == 810
