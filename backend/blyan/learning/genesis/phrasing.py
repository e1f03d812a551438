"""Questions put together from parts, so that few of them are asked twice: `phrases.toml` beside `lessons.toml`.

In a wording `(a|b)` is one of these, `<noun>` a noun, in a frame `{what}` the thing that is asked for or the deed that
is asked to be done. A fresh wording of the exam may come out; it is drawn again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis import lesson_wordings
from blyan.learning.genesis.exam_wordings import fresh, unknown
from blyan.learning.genesis.split import fingerprint
from blyan.learning.genesis.tables import Wordings, pairs, read_table
from blyan.learning.genesis.typing_habits import varied

_choice: Final = re.compile(r"\(([^()]*\|[^()]*)\)")  # without another one inside
_spaces: Final = re.compile(r" +(?=[.,?!;])|(?<= ) +")
_table: Final = read_table("phrases.toml")
_frames: Final[Mapping[str, Wordings]] = pairs(_table["frames"])
_parts: Final[Mapping[str, Mapping[str, Wordings]]] = {
    form: pairs(_table[form]) for form in ("more", "thing", "deed", "talk", "sequels", "introductions", "intents")
}
_unknown: Final[Mapping[str, Wordings]] = pairs(_table["unknown"])  # things and deeds
_nouns: Final = tuple(_table["nouns"][language].split() for language in ("en", "ko"))
_forms: Final = 4 * ("more",) + 3 * ("thing",) + 3 * ("deed",)  # as often as they stand here
_whole_share: Final = 0.35  # of questions: wordings that stand whole in `lessons.toml` or `talk.toml`
_fresh: Final = {
    (kind, language): frozenset(map(fingerprint, wordings[language]))
    for kind, wordings in fresh.items()
    for language in (0, 1)
}
_unknown_of_the_exam: Final = tuple(frozenset(map(fingerprint, wordings)) for wordings in unknown)


def drawn(draws: Draws, wording: str, language: int) -> str:
    """The wording with one of each of its choices, those inside others too, and one noun wherever it has `<noun>`."""
    while _choice.search(wording):
        wording = _choice.sub(lambda found: draws.pick(found[1].split("|")), wording)
    if "<noun>" in wording:
        wording = wording.replace("<noun>", draws.pick(_nouns[language]))
    return _spaces.sub("", wording).strip()


def question(draws: Draws, kind: str, language: int) -> str:
    """How somebody asks for a problem of this kind, its places still open; none of the exam's fresh wordings."""
    while True:
        wording = varied(draws, _question(draws, kind, language), language)
        if fingerprint(wording) not in _fresh.get((kind, language), ()):
            return wording


def put_together(draws: Draws, more: Wordings, things: Wordings, language: int) -> str:
    """A question that is one of `more` or asks for one of `things`, as somebody types it."""
    if things[language] and draws.chance(0.4):
        return varied(draws, _framed(draws, "thing", draws.pick(things[language]), language), language)
    return varied(draws, drawn(draws, draws.pick(more[language]), language), language)


def _question(draws: Draws, kind: str, language: int) -> str:
    forms = [form for form in _forms if _has(form, kind, language)]
    if not forms or draws.chance(_whole_share):
        return draws.pick(lesson_wordings.asked[kind][language])
    form = draws.pick(forms)
    wording = draws.pick(_parts[form][kind][language])
    return drawn(draws, wording, language) if form == "more" else _framed(draws, form, wording, language)


def unknowable(draws: Draws, language: int) -> str:
    """How somebody asks for what nobody here knows, in the same frames, its places still open."""
    while True:
        wording = varied(draws, _unknowable(draws, language), language)
        if fingerprint(wording) not in _unknown_of_the_exam[language]:
            return wording


def _unknowable(draws: Draws, language: int) -> str:
    if draws.chance(_whole_share):
        return drawn(draws, draws.pick(lesson_wordings.unknown[language]), language)
    form = draws.pick(("thing", "deed"))
    return _framed(draws, form, draws.pick(_unknown[form][language]), language)


def _framed(draws: Draws, form: str, wording: str, language: int) -> str:
    framed = drawn(draws, draws.pick(_frames[form][language]), language).replace(
        "{what}", drawn(draws, wording, language)
    )
    return framed[0].upper() + framed[1:] if draws.chance(0.7) else framed


def _has(form: str, kind: str, language: int) -> bool:
    return kind in _parts[form] and bool(_parts[form][kind][language])


def said(draws: Draws, form: str, name: str, language: int, whole: Wordings) -> str:
    """What somebody says in talk of this form (`talk`, `sequels`, `introductions`, `intents`); `whole` are ready."""
    if draws.chance(_whole_share) or not _has(form, name, language):
        return draws.pick(whole[language])
    return drawn(draws, draws.pick(_parts[form][name][language]), language)
