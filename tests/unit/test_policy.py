"""What a step computes, decided by values: fair, bounded, and nobody starves."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from blyan.inference.fairness import ClientShares, written_weight
from blyan.inference.policy import Rules, Running, Waiting, plan

RULES = Rules(running_max=4, step_tokens=100, prompt_tokens=20)


def waits(number: int, client: str = "a", tokens: int = 10, pages: int = 1) -> Waiting:
    return Waiting(number, client, tokens, pages)


def runs(
    number: int, client: str = "a", *, left: int = 1, pages: int = 1, lacking: int = 0, drafts: int = 0
) -> Running:
    return Running(number, client, number, left, drafts, pages, lacking, spare=31)


def test_who_came_first_is_admitted_first_within_a_client() -> None:
    made = plan([], {"a": [waits(1), waits(2), waits(3)]}, {}, 100, Rules(2, 100, 20))
    assert made.admitted == [1, 2]


def test_the_client_that_got_least_is_admitted_first() -> None:
    made = plan([], {"a": [waits(1)], "b": [waits(2)]}, {"a": 50, "b": 10}, 100, Rules(1, 100, 20))
    assert made.admitted == [2]


def test_what_a_client_gets_in_a_step_counts_in_that_step() -> None:
    """Two places, two clients: one each, though one asked first and often."""
    made = plan([], {"a": [waits(1), waits(2)], "b": [waits(3)]}, {}, 100, Rules(2, 100, 20))
    assert made.admitted == [1, 3]


def test_a_large_prompt_at_the_head_is_not_overtaken() -> None:
    """Or small ones would starve it."""
    made = plan([runs(1)], {"b": [waits(2, "b", pages=50), waits(3, "b")]}, {}, 20, RULES)
    assert made.admitted == []


def test_prompts_share_what_writers_leave_of_a_step() -> None:
    """Writers get their token whatever there is; prompts the bound beside writers, or the whole step without."""
    beside = plan([runs(1), runs(2, left=500)], {}, {}, 9, RULES)
    alone = plan([runs(2, left=500)], {}, {}, 9, RULES)
    assert beside.tokens == {1: 1, 2: 20}
    assert alone.tokens == {2: 100}


def test_guesses_are_welcome_while_few_write() -> None:
    """One that offers three gets them computed in a small batch and not in a large one."""
    rules = Rules(64, 100, 20, drafts_max=4, drafting_max=2)
    few = plan([runs(1, drafts=3)], {}, {}, 9, rules)
    many = plan([runs(number, drafts=3) for number in range(3)], {}, {}, 9, rules)
    assert (few.tokens[1], few.drafts_max) == (4, 4)
    assert (many.tokens[1], many.drafts_max) == (1, 0)


def test_the_latest_of_the_client_that_got_most_gives_its_pages_back() -> None:
    running = [runs(1, "a", lacking=1), runs(2, "b", pages=5), runs(3, "b", pages=5), runs(4, "a")]
    made = plan(running, {"c": [waits(9, "c")]}, {"a": 5, "b": 9}, 0, RULES)
    assert made.preempted == [3]
    assert set(made.tokens) == {1, 2, 4}
    assert made.admitted == []  # not in the step in which memory was short


def test_a_client_that_runs_nothing_takes_a_place_of_one_that_runs_several() -> None:
    running = [runs(number, "a") for number in range(4)]
    waiting = {"a": [waits(8, "a")], "b": [waits(9, "b")]}
    made = plan(running, waiting, {"a": 100, "b": 50}, 100, RULES)
    assert (made.preempted, made.admitted) == ([3], [9])
    assert 3 not in made.tokens


def test_nobody_loses_their_only_place_to_a_newcomer() -> None:
    running = [runs(number, f"c{number}") for number in range(4)]
    made = plan(running, {"b": [waits(9, "b")]}, {}, 100, RULES)
    assert (made.preempted, made.admitted) == ([], [])


def test_staying_away_saves_up_nothing() -> None:
    """Who comes back begins where the one that got least is."""
    shares = ClientShares()
    shares.enter("a")
    shares.enter("b")
    shares.charge("a", 100)
    shares.charge("b", 40)
    shares.leave("b")
    shares.charge("a", 100)
    shares.enter("b")
    assert shares.served["b"] == 200
    shares.leave("a")
    shares.leave("b")
    shares.enter("c")
    assert shares.served["c"] == 0  # everybody had left


@dataclass
class Sim:
    """A generation of the simulation: its prompt, what it shall write, what is computed and known."""

    number: int
    client: str
    prompt: int
    write: int
    came: int
    known: int = 0
    computed: int = 0
    pages: int = 0
    admitted: int = -1


@dataclass
class Simulation:
    """Steps without computing: pages of four positions, as `engine` hands them out."""

    total: int
    rules: Rules
    shares: ClientShares = field(default_factory=ClientShares)
    waiting: dict[str, dict[int, Sim]] = field(default_factory=dict)
    running: dict[int, Sim] = field(default_factory=dict)
    admissions: int = 0

    def add(self, one: Sim) -> None:
        self.shares.enter(one.client)
        one.known = one.prompt
        self.waiting.setdefault(one.client, {})[one.number] = one

    def step(self) -> list[Sim]:
        views = []
        for one in self.running.values():
            left = one.known - one.computed
            views.append(
                Running(
                    one.number, one.client, one.admitted, left, 0, one.pages, max(0, -(-one.known // 4) - one.pages), 0
                )
            )
        waiting = {
            client: [Waiting(one.number, client, one.known, one.known // 4 + 1) for _, one in sorted(queue.items())]
            for client, queue in self.waiting.items()
            if queue
        }
        free = self.total - sum(one.pages for one in self.running.values())
        made = plan(views, waiting, self.shares.served, free, self.rules)
        for number in made.preempted:
            one = self.running.pop(number)
            one.computed = one.pages = 0
            self.waiting.setdefault(one.client, {})[number] = one
        for number in made.admitted:
            client = next(
                each.client for queue in self.waiting.values() for each in queue.values() if each.number == number
            )
            one = self.running[number] = self.waiting[client].pop(number)
            one.pages, one.admitted = -(-one.known // 4), self.admissions
            self.admissions += 1
        ended = []
        assert len(self.running) <= self.rules.running_max
        for number, tokens in made.tokens.items():
            one = self.running[number]
            one.pages = max(one.pages, -(-min(one.known, one.computed + tokens) // 4))
            one.computed += tokens
            self.shares.charge(one.client, tokens * written_weight)
            assert one.computed <= one.known
            if one.computed == one.known:
                if one.known == one.prompt + one.write:
                    ended.append(one)
                else:
                    one.known += 1
        assert sum(one.pages for one in self.running.values()) <= self.total
        assert self.running or not any(self.waiting.values()), "somebody computes while somebody waits"
        for one in ended:
            del self.running[one.number]
            self.shares.leave(one.client)
        return ended


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.integers(1, 25), st.integers(0, 40)),
        min_size=1,
        max_size=25,
    ),
    total=st.integers(14, 40),
    running_max=st.integers(1, 6),
)
def test_everybody_ends_whatever_the_memory(
    asked: list[tuple[str, int, int, int]], total: int, running_max: int
) -> None:
    """No deadlock, no starvation, never more pages than there are: within a bound of steps everything is written."""
    simulation = Simulation(total, Rules(running_max, 16, 8))
    coming = sorted(
        (Sim(number, client, prompt, write, came) for number, (client, prompt, write, came) in enumerate(asked)),
        key=lambda one: (one.came, one.number),
    )
    left, step = len(coming), 0
    bound = 41 + 4 * sum(one.prompt + one.write for one in coming)
    while left:
        while coming and coming[0].came <= step:
            simulation.add(coming.pop(0))
        left -= len(simulation.step())
        step += 1
        assert step <= bound, "it does not end"


def test_service_is_even_between_a_client_with_fifty_and_one_with_two() -> None:
    """While both have work, neither gets more than twice the other's tokens, though one asks for 25 times as much."""
    simulation = Simulation(64, Rules(4, 32, 16))
    for number in range(50):
        simulation.add(Sim(number, "many", 8, 40, 0))
    for _ in range(20):
        simulation.step()
    before = dict(simulation.shares.served)
    for number in range(50, 54):
        simulation.add(Sim(number, "few", 8, 40, 0))
    begun = dict(simulation.shares.served)
    while sum(one.client == "few" for one in simulation.running.values()) or simulation.waiting["few"]:
        after = dict(simulation.shares.served)
        simulation.step()
    few, many = after["few"] - begun["few"], after["many"] - before["many"]
    assert 0.5 <= few / many <= 2


