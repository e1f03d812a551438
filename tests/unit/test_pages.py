"""The page pool: who shares what with whom, and what goes first when space is short."""

from __future__ import annotations

from blyan.inference.pages import PagedSequence, PagePool
from blyan.model.stepping import page_positions as size

PROMPT = tuple(range(3 * size + 5))


def computed(pool: PagePool, tokens: tuple[int, ...], scope: str = "", share: int | None = None) -> PagedSequence:
    held = pool.begin(tokens, scope=scope, share=share)
    assert pool.extend(held, len(tokens))
    pool.filled(held, tokens[held.length :])
    return held


def reused(pool: PagePool, tokens: tuple[int, ...]) -> int:
    held = pool.begin(tokens)
    found = held.reused
    pool.release(held)
    return found


def test_a_second_sequence_reads_the_full_pages_of_the_first_while_it_runs() -> None:
    """The partial page is nobody else's."""
    pool = PagePool(8)
    first = computed(pool, PROMPT)
    second = pool.begin((*PROMPT, 7, 8))
    assert first.pages[:3] == second.pages
    assert second.length == second.reused == 3 * size


def test_pages_outlive_the_sequence_that_filled_them() -> None:
    """Released pages are free and found."""
    pool = PagePool(8)
    first = computed(pool, PROMPT)
    pages = first.pages[:3]
    pool.release(first)
    assert (pool.free, pool.kept) == (8, 3)
    assert pool.begin(PROMPT).pages == pages
    assert (pool.free, pool.kept) == (5, 0)


def test_one_position_is_always_left_to_compute() -> None:
    """A prompt of whole pages that stands entirely computes its last page again."""
    pool = PagePool(8)
    computed(pool, PROMPT)
    assert pool.begin(PROMPT[: 3 * size]).reused == 2 * size
    assert pool.begin(PROMPT[: 3 * size + 1]).reused == 3 * size
    assert pool.begin(PROMPT, compute_min=len(PROMPT)).reused == 0
    assert pool.begin(PROMPT[:1], compute_min=9).reused == 0


def test_what_differs_in_one_token_is_not_shared_from_there_on() -> None:
    """Nor is the same page behind another beginning."""
    pool = PagePool(16)
    computed(pool, PROMPT)
    assert pool.begin((*PROMPT[:size], 0, *PROMPT[size + 1 :])).reused == size
    assert pool.begin((0, 0, *PROMPT[2:])).reused == 0
    assert pool.begin(PROMPT[size:]).reused == 0


def test_scopes_do_not_see_each_other() -> None:
    """A client's timing tells nothing of another's prompts where the operator keeps them apart."""
    pool = PagePool(16)
    computed(pool, PROMPT, scope="a")
    assert pool.begin(PROMPT, scope="b").reused == 0
    assert pool.begin(PROMPT).reused == 0
    assert pool.begin(PROMPT, scope="a").reused == 3 * size


def test_nothing_is_found_before_the_step_that_fills_it_succeeded() -> None:
    """Extended is not filled; and after a failed step nothing is found either."""
    pool = PagePool(8)
    first = pool.begin(PROMPT)
    assert pool.extend(first, len(PROMPT))
    assert pool.begin(PROMPT).reused == 0
    assert pool.forget(first, 0) == 0
    assert pool.begin(PROMPT).reused == 0
    assert (pool.free, pool.kept) == (8, 0)


def test_two_that_compute_the_same_at_once_end_with_one_page() -> None:
    """The later one gives its own back."""
    pool = PagePool(8)
    first, second = pool.begin(PROMPT), pool.begin(PROMPT)
    for held in (first, second):
        assert pool.extend(held, len(PROMPT))
    pool.filled(first, PROMPT)
    pool.filled(second, PROMPT)
    assert first.pages[:3] == second.pages[:3]
    assert first.pages[3] != second.pages[3]
    assert pool.free == 8 - 5


def test_the_page_of_one_that_left_already_is_taken_too() -> None:
    """It is held again, hence not free."""
    pool = PagePool(8)
    first, second = pool.begin(PROMPT), pool.begin(PROMPT)
    for held in (first, second):
        assert pool.extend(held, len(PROMPT))
    pool.filled(first, PROMPT)
    pool.release(first)
    pool.filled(second, PROMPT)
    assert (pool.free, pool.kept) == (4, 0)
    assert not pool.extend(pool.begin((9,)), 5 * size)


def test_a_full_pool_says_so_and_changes_nothing() -> None:
    """All or none of the pages asked for."""
    pool = PagePool(4)
    held = computed(pool, PROMPT)
    other = pool.begin((9,))
    assert not pool.extend(other, 1)
    assert (other.pages, pool.free) == ([], 0)
    pool.release(held)
    assert pool.extend(other, 4 * size)


