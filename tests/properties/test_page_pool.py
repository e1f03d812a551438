"""Pages under any mix of sequences: nobody reads what another prompt wrote, nobody writes what another reads."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blyan.inference.pages import PagedSequence, PagePool
from blyan.model.stepping import page_positions

PAGES = 9
# Few tokens in long blocks, so that prompts often begin alike and often end within a page.
PROMPTS = st.lists(
    st.sampled_from([(1,) * page_positions, (2,) * page_positions, (1,) * 5, (2, 1) * 9]), min_size=1, max_size=5
).map(lambda blocks: tuple(token for block in blocks for token in block))


class Shadow:
    """What a sequence should be: its tokens, and how many of them were computed."""

    def __init__(self, tokens: tuple[int, ...], scope: str, held: PagedSequence) -> None:
        self.tokens, self.scope, self.held = tokens, scope, held


class PagesAreRight(RuleBasedStateMachine):
    """Each slot of the memory notes which prefix was written there last; every holder must find its own."""

    @initialize()
    def begin_all(self) -> None:
        self.pool = PagePool(PAGES)
        self.memory: list[list[object]] = [[None] * page_positions for _ in range(PAGES)]
        self.live: list[Shadow] = []

    @rule(tokens=PROMPTS, scope=st.sampled_from(["", "b"]), least=st.sampled_from([1, 1, 40]))
    def begin(self, tokens: tuple[int, ...], scope: str, least: int) -> None:
        held = self.pool.begin(tokens, scope=scope, compute_min=least)
        assert held.reused % page_positions == 0
        assert held.reused == 0 or held.reused <= len(tokens) - least
        self.live.append(Shadow(tokens, scope, held))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 70), ends=st.sampled_from(["well", "well", "well", "failed", "dropped"]))
    def step(self, data: st.DataObject, count: int, ends: str) -> None:
        shadow = data.draw(st.sampled_from(self.live))
        held = shadow.held
        tokens = (shadow.tokens + (1,) * count)[held.length : held.length + count]
        before, free = list(held.pages), self.pool.free
        if not self.pool.extend(held, held.length + count):
            assert held.pages == before and self.pool.free == free
            return
        for position in range(held.length, held.length + count):
            page = held.pages[position // page_positions]
            others = [other for other in self.live if other is not shadow and page in other.held.pages]
            assert not others, "a page that is written has one owner"
            prefix = (shadow.scope, (shadow.tokens + (1,) * count)[: position + 1])
            self.memory[page][position % page_positions] = prefix if ends == "well" else "undefined"
        if ends == "well":
            shadow.tokens = (shadow.tokens + (1,) * count)[: max(len(shadow.tokens), held.length + count)]
            self.pool.filled(held, tokens)
        elif ends == "failed":
            assert self.pool.forget(held, held.length) == held.length

    @precondition(lambda self: self.live)
    @rule(data=st.data(), length=st.integers(0, 120))
    def forget(self, data: st.DataObject, length: int) -> None:
        held = data.draw(st.sampled_from(self.live)).held
        had = held.length
        stands = self.pool.forget(held, length)
        assert stands == held.length <= min(length, had)
        assert min(length, had) - stands < page_positions

    @precondition(lambda self: self.live)
    @rule(data=st.data(), again=st.booleans())
    def release(self, data: st.DataObject, again: bool) -> None:
        shadow = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        for _ in range(1 + again):
            self.pool.release(shadow.held)

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        assert self.pool.kept == 0

    @invariant()
    def every_holder_finds_its_own_prefix(self) -> None:
        for shadow in self.live:
            assert len(shadow.held.tail) == shadow.held.length % page_positions
            for position in range(shadow.held.length):
                found = self.memory[shadow.held.pages[position // page_positions]][position % page_positions]
                assert found == (shadow.scope, shadow.tokens[: position + 1])

    @invariant()
    def every_page_is_counted_once(self) -> None:
        held = {page for shadow in self.live for page in shadow.held.pages}
        assert self.pool.free == PAGES - len(held)
        for shadow in self.live:
            assert len(set(shadow.held.pages)) == len(shadow.held.pages)

    def teardown(self) -> None:
        for shadow in self.live:
            self.pool.release(shadow.held)
        assert self.pool.free == PAGES
        whole = self.pool.begin((7,))
        assert self.pool.extend(whole, PAGES * page_positions)
        assert sorted(whole.pages) == list(range(PAGES))


PagesAreRight.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_pages_are_right = PagesAreRight.TestCase
