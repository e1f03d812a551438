"""The page about the built-in model: marks by skill and language, computed here and served, whole and quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from blyan.learning.genesis.marking import Marks
from blyan.learning.genesis.specialities import heat_map, information

# What the issue of this model asks of it: skills, least share.
_goals = (
    ("addition, subtraction, weekdays, counting, words", 0.95, (
        "addition, 2 digits", "addition, 3 digits", "subtraction, 2 digits", "subtraction, 3 digits", "weekdays",
        "counting", "reverse", "upper case", "first and last letter", "letters counted")),
    ("units, sorting, number words, Blyan", 0.90, ("length", "mass", "time", "data", "sorting",
        "number words", "Blyan")),
)  # fmt: skip


def page(
    heading: Sequence[str], taken: Mapping[str, Marks], use: Mapping[str, Tensor], transcripts: Sequence[str]
) -> str:
    """Markdown: who was examined, what came of it in each way that the exam was taken, and who worked on what."""
    lines = ["# The built-in model", "", *heading, "", "![loss and exact match over tokens](genesis.svg)", ""]
    first = next(iter(taken.values()))
    lines += ["| what | least | the weakest of it | " + " | ".join(taken) + " |", "|---" * (3 + len(taken)) + "|"]
    for what, least, skills in _goals:
        shares = " | ".join(f"{marks.of(skills):.1%}" for marks in taken.values())
        weakest = min((each for each in first.by_skill if each.skill in skills), key=lambda each: each.share)
        lines.append(f"| {what} | {least:.0%} | {weakest.skill} ({weakest.language}) {weakest.share:.0%} | {shares} |")
    lines.append("| refusals of what it cannot know | 90% | | " + _each(taken, "refusals"))
    lines.append("| false refusals | at most 5% | | " + _each(taken, "false_refusals"))
    lines.append("| the whole exam | | | " + _each(taken, "share"))
    lines += ["", "Exact match by skill and language:", ""]
    lines += ["| skill | language | asked | " + " | ".join(taken) + " |", "|---|---|---" + "|---" * len(taken) + "|"]
    for place, each in enumerate(first.by_skill):
        shares = " | ".join(f"{marks.by_skill[place].share:.0%}" for marks in taken.values())
        lines.append(f"| {each.skill} | {each.language} | {each.asked} | {shares} |")
    bits = ", ".join(f"layer {layer}: {each:.3f}" for layer, each in enumerate(information(use)))
    lines += ["", f"What the choice of an expert tells of the skill, in bits ({bits}). Percent of choices by expert:"]
    for layer in range(next(iter(use.values())).shape[0]):
        lines += ["", *heat_map(use, layer)]
    lines += ["", "Ten turns in each language, as the node answered them:", "", *transcripts, ""]
    return "\n".join(lines)


def shown(taken: Mapping[str, Marks], use: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `blyan model show` says of it: the first marks whole, of the others their share; bits by layer."""
    (_, first), *others = taken.items()
    bits = [round(each, 3) for each in information(use)]
    return {**first.as_json(), "others": {name: round(marks.share, 4) for name, marks in others}, "bits": bits}


def _each(taken: Mapping[str, Marks], name: str) -> str:
    return " | ".join(f"{getattr(marks, name):.1%}" for marks in taken.values()) + " |"


conversations = (
    (
        "Hello!", "What is 47 + 38?", "Plus 15?", "Sort 34, 7, 91, 15", "Reverse the word planet.",
        "How many meters are 7 kilometers?", "What day is 10 days after Friday?", "What does manifest mean?",
        "Which command lists the models?", "Who will win the next World Cup?",
    ),
    (
        "안녕하세요", "47 더하기 38은?", "15를 더하면?", "34, 7, 91, 15 정렬해 줘", "planet을 거꾸로 써 줘",
        "7 킬로미터는 몇 미터야?", "금요일에서 10일 뒤는 무슨 요일이야?", "manifest는 뭐야?",
        "모델 목록을 보려면 어떤 명령을 써야 해?", "다음 월드컵에서 누가 이겨?",
    ),
)  # fmt: skip
