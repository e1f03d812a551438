"""What begins with a slash in `blyan chat`: each command changes the conversation or says something about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from blyan.cli.conversation import Conversation, load, setting_names
from blyan.cli.output import Output, table
from blyan.primitives.errors import InvalidInput, NotFound
from blyan.primitives.nearest import did_you_mean

# what the loop does next: read on, ask the last question again, save the last answer's receipt, or end
Next: TypeAlias = Literal["read", "ask", "receipt", "end"]

commands: Final[Mapping[str, str]] = {
    "/help": "this list",
    "/model [NAME]": "the models of this node, or another one for what follows",
    "/system [TEXT]": "what the model is told first, or a new one; `/system -` is none",
    "/set [NAME [VALUE]]": "the settings, a new value, or without VALUE the model's own; `/set verbose on`",
    "/save FILE": "write the conversation as JSON, for you alone",
    "/load FILE": "go on with a saved one",
    "/clear": "forget what was said; model, system and settings stay",
    "/retry": "drop the last answer and ask again",
    "/receipt [FILE]": "save and verify the receipt of the last answer, and in FILE.private what opens it",
    "/bye": "end, as Ctrl-D does",
}
_names: Final = tuple(each.split()[0] for each in commands)
_typing: Final = (
    "A line that ends with \\ goes on in the next; lines between three double quotes are one question.\n"
    "Where lines are edited: Alt-Enter begins a new line, Up and Ctrl-R find what was typed before, Tab completes.\n"
    "Ctrl-C stops an answer, which stays as far as it came."
)


class Commands:
    """The commands of one chat."""

    def __init__(self, conversation: Conversation, models: list[str], output: Output, *, verbose: bool) -> None:
        self.conversation = conversation
        self.models = models
        self.verbose = verbose
        self.receipt_file: Path | None = None  # what `/receipt` named last, None for a name of ours
        self._output = output

    def words(self) -> Mapping[str, Any]:
        """What Tab completes."""
        return {
            **dict.fromkeys(_names),
            "/model": dict.fromkeys(self.models),
            "/set": {**dict.fromkeys(setting_names), "verbose": {"on": None, "off": None}},
        }

    def run(self, line: str) -> Next:
        """Run one; `InvalidInput` if there is none of that name, or its words do not fit."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name:
            case "/help" | "/?":
                self._say(table([list(each) for each in commands.items()]) + "\n" + _typing)
            case "/model":
                self._model(rest)
            case "/system":
                self._system(rest)
            case "/set":
                self._set(rest)
            case "/save":
                self.conversation.save(_path(name, rest))
                self._say(f"saved {len(self.conversation.messages)} messages in {rest}")
            case "/load":
                self._load(_path(name, rest))
            case "/clear":
                self.conversation.messages.clear()
                self._say("forgotten")
            case "/retry":
                return self._retry()
            case "/receipt":
                self.receipt_file = _path(name, rest) if rest else None
                return "receipt"
            case "/bye" | "/exit" | "/quit":
                return "end"
            case _:
                raise InvalidInput(
                    f"{name[:80]}: expected a command of /help{did_you_mean(name, _names)}",
                    hint='a question that begins with a slash goes between three double quotes: """/…"""',
                )
        return "read"

    def _say(self, text: str) -> None:
        for line in text.split("\n"):
            self._output.note(line)

    def _model(self, name: str) -> None:
        if name and name not in self.models:
            known = ", ".join(self.models)
            raise NotFound(f"model {name[:128]!r}: expected one of {known}{did_you_mean(name, self.models)}")
        self.conversation.model = name or self.conversation.model
        for each in self.models:
            self._say(f"{'*' if each == self.conversation.model else ' '} {each}")

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = "" if text == "-" else text
        self._say(self.conversation.system or "no system message")

    def _set(self, rest: str) -> None:
        name, _, text = rest.partition(" ")
        if name == "verbose":
            if text not in ("on", "off", ""):
                raise InvalidInput(f"verbose: expected on or off, found {text[:80]!r}")
            self.verbose = text == "on"
        elif text:
            self.conversation.set_text(name, text.strip())
        elif name in setting_names:
            self.conversation.settings.pop(name, None)
        elif name:
            self.conversation.set_text(name, "")
        held = self.conversation.settings
        rows = [[each, json.dumps(held[each]) if each in held else "the model's own"] for each in setting_names]
        self._say(table([*rows, ["verbose", "on" if self.verbose else "off"]]))

    def _load(self, path: Path) -> None:
        loaded = load(path)
        if loaded.model not in self.models:
            self._say(f"{loaded.model[:128]} is not on this node: {self.conversation.model} goes on")
            loaded.model = self.conversation.model
        for name in ("model", "system", "settings", "messages"):
            setattr(self.conversation, name, getattr(loaded, name))
        self._say(f"{len(loaded.messages)} messages, model {loaded.model}")

    def _retry(self) -> Next:
        held = self.conversation.messages
        while held and held[-1]["role"] == "assistant":
            held.pop()
        if not held:
            raise InvalidInput("/retry: expected a question before it, found none")
        return "ask"


def _path(name: str, text: str) -> Path:
    if not text:
        raise InvalidInput(f"{name}: expected a FILE, found none")
    return Path(text).expanduser()