def test_a_client_with_many_takes_turns_beside_one_with_few() -> None:
    """Those that waited longest first; the few get a token in every step."""
    many = [runs(number, "a")._replace(last=number) for number in range(1, 101)]
    made = plan([*many, runs(500, "b")], {}, {"a": 9, "b": 9}, 200, RULES)
    assert set(made.tokens) == {*range(1, 33), 500}
    assert set(plan(many, {}, {"a": 9}, 200, RULES).tokens) == set(range(1, 101)), "alone, nobody waits"


def test_two_clients_with_many_get_as_many_tokens_as_each_other() -> None:
    running = [runs(number, "a") for number in range(100)] + [runs(number, "b") for number in range(200, 250)]
    made = plan(running, {}, {}, 200, RULES)
    assert sum(number < 200 for number in made.tokens) == 50 == sum(number >= 200 for number in made.tokens)


def test_whoever_waits_their_turn_gets_it() -> None:
    """Over a few steps each of a hundred was computed as often as any other, give or take one."""
    last = dict.fromkeys(range(100), 0)
    times = dict.fromkeys(range(100), 0)
    count = 0
    for _ in range(50):
        running = [runs(number, "a")._replace(last=last[number]) for number in range(100)]
        for number in plan([*running, runs(500, "b")], {}, {}, 200, RULES).tokens:
            if number < 500:
                last[number] = count = count + 1
                times[number] += 1
    assert max(times.values()) - min(times.values()) <= 1
