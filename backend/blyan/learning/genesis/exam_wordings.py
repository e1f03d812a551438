"""How the exam asks: `exam.toml`, frozen before the first lesson was written."""

from __future__ import annotations

from typing import Final

from blyan.learning.genesis.dialogue import Both
from blyan.learning.genesis.tables import pair, pairs, read_table

_table: Final = read_table("exam.toml")
familiar: Final = pairs(_table["familiar"])  # taught too, with other numbers and words
fresh: Final = pairs(_table["fresh"])  # in no lesson
intents: Final = pairs(_table["intents"])  # what a command is wanted for; Korean fits before a question
unknown: Final = pair(_table["unknown"])  # what nobody could know here
unknown_things: Final = pair(_table["unknown_things"])
unknown_names: Final = pair(_table["unknown_names"])
talk: Final = pairs(_table["talk"])  # by intent
sequels: Final = pairs(_table["sequels"])  # questions that need the answer before them
introductions: Final = pairs(_table["introductions"])
names: Final = pair(_table["names"])

# One answer for each intent of small talk. That there are four layers of eight experts is true of the shipped
# configuration; a test holds the two together.
talk_answers: Final[dict[str, Both]] = {
    intent: (said["en"], said["ko"]) for intent, said in _table["answers"].items() if intent != "unknown"
}
refusal: Final[Both] = (_table["answers"]["unknown"]["en"], _table["answers"]["unknown"]["ko"])
