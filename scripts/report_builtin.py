#!/usr/bin/env python3
"""Examines a finished training and writes the page about it: as computed here, and served by nodes whole, int8, int4.

Writes `docs/benchmarks/genesis.md` and its curve, and beside the blocks that the package ships `marks.json`, which
`blyan model show` prints: the training has to be the one of which they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from blyan.learning.batches import DialogueEncoder
from blyan.learning.draws import Draws
from blyan.learning.genesis import curve, report
from blyan.learning.genesis.arguments import count, trained
from blyan.learning.genesis.asking import answer_of_node, ask_node
from blyan.learning.genesis.dialogue import Message, apart, assistant, languages, user
from blyan.learning.genesis.documents import read_documents
from blyan.learning.genesis.exam import Item, all_skills, exam, fingerprints
from blyan.learning.genesis.lessons import Lessons
from blyan.learning.genesis.marking import Marks, mark
from blyan.learning.genesis.settings import Settings, read_settings
from blyan.learning.greedy import experts_chosen, greedy_answers
from blyan.learning.pretrain import made_of
from blyan.model.config import ModelConfig
from blyan.node import builtin
from blyan.primitives.errors import InvalidInput
from blyan.storage.tile import index_of

root = Path(__file__).resolve().parent.parent


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=trained, help="of the training whose blocks the package ships")
    parser.add_argument("--second", type=trained, help="folder of a training with another seed, to compare")
    parser.add_argument("--settings", type=Path, default=root / "scripts/genesis.toml")
    parser.add_argument("--page", type=Path, default=root / "docs/benchmarks", help="folder of genesis.md")
    parser.add_argument("--each", type=count, default=50, help="questions for each skill and language")
    parser.add_argument("--schemes", default="whole,int8,int4", help="which are served and asked")
    arguments = parser.parse_args()
    made = json.loads((arguments.folder / "made.json").read_text())
    manifest = shipped(made)
    settings = read_settings(arguments.settings)
    items = exam(read_documents(root / "docs"), arguments.each)
    taken, use = computed_here(arguments.folder, settings, items)
    if arguments.second:
        say("a second seed")
        name = name_of(json.loads((arguments.second / "made.json").read_text()), settings, items)
        taken[name] = mark(items, answers_here(arguments.second, settings, items))
    transcripts: list[str] = []

    def write() -> None:
        """What there is so far: an hour's work is not lost with its last part."""
        heading = heading_of(made)
        (arguments.page / "genesis.md").write_text(report.page(heading, taken, use, transcripts), encoding="utf-8")
        drawn = curve.svg_of(curve.read_curve(arguments.folder / "curve.jsonl"))
        (arguments.page / "genesis.svg").write_text(drawn, encoding="utf-8")
        shown = {"manifest": manifest, **report.shown(taken, use)}
        (builtin.bundle_folder() / "marks.json").write_text(json.dumps(shown) + "\n")

    write()
    for scheme in arguments.schemes.split(","):
        say(f"served {scheme}")
        with served(arguments.folder / "hf", scheme, settings) as (url, model):
            taken[f"over HTTP, {scheme}"] = mark(items, ask_node(url, model, items, say))
            if not transcripts:
                transcripts += [each for language in range(len(languages)) for each in transcript(url, model, language)]
        write()


def shipped(made: dict[str, Any]) -> str:
    """The manifest of the blocks that the package ships; `InvalidInput` if they are of another training."""
    path = builtin.bundle_folder() / "manifest.json"
    source, expected = json.loads(path.read_bytes()).get("source"), builtin.source_of(made["made"])
    if source != expected:
        raise InvalidInput(f"{path}: expected blocks of this training ({expected}), found those of {source}")
    return index_of(path.read_bytes()).payload_id


def heading_of(made: dict[str, Any]) -> list[str]:
    """Of which training, where and by which commit the page is."""
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, check=True, cwd=root, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, commit {commit}"
    return [
        f"Written by `scripts/report_builtin.py`. {machine}. Made from `{made['made']}`:",
        f"{made['tokens']:,} tokens in {made['steps']:,} steps.",
        "",
        f"Seed {made['seed']}. Every question is held out from the lessons, by its subject or by its wording",
        "([why](../adr/0033-the-built-in-model-is-examined.md)); shares are of exact answers. Fresh wordings are not",
        "far from taught ones, and lessons were widened by what an earlier training got wrong in such an exam. Korean",
        "lessons do not ask what commands and errors mean.",
    ]


