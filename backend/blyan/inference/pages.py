"""Which page holds which positions of which sequence, and which of them another sequence may read. No tensors.

A page that a sequence filled is published under the page before it and its own tokens, so that whatever begins with
the same tokens reads it in place of computing it (the idea: Kwon et al. 2023, arXiv:2309.06180; the tree of prefixes:
Zheng et al. 2024, arXiv:2312.07104). Tokens are compared, not hashes of them. A page that nobody holds keeps its
content until its place is needed: the longest unused goes first, the end of a prefix before its beginning.

Holding a published page means holding all before it. Released from the end, pages therefore enter the queue of the
unused behind all that continue them, and taking its head never leaves a published page without the one before it.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from blyan.model.stepping import page_positions

# Scope of a first page or number of the page before; then the tokens, as bytes: Python keys the hash of bytes with a
# secret of the process, so nobody can choose tokens that fill one bucket.
_Key: TypeAlias = tuple[str | int, bytes]


@dataclass(slots=True)
class PageCounters:
    """What happened since the pool was made."""

    begun: int = 0  # sequences
    hits: int = 0  # of them those that found at least one page
    asked_positions: int = 0  # positions that the sequences began with
    reused_positions: int = 0  # of them those that need not be computed
    evictions: int = 0  # published pages whose place was taken


class PagedSequence:
    """One sequence's pages; only its pool changes it. The compute thread's alone."""

    __slots__ = ("era", "length", "pages", "reused", "scope", "shared", "tail")

    def __init__(self, scope: str, shared: int, era: int) -> None:
        self.pages: list[int] = []  # in order; those before position `length` are filled
        self.length = 0  # positions whose keys and values stand
        self.reused = 0  # positions that stood already when the sequence began
        self.scope = scope
        self.shared = shared  # pages at the front that others may read, at most
        self.tail: list[int] = []  # tokens of the positions on the last page, while it is not full
        self.era = era  # how often the pool had forgotten all when it began


class PagePool:
    """Hands out `pages` pages. Not thread-safe; every call costs the pages it names, none the pool."""

    def __init__(self, pages: int, counters: PageCounters | None = None) -> None:
        assert pages > 0, "a pool has pages"
        self.pages, self._era = pages, 0
        self.counters = counters or PageCounters()
        self._blank = list(range(pages - 1, -1, -1))  # the last to become blank is taken first: memory stays small
        self._unused: OrderedDict[int, None] = OrderedDict()  # published, held by nobody; the next to go is first
        self._owners = array("l", [0]) * pages
        self._keys: list[_Key | None] = [None] * pages  # None: not published
        self._published: dict[_Key, int] = {}
        self._children: dict[int, set[int]] = {}  # page → published pages that continue it, where there are any

    @property
    def free(self) -> int:
        """Pages that nobody holds: blank ones, and those kept for reuse."""
        return len(self._blank) + len(self._unused)

    @property
    def kept(self) -> int:
        """Pages that nobody holds and that a sequence to come may read."""
        return len(self._unused)

    def grow(self, pages: int) -> None:
        """There are so many from now on."""
        self._blank[:0] = range(pages - 1, self.pages - 1, -1)
        self._owners.extend([0] * (pages - self.pages))
        self._keys += [None] * (pages - self.pages)
        self.pages = pages

    def begin(
        self, tokens: Sequence[int], *, scope: str = "", compute_min: int = 1, share: int | None = None
    ) -> PagedSequence:
        """A sequence that holds all published pages `tokens` begins with; the rest is for `extend`.

        At least `compute_min` (1 or more) of the tokens are left to compute. Sequences find each other's pages within
        one `scope` only: nobody learns by timing what another scope asked. The engine has one for all. The first
        `share` positions take part, None for all (`rope_scaling.lasting_positions`).
        """
        assert compute_min >= 1, "a step computes something"
        shared = self.pages if share is None else share // page_positions
        held = PagedSequence(scope, shared, self._era)
        full = min((len(tokens) - compute_min) // page_positions, held.shared)
        before: str | int = scope
        for at in range(full):
            page = self._published.get(_key(before, tokens[at * page_positions : (at + 1) * page_positions]))
            if page is None:
                break
            self._take(page)
            held.pages.append(page)
            before = page
        held.length = held.reused = len(held.pages) * page_positions
        self.counters.begun += 1
        self.counters.hits += bool(held.pages)
        self.counters.asked_positions += len(tokens)
        self.counters.reused_positions += held.reused
        return held

    def standing(self, tokens: Sequence[int], *, scope: str = "", share: int | None = None) -> int:
        """How many of the tokens stand already, as `begin` would find them now. A look: any thread may."""
        most = self.pages if share is None else share // page_positions
        before: str | int = scope
        for at in range(min((len(tokens) - 1) // page_positions, most)):
            page = self._published.get(_key(before, tokens[at * page_positions : (at + 1) * page_positions]))
            if page is None:
                return at * page_positions
            before = page
        return max(0, min((len(tokens) - 1) // page_positions, most)) * page_positions

    def extend(self, held: PagedSequence, positions: int) -> bool:
        """Give the sequence pages for `positions` positions in all; False, and nothing changed, if the pool is full."""
        wanted = -(-positions // page_positions) - len(held.pages)
        if wanted > self.free:
            return False
        for _ in range(wanted):
            page = self._blank.pop() if self._blank else self._evict()
            self._owners[page] = 1
            held.pages.append(page)
        return True

    def filled(self, held: PagedSequence, tokens: Sequence[int]) -> None:
        """A step succeeded that wrote keys and values of `tokens` behind the sequence's `length` positions.

        Pages that became full are published. Where another sequence was first with the same tokens, its page takes the
        place of this one's.
        """
        assert held.length + len(tokens) <= len(held.pages) * page_positions, "extended before it was computed"
        held.tail.extend(tokens)
        page_at = held.length // page_positions
        held.length += len(tokens)
        begin = 0
        while len(held.tail) - begin >= page_positions:
            if page_at < held.shared:
                self._publish(held, page_at, held.tail[begin : begin + page_positions])
            begin += page_positions
            page_at += 1
        del held.tail[:begin]

    def forget(self, held: PagedSequence, length: int) -> int:
        """Positions from `length` on do not stand: a step failed, or a draft was refused. Returns how many do.

        That is less than `length` where other sequences may read the page it falls on. What was published of the
        forgotten is found by nobody from now on; the pages behind `length` are given back.
        """
        length = min(length, held.length)
        keep, rest = divmod(length, page_positions)
        if held.length // page_positions > keep:
            rest = 0  # the page is full, hence perhaps others' too, and its tokens are not at hand
        while len(held.pages) > keep + bool(rest):
            page = held.pages.pop()
            self._unpublish(page)
            self._drop(page)
        del held.tail[rest:]
        held.length = keep * page_positions + rest
        held.reused = min(held.reused, held.length)
        return held.length

    def release(self, held: PagedSequence) -> None:
        """The sequence holds nothing any more; its full pages wait for others. Again: nothing happens."""
        while held.pages:
            self._drop(held.pages.pop())
        held.length = 0
        held.tail.clear()

    def forget_all(self) -> None:
        """Nothing computed so far is read by sequences that begin from now on, such as after a block was damaged.

        Sequences under way keep their pages and publish no more.
        """
        self._era += 1
        self._blank.extend(self._unused)
        self._unused.clear()
        self._published.clear()
        self._children.clear()
        self._keys = [None] * self.pages

    def _publish(self, held: PagedSequence, at: int, tokens: list[int]) -> None:
        if held.era != self._era:
            return
        page = held.pages[at]
        before: str | int = held.pages[at - 1] if at else held.scope
        if isinstance(before, int) and self._keys[before] is None:
            return  # somebody forgot what this continues
        key = _key(before, tokens)
        twin = self._published.get(key)
        if twin is not None:
            self._take(twin)
            held.pages[at] = twin
            self._drop(page)
            return
        self._published[key] = page
        self._keys[page] = key
        if isinstance(before, int):
            self._children.setdefault(before, set()).add(page)

    def _unpublish(self, page: int) -> None:
        """Neither this page nor any that continues it is found any more."""
        waiting = [page]
        while waiting:
            page = waiting.pop()
            key = self._keys[page]
            if key is None:
                continue
            waiting.extend(self._children.pop(page, ()))
            self._withdraw(page, key)
            if page in self._unused:
                del self._unused[page]
                self._blank.append(page)

    def _withdraw(self, page: int, key: _Key) -> None:
        del self._published[key]
        self._keys[page] = None
        siblings = self._children.get(key[0]) if isinstance(key[0], int) else None
        if siblings is not None and isinstance(key[0], int):
            siblings.discard(page)
            if not siblings:
                del self._children[key[0]]

    def _evict(self) -> int:
        page, _ = self._unused.popitem(last=False)
        key = self._keys[page]
        assert key is not None and page not in self._children, "the end of a prefix goes before its beginning"
        self._withdraw(page, key)
        self.counters.evictions += 1
        return page

    def _take(self, page: int) -> None:
        if not self._owners[page]:
            del self._unused[page]
        self._owners[page] += 1

    def _drop(self, page: int) -> None:
        self._owners[page] -= 1
        if self._owners[page]:
            return
        if self._keys[page] is None:
            self._blank.append(page)
        else:
            self._unused[page] = None


def _key(before: str | int, tokens: Sequence[int]) -> _Key:
    return before, array("i", tokens).tobytes()
