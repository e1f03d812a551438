"""Models that write what they think between `<think>` and `</think>` before they answer.

Whether one does, its template says; `enable_thinking` is the variable by which templates (Qwen3's first) let it be
turned off. Some templates begin the thought themselves, so that an answer starts inside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Thinking: TypeAlias = Literal["none", "may", "begun"]  # whether an answer has a thought, or starts within one

begin: Final = "<think>"
end: Final = "</think>"
marks: Final = (begin, end)


def can_think(template: str | None) -> bool:
    """Whether this model's answers may begin with a thought."""
    return template is not None and begin in template


def can_be_told(template: str | None) -> bool:
    """Whether thinking can be turned on and off."""
    return can_think(template) and re.search(r"\benable_thinking\b", template or "") is not None


def thinking_of(template: str | None, prompt: str) -> Thinking:
    """What an answer to this prompt may begin with."""
    if not can_think(template):
        return "none"
    last = prompt.rfind(begin)
    return "begun" if last >= 0 and not prompt[last + len(begin) :].strip() else "may"


class ThoughtReader:
    """Takes an answer's text as it comes and tells the thought from what is said."""

    def __init__(self, thinking: Thinking) -> None:
        self._inside = thinking == "begun"
        self._done = thinking == "none"
        self._held = ""
        self._fresh = thinking != "none"  # line ends at the beginning of thought or answer are neither's

    def feed(self, text: str) -> tuple[str, str]:
        """Thought and said text that are certain now."""
        self._held += text
        thought = ""
        if not self._inside and not self._done:
            lead = self._held.lstrip()
            if lead.startswith(begin):
                self._held, self._inside, self._fresh = lead[len(begin) :], True, True
            elif begin.startswith(lead):
                return "", ""
            else:
                self._done, self._fresh = True, False
        if self._inside:
            at = self._held.find(end)
            keep = _begun(self._held, end)
            thought = self._held[:at] if at >= 0 else self._held[: len(self._held) - keep]
            self._held = self._held[at + len(end) :] if at >= 0 else self._held[len(self._held) - keep :]
            thought = self._trimmed(thought)
            if at < 0:
                return thought, ""
            self._inside, self._done, self._fresh = False, True, True
        said, self._held = self._trimmed(self._held), ""
        return thought, said

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end."""
        rest, self._held = self._held, ""
        return (rest, "") if self._inside else ("", rest)

    def _trimmed(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        return text


def _begun(text: str, mark: str) -> int:
    """Length of the longest proper beginning of the mark that the text ends with."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def thought_rules(thinking: Thinking, markers: Mapping[str, str]) -> tuple[str, list[str]]:
    """For a grammar: what goes before an answer, and the rules for it. `markers` as `tools.call_grammar` has them."""
    if thinking == "none":
        return "", []
    rules = ["gap: /[ \\n]{0,4}/"]
    if markers[end] == end:
        rules += [f"thought: thought_end gap\nthought_end[lazy]: /(.|\\n)*/ {json.dumps(end)}"]
    else:
        rules += [f"thought: THOUGHT {markers[end]} gap\nTHOUGHT: /(.|\\n)*/"]
    opening = json.dumps(begin) if markers[begin] == begin else markers[begin]
    rules += [f"whole_thought: /[ \\n]{{0,2}}/ {opening} thought"]
    return ("thought " if thinking == "begun" else "whole_thought? "), rules
