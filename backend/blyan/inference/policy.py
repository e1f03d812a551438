"""What the next step computes: who is admitted, who gives their pages back, how many tokens of whom. Pure.

Continuous batching (Yu et al. 2022, Orca) with chunked prefill (Agrawal et al. 2023, arXiv:2308.16369): every
generation that writes gets its token, prompts share what is left of the step. Among clients the one that got least
comes first (`fairness`), within a client who came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

_writers_beside: Final = 32  # of one client in a step, while another with fewer writes too


class Waiting(NamedTuple):
    """A generation without pages."""

    id: int
    client: str
    tokens: int  # to be computed before it gives something
    pages: int  # that all its tokens take


class Running(NamedTuple):
    """A generation with pages."""

    id: int
    client: str
    admitted: int  # rises with each admission
    left: int  # tokens to be computed, guesses not counted; 1 while it writes
    drafts: int  # guesses that it offers
    pages: int  # that it holds
    lacking: int  # that it needs more, for `left`
    spare: int  # positions that its pages hold beyond `left`
    last: int = 0  # the number of its last run: these rise over all generations


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds of a step."""

    running_max: int
    step_tokens: int  # computed in a step where nobody writes
    prompt_tokens: int  # of prompts, in a step where somebody writes
    drafts_max: int = 0  # guessed ahead in one generation
    drafting_max: int = 8  # generations that write beyond which nobody guesses

    def __post_init__(self) -> None:
        for name, found, least, most in (
            ("running_max", self.running_max, 1, limits.generations_running_max),
            ("step_tokens", self.step_tokens, 1, limits.step_tokens_max),
            ("prompt_tokens", self.prompt_tokens, 1, self.step_tokens),
            ("draft_tokens", self.drafts_max, 0, limits.draft_tokens_max),
        ):
            if not least <= found <= most:
                raise InvalidInput(f"inference.{name}: expected {least} to {most}, found {found}")


@dataclass(slots=True)
class Plan:
    """Preempt, then admit, then compute, each in this order."""

    preempted: list[int] = field(default_factory=list[int])
    admitted: list[int] = field(default_factory=list[int])
    tokens: dict[int, int] = field(default_factory=dict[int, int])  # of those that run or are admitted: how many
    drafts_max: int = 0  # guesses that each generation may offer next time


def plan(
    running: Sequence[Running],
    waiting: Mapping[str, Iterable[Waiting]],
    served: Mapping[str, int],
    pages_free: int,
    rules: Rules,
) -> Plan:
    """Decide one step. `waiting` has each client's generations in the order in which they came.

    `pages_free` counts those of prefixes kept for reuse. Whoever waits alone with all pages free is admitted: that a
    generation fits the memory at all is checked before.
    """
    made = Plan()
    kept, free = _relieved(running, served, pages_free, made)
    writing = [one for one in kept if one.left == 1]
    reading = [one for one in kept if one.left > 1]
    free -= sum(one.lacking for one in kept)
    room = rules.prompt_tokens if writing else rules.step_tokens
    got = dict(served)
    for one in sorted(reading, key=lambda one: (served.get(one.client, 0), one.admitted)):
        given = min(one.left, room)
        room -= given
        got[one.client] = got.get(one.client, 0) + given
        if given:
            made.tokens[one.id] = given
    if not made.preempted:
        _admit(kept, waiting, got, free, room, rules, made)
    gone = set(made.preempted)
    writing = _taking_turns(writing)
    few = len(writing) <= rules.drafting_max
    made.drafts_max = rules.drafts_max if few else 0
    for one in writing:
        if one.id not in gone:
            made.tokens[one.id] = 1 + (min(one.drafts, one.spare) if few else 0)
    return made


def _taking_turns(writing: list[Running]) -> list[Running]:
    """Who of those that write gets a token in this step: all, or of a client with many beside others some in turn.

    A step lasts as long as its rows take, so that one client's hundreds would slow down another's one. A bound that
    still makes a good batch costs the many a little of their sum and gives the few several times their speed.
    """
    by_client: dict[str, list[Running]] = {}
    for one in writing:
        by_client.setdefault(one.client, []).append(one)
    if len(by_client) < 2:
        return writing
    most = max(_writers_beside, min(map(len, by_client.values())))
    return [
        one
        for ones in by_client.values()
        for one in (ones if len(ones) <= most else sorted(ones, key=lambda one: one.last)[:most])
    ]


def _relieved(
    running: Sequence[Running], served: Mapping[str, int], free: int, made: Plan
) -> tuple[list[Running], int]:
    """Those that still run when pages for all of them are there, and the free pages then.

    The most recently admitted generation of the client that got most goes first.
    """
    kept = list(running)
    lacking = sum(one.lacking for one in kept)
    while lacking > free and len(kept) > 1:
        victim = max(kept, key=lambda one: (served.get(one.client, 0), one.admitted))
        kept.remove(victim)
        made.preempted.append(victim.id)
        free += victim.pages
        lacking -= victim.lacking
    return kept, free


def _admit(
    kept: Sequence[Running],
    waiting: Mapping[str, Iterable[Waiting]],
    got: dict[str, int],
    free: int,
    room: int,
    rules: Rules,
    made: Plan,
) -> None:
    """Admit in turn whoever got least, as long as there are pages, places, and tokens left in the step."""
    queues = {client: iter(queue) for client, queue in waiting.items()}
    heads = {client: head for client, queue in queues.items() if (head := next(queue, None)) is not None}
    running = list(kept)
    holding = {one.client for one in kept}
    count = len(running)
    while heads and room > 0:
        client = min(heads, key=lambda each: (got.get(each, 0), heads[each].id))
        head = heads[client]
        # a page is left for each that runs: who is admitted must not push others out at once
        if count >= rules.running_max or head.pages + count > free:
            victims = None if client in holding else _outranked(client, head, running, got, free, count, rules)
            if victims is None:
                return  # nobody overtakes: what is small must not starve what is large
            for victim in victims:
                running.remove(victim)
                made.preempted.append(victim.id)
                room += made.tokens.pop(victim.id, 0)
                free += victim.pages + victim.lacking
                count -= 1
        free -= head.pages
        count += 1
        holding.add(client)
        given = min(head.tokens, room)
        room -= given
        got[client] = got.get(client, 0) + given
        made.admitted.append(head.id)
        made.tokens[head.id] = given
        following = next(queues[client], None)
        if following is None:
            del heads[client]
        else:
            heads[client] = following


def _outranked(
    client: str,
    head: Waiting,
    running: Sequence[Running],
    got: Mapping[str, int],
    free: int,
    count: int,
    rules: Rules,
) -> list[Running] | None:
    """Whom a client that runs nothing may push out: the latest of clients that run several and got more; else None."""
    by_client: dict[str, list[Running]] = {}
    for one in sorted(running, key=lambda one: one.admitted):
        by_client.setdefault(one.client, []).append(one)
    victims: list[Running] = []
    while count >= rules.running_max or head.pages + count > free:
        several = [each for each, ones in by_client.items() if len(ones) > 1 and got.get(each, 0) > got.get(client, 0)]
        if not several:
            return None
        most = max(several, key=lambda each: (len(by_client[each]), got.get(each, 0)))
        victim = by_client[most].pop()
        victims.append(victim)
        free += victim.pages + victim.lacking
        count -= 1
    return victims
