"""Marks of an exam: exact match by skill and language, refusals where they are right and where they are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blyan.learning.genesis.checking import refuses
from blyan.learning.genesis.exam import Item, all_skills


@dataclass(frozen=True, slots=True)
class Mark:
    """How one skill went in one language."""

    skill: str
    language: str
    asked: int
    right: int
    refused: int

    @property
    def share(self) -> float:
        """Of the questions asked, how many were answered exactly."""
        return self.right / self.asked


@dataclass(frozen=True, slots=True)
class Marks:
    """One exam taken."""

    by_skill: tuple[Mark, ...]

    @property
    def share(self) -> float:
        """Exact match over all questions."""
        return sum(mark.right for mark in self.by_skill) / max(1, sum(mark.asked for mark in self.by_skill))

    @property
    def refusals(self) -> float:
        """Share of what it cannot know that it declined."""
        return _share([mark for mark in self.by_skill if mark.skill == "unknown"])

    @property
    def false_refusals(self) -> float:
        """Share of everything else that it declined."""
        return _share([mark for mark in self.by_skill if mark.skill != "unknown"])

    def of(self, skills: Sequence[str]) -> float:
        """Exact match over these skills, in both languages."""
        chosen = [mark for mark in self.by_skill if mark.skill in skills]
        return sum(mark.right for mark in chosen) / max(1, sum(mark.asked for mark in chosen))

    def as_json(self) -> dict[str, Any]:
        """Counts, as the report's file keeps them."""
        return {
            "share": round(self.share, 4),
            "refusals": round(self.refusals, 4),
            "false_refusals": round(self.false_refusals, 4),
            "skills": [
                {"skill": m.skill, "language": m.language, "asked": m.asked, "right": m.right, "refused": m.refused}
                for m in self.by_skill
            ],
        }


def mark(items: Sequence[Item], answers: Sequence[str]) -> Marks:
    """Marks of these answers, in the exam's order of skills."""
    assert len(items) == len(answers)
    counts: dict[tuple[str, str], list[int]] = {}
    for item, answer in zip(items, answers, strict=True):
        count = counts.setdefault((item.skill, item.language), [0, 0, 0])
        count[0] += 1
        count[1] += item.passed(answer)
        count[2] += refuses(answer)
    order = {skill: place for place, skill in enumerate(all_skills)}
    keys = sorted(counts, key=lambda key: (order[key[0]], key[1]))
    return Marks(tuple(Mark(skill, language, *counts[skill, language]) for skill, language in keys))


def _share(marks: Sequence[Mark]) -> float:
    return sum(mark.refused for mark in marks) / max(1, sum(mark.asked for mark in marks))
