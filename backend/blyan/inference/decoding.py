"""The steps of one answer, as `model/generate` gives them, with the computing asked for instead of done.

Guessed tokens (drafts) are computed together with the last chosen one. Each position is then chosen from its own
scores as always, and a guess only decides whether the next position's scores are there already: tokens and
log-probabilities are the same with and without.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeAlias

from blyan.inference.drafting import Drafter
from blyan.inference.needs import Answer, Need
from blyan.model.choosing import Choice, Chooser, Step, is_plain, step_of
from blyan.model.grammar import Grammar
from blyan.model.stepping import Drawing

_echo_rows: Final = 64  # positions scored at once: scores of a long prompt would fill memory

Steps: TypeAlias = Generator[Need | Step, Answer | None, bool]


def decode(
    prompt: tuple[int, ...],
    choice: Choice,
    *,
    echo: bool = False,
    grammar: Grammar | None = None,
    drafter: Drafter | None = None,
    routed: bool = True,
    chosen: tuple[int, ...] = (),
) -> Steps:
    """Yield needs, to be sent answers, and between them the prompt's own steps if `echo` and the chosen ones.

    Steps tell of experts if `routed`. `chosen`: the answer's first tokens, which are there already; no steps tell of
    them. Returns whether the answer came to its end by itself, by a stop token or by its grammar.
    """
    count, end = len(prompt), len(prompt) + len(chosen)
    if echo:
        answer = yield from _echoed(prompt, choice.top, routed)
        used: tuple[tuple[int, int, int], ...] = ()
    else:
        drawing = _drawing(choice, grammar, choice.tokens_max - len(chosen))
        answer = _given((yield Need(0, prompt + chosen, scored=1, reach=count, drawing=drawing)))
        used = answer.experts(end - 1 if chosen else 0, end) if routed else ()
    chooser = Chooser(prompt, choice, None if grammar is None else grammar.begin())
    for token in chosen:
        chooser.take(token)
        if drafter is not None:
            drafter.take(token)
    drafts: tuple[int, ...] = ()
    row = max(0, len(answer.scores) - 1)  # the last position that was known
    while chooser.left:
        drawn = answer.drawn
        step = chooser.choose(answer.scores[row], used) if drawn is None else chooser.accept(drawn, used)
        yield step
        if not chooser.left:
            break
        end += 1
        if drafter is not None:
            drafter.take(step.token)
        if row < len(drafts) and drafts[row] == step.token:
            row += 1  # guessed: what follows it is computed already
        else:
            if drafter is not None:
                drafter.verified(offered=len(drafts), accepted=row)
            room = min(answer.drafts_max, chooser.left - 1)
            drafts = () if drafter is None else drafter.guess(room)
            tokens = (step.token, *drafts)
            del answer  # its scores are a view of a whole step's, and the next answer may be long in coming
            drawing = None if drafts else _drawing(choice, grammar, chooser.left)
            need = Need(end - 1, tokens, 1 + len(drafts), drafts=len(drafts), reach=count, drawing=drawing)
            answer = _given((yield need))
            drafts = drafts[: len(answer.scores) - 1]
            row = 0
        if routed:
            used = answer.experts(row, row + 1)
    return chooser.stopped


def _drawing(choice: Choice, grammar: Grammar | None, left: int) -> Drawing | None:
    """How the next token may be drawn by whoever has its scores; None where it takes more than scores and a seed."""
    return Drawing(choice.sampling, left > 1) if grammar is None and is_plain(choice) else None


def _echoed(prompt: tuple[int, ...], top: int, routed: bool) -> Generator[Need | Step, Answer | None, Answer]:
    """The steps of the prompt itself; the answer that holds the scores of its last position."""
    begin = 0
    while True:
        rest = len(prompt) - begin
        rows = rest if rest <= _echo_rows + 1 else _echo_rows  # not one alone at the end, which no step would tell of
        answer = _given((yield Need(begin, prompt[begin : begin + rows], rows, reach=len(prompt))))
        used = answer.experts(0, rows) if routed else ()
        if begin == 0:
            yield Step(prompt[0], None, (), used)
            used = ()
        following = prompt[begin + 1 : begin + rows + 1]
        for row, token in enumerate(following):
            yield step_of(answer.scores[row], token, top, used)
            used = ()
        begin += rows
        if begin == len(prompt):
            return answer
        del answer


def _given(answer: Answer | None) -> Answer:
    assert answer is not None, "a need is answered"
    return answer