def computed_here(folder: Path, settings: Settings, items: list[Item]) -> tuple[dict[str, Marks], dict[str, Tensor]]:
    """Marks of the plain greedy loop, and which experts worked on which skill."""
    answers = answers_here(folder, settings, items)
    encoder, parameters, config = read(folder, settings)
    system = [system_message(settings)]
    lessons = lessons_of(settings, items)
    draws = Draws(4)
    use: dict[str, Tensor] = {}
    for skill in all_skills:
        dialogues = [[*system, *lessons.exchange(draws, skill, number % 2)] for number in range(60)]
        use[skill] = experts_chosen(parameters, config, encoder, dialogues)
    return {"computed here": mark(items, answers)}, use


def lessons_of(settings: Settings, items: list[Item]) -> Lessons:
    """The lessons of now."""
    return Lessons(read_documents(root / "docs"), settings.mixture, fingerprints(items), settings.shipping.system)


def name_of(made: dict[str, Any], settings: Settings, items: list[Item]) -> str:
    """What another training is called: its seed, and whether it had the lessons and settings of now."""
    told = replace(settings.training, seed=int(made["seed"]), steps=int(made["steps"]))
    same = made_of(replace(settings, training=told), lessons_of(settings, items)) == made["made"]
    return f"seed {made['seed']}{'' if same else ' with earlier lessons'}, computed here"


def read(folder: Path, settings: Settings) -> tuple[DialogueEncoder, dict[str, Tensor], ModelConfig]:
    """What a training made."""
    encoder = DialogueEncoder(Tokenizer.from_file(str(folder / "hf/tokenizer.json")), apart)
    config = settings.config(encoder.tokenizer.get_vocab_size())
    return encoder, load_file(folder / "hf/model.safetensors"), config


def system_message(settings: Settings) -> Message:
    """What is said first."""
    return {"role": "system", "content": settings.shipping.system}


def answers_here(folder: Path, settings: Settings, items: list[Item]) -> list[str]:
    """Of the plain greedy loop."""
    encoder, parameters, config = read(folder, settings)
    asked = [[system_message(settings), *item.messages] for item in items]
    return greedy_answers(parameters, config, encoder, asked, settings.shipping.tokens_max)


@contextmanager
def served(checkpoint: Path, scheme: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """A node of its own: its address, and the model that is asked.

    Whole it is the built-in model as the package ships it, with its own defaults; quantised it is the checkpoint.
    """
    with tempfile.TemporaryDirectory() as folder:
        command, model = [sys.executable, "-m", "blyan", "--data-dir", f"{folder}/node"], builtin.name
        run([*command, "init"])
        if scheme != "whole":
            model = "examined"
            run([*command, "model", "import", str(checkpoint), "--name", "plain", "--quantize", scheme])
            file = Path(folder) / "Modelfile"
            file.write_text(
                f"FROM plain\nSYSTEM {settings.shipping.system}\nPARAMETER temperature 0\n", encoding="utf-8"
            )
            run([*command, "model", "create", model, "-f", str(file)])
        said = Path(folder) / "said"  # a pipe that nobody reads would hold the node up
        with said.open("w+") as told:
            up = [*command, "up", "--listen", "127.0.0.1:0", "--no-browser"]
            node = subprocess.Popen(up, stderr=told, stdout=subprocess.DEVNULL, env=environment())
        try:
            yield address_of(node, said), model
        finally:
            node.terminate()
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def environment() -> dict[str, str]:
    """Of commands that are this repository's."""
    return os.environ | {"PYTHONPATH": str(root / "backend")}


def run(command: list[str]) -> None:
    """A command of the node; `InvalidInput` with what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise InvalidInput(f"{' '.join(command[3:])}: expected it to succeed, found: {done.stderr.strip()[-2000:]}")


def address_of(node: subprocess.Popen[bytes], said: Path) -> str:
    """Where a node listens, by what it says; `InvalidInput` if it ended or says nothing for a minute."""
    for _ in range(600):
        found = re.search(r"chat at (http://127\.0\.0\.1:\d+)", said.read_text())
        if found:
            return found[1]
        if node.poll() is not None:
            break
        time.sleep(0.1)
    raise InvalidInput(f"blyan up: expected its address, found: {said.read_text().strip()[-2000:]}")


def transcript(url: str, model: str, language: int) -> Iterator[str]:
    """One conversation as lines of Markdown."""
    said: list[Message] = []
    for question in report.conversations[language]:
        said.append(user(question))
        said.append(assistant(answer_of_node(url, model, said)))
        yield f"- **{question}** {said[-1]['content']}"


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