def test_the_longest_unused_goes_first_and_ends_before_beginnings() -> None:
    """Of two kept prompts the older one loses its last page first; a prompt used again is the younger."""
    pool = PagePool(6)
    old, new = tuple(range(100, 100 + 3 * size)), tuple(range(500, 500 + 3 * size))
    for prompt in (old, new):
        pool.release(computed(pool, prompt))
    assert pool.kept == 6
    probe = pool.begin((*old, 1))  # used again: now the younger
    assert probe.reused == 3 * size
    pool.release(probe)
    taker = pool.begin((9,))
    assert pool.extend(taker, 2 * size)
    assert pool.counters.evictions == 2
    assert pool.begin((*new, 1)).reused == size
    assert pool.begin((*old, 1)).reused == 3 * size


def test_a_forgotten_page_takes_with_it_all_that_continues_it() -> None:
    """Whoever reads on keeps its pages, and nobody new finds them."""
    pool = PagePool(16)
    first = computed(pool, PROMPT)
    longer = (*PROMPT[: 3 * size], *range(900, 900 + 2 * size))
    reader = computed(pool, longer)
    assert pool.forget(first, size + 3) == size
    assert len(first.pages) == 1
    assert reused(pool, longer) == size
    assert reader.length == len(longer)
    more = tuple(range(300, 300 + size))
    assert pool.extend(reader, len(longer) + size)
    pool.filled(reader, more)
    assert reused(pool, (*longer, *more, 1)) == size
    pool.release(reader)
    pool.release(first)
    assert pool.kept == 1


def test_a_refused_draft_leaves_the_accepted_tokens_of_a_partial_page() -> None:
    """Pages that were taken for the draft go back."""
    pool = PagePool(8)
    held = computed(pool, PROMPT)
    assert pool.extend(held, len(PROMPT) + 2 * size)
    assert pool.forget(held, held.length) == len(PROMPT)
    assert len(held.pages) == 4
    assert pool.forget(held, len(PROMPT) - 2) == len(PROMPT) - 2
    pool.filled(held, tuple(range(50, 50 + size - 3)))
    wanted = (*PROMPT[:-2], *range(50, 50 + size - 3))
    assert pool.begin((*wanted, 1)).reused == 4 * size


def test_after_forgetting_all_not_even_sequences_under_way_publish() -> None:
    """What they hold may have been computed from a damaged block."""
    pool = PagePool(8)
    kept, running = computed(pool, PROMPT), pool.begin((5,) * 2 * size)
    assert pool.extend(running, 2 * size)
    pool.release(kept)
    pool.forget_all()
    pool.filled(running, (5,) * 2 * size)
    assert pool.kept == 0
    assert pool.begin(PROMPT).reused == pool.begin((5,) * 2 * size).reused == 0
    pool.release(running)
    assert (pool.free, pool.kept) == (8, 0)
    again = computed(pool, PROMPT)
    assert pool.begin(PROMPT).pages == again.pages[:3]


def test_positions_that_do_not_last_are_not_shared() -> None:
    """Where rotations depend on a sequence's length, pages beyond the trained context are its own."""
    pool = PagePool(16)
    computed(pool, PROMPT, share=2 * size - 1)
    assert pool.begin(PROMPT).reused == size
    computed(pool, PROMPT)
    assert pool.begin(PROMPT, share=2 * size).reused == 2 * size
    assert pool.begin(PROMPT, share=0).reused == 0


def test_counters_say_what_reuse_was_worth() -> None:
    """Sequences begun and helped, positions asked and spared, pages evicted."""
    pool = PagePool(8)
    computed(pool, PROMPT)
    pool.begin(PROMPT)
    found = pool.counters
    assert (found.begun, found.hits, found.asked_positions) == (2, 1, 2 * len(PROMPT))
    assert (found.reused_positions, found.evictions) == (3 * size, 0)


def test_a_look_says_what_a_sequence_would_find_and_holds_nothing() -> None:
    pool = PagePool(8)
    computed(pool, PROMPT)
    before = (pool.free, pool.counters.begun)
    for tokens in (PROMPT, (*PROMPT, 9), PROMPT[:size], PROMPT[: 2 * size], (7, *PROMPT), ()):
        assert pool.standing(tokens) == (reused(pool, tokens) if tokens else 0)
    assert pool.standing(PROMPT, share=size) == size
    assert (pool.free, pool.counters.begun - 5) == before
