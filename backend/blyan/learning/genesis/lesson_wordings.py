"""How lessons ask and what people say in them: `lessons.toml` and `talk.toml`, and the exam's familiar wordings."""

from __future__ import annotations

from typing import Any, Final

from blyan.learning.genesis.exam_wordings import familiar
from blyan.learning.genesis.tables import Wordings, pair, pairs, read_table

_asked: Final = pairs(read_table("lessons.toml")["ask"])
_talk: Final = read_table("talk.toml")

# The exam's familiar wordings come three times as often as each other one: they are how most people ask.
asked: Final[dict[str, Wordings]] = {
    kind: (
        english + 3 * familiar.get(kind, ((), ()))[0],
        korean + 3 * familiar.get(kind, ((), ()))[1],
    )
    for kind, (english, korean) in _asked.items()
}
talk: Final = pairs(_talk["talk"])
intents: Final = pairs(_talk["intents"])
unknown: Final = pair(_talk["unknown"])
unknown_things: Final = pair(_talk["unknown_things"])
unknown_names: Final = pair(_talk["unknown_names"])
sequels: Final = pairs(_talk["sequels"])
introductions: Final = pairs(_talk["introductions"])
names: Final = pair(_talk["names"])
system_prompts: Final = pair(_talk["system"])
_courtesies: Final[dict[str, Any]] = _talk["courtesies"]
courtesies_before: Final = tuple(_courtesies["en_before"]), tuple(_courtesies["ko_before"])
courtesies_after: Final = tuple(_courtesies["en_after"]), tuple(_courtesies["ko_after"])
