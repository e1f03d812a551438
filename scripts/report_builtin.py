#!/usr/bin/env python3
"""Examines a finished training and writes the page about it: as computed here, and served by nodes whole, int8, int4.

Writes `docs/benchmarks/genesis.md` and its curve, and beside the blocks `marks.json`, which `blyan model show` prints.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
from blyan.storage.tile import index_of

root = Path(__file__).resolve().parent.parent


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=trained, help="of the training")
    parser.add_argument("--settings", type=Path, default=root / "scripts/genesis.toml")
    parser.add_argument("--blocks", type=Path, default=root / "backend/blyan/builtin", help="of `ship_builtin.py`")
    parser.add_argument("--page", type=Path, default=root / "docs/benchmarks", help="folder of genesis.md")
    parser.add_argument("--each", type=count, default=50, help="questions for each skill and language")
    parser.add_argument("--schemes", default="whole,int8,int4", help="which are served and asked")
    arguments = parser.parse_args()
    settings = read_settings(arguments.settings)
    items = exam(read_documents(root / "docs"), arguments.each)
    taken, use = computed_here(arguments.folder, settings, items)
    transcripts: list[str] = []
    for scheme in arguments.schemes.split(","):
        say(f"served {scheme}")
        with served(arguments.folder / "hf", scheme, settings) as url:
            taken[f"over HTTP, {scheme}"] = mark(items, ask_node(url, "examined", items, say))
            if not transcripts:
                transcripts = [line for language in range(len(languages)) for line in transcript(url, language)]
    heading = heading_of(json.loads((arguments.folder / "made.json").read_text()))
    (arguments.page / "genesis.md").write_text(report.page(heading, taken, use, transcripts), encoding="utf-8")
    drawn = curve.svg_of(curve.read_curve(arguments.folder / "curve.jsonl"))
    (arguments.page / "genesis.svg").write_text(drawn, encoding="utf-8")
    shown = next(iter(taken.values())).as_json()
    manifest = index_of((arguments.blocks / "manifest.json").read_bytes()).payload_id
    (arguments.blocks / "marks.json").write_text(json.dumps({"manifest": manifest, **shown}) + "\n")


def heading_of(made: dict[str, Any]) -> list[str]:
    """Of which training, where and by which commit the page is."""
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, check=True, cwd=root, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {platform.system()}, commit {commit}"
    return [
        f"Written by `scripts/report_builtin.py`. {machine}. Made from `{made['made']}`:",
        f"{made['tokens']:,} tokens in {made['steps']:,} steps.",
        "",
        "Every question is held out from the lessons, by its subject or by its wording",
        "([why](../adr/0033-the-built-in-model-is-examined.md)); shares are of exact answers.",
    ]


def computed_here(folder: Path, settings: Settings, items: list[Item]) -> tuple[dict[str, Marks], dict[str, Tensor]]:
    """Marks of the plain greedy loop, and which experts worked on which skill."""
    encoder = DialogueEncoder(Tokenizer.from_file(str(folder / "hf/tokenizer.json")), apart)
    parameters, config = load_file(folder / "hf/model.safetensors"), settings.config(encoder.tokenizer.get_vocab_size())
    system: list[Message] = [{"role": "system", "content": settings.shipping.system}]
    asked = [[*system, *item.messages] for item in items]
    answers = greedy_answers(parameters, config, encoder, asked, settings.shipping.tokens_max)
    documents = read_documents(root / "docs")
    lessons = Lessons(documents, settings.mixture, fingerprints(items), settings.shipping.system)
    draws = Draws(4)
    use: dict[str, Tensor] = {}
    for skill in all_skills:
        dialogues = [[*system, *lessons.exchange(draws, skill, number % 2)] for number in range(60)]
        use[skill] = experts_chosen(parameters, config, encoder, dialogues)
    return {"computed here": mark(items, answers)}, use


@contextmanager
def served(checkpoint: Path, scheme: str, settings: Settings) -> Iterator[str]:
    """The address of a node of its own that serves this checkpoint, quantised or whole, as `examined`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "blyan", "--data-dir", f"{folder}/node"]
        quantized = [] if scheme == "whole" else ["--quantize", scheme]
        subprocess.run([*command, "init"], check=True, capture_output=True)
        plain = [*command, "model", "import", str(checkpoint), "--name", "plain", *quantized]
        subprocess.run(plain, check=True, capture_output=True)
        file = Path(folder) / "Modelfile"
        file.write_text(f"FROM plain\nSYSTEM {settings.shipping.system}\nPARAMETER temperature 0\n", encoding="utf-8")
        subprocess.run([*command, "model", "create", "examined", "-f", str(file)], check=True, capture_output=True)
        up = [*command, "up", "--listen", "127.0.0.1:0", "--no-browser"]
        node = subprocess.Popen(up, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            assert node.stderr is not None
            addresses = (re.search(r"chat at (http://127\.0\.0\.1:\d+)", line) for line in node.stderr)
            yield next(found[1] for found in addresses if found)
        finally:
            node.terminate()
            node.wait()


def transcript(url: str, language: int) -> Iterator[str]:
    """One conversation as lines of Markdown."""
    said: list[Message] = []
    for question in report.conversations[language]:
        said.append(user(question))
        said.append(assistant(answer_of_node(url, "examined", said)))
        yield f"- **{question}** {said[-1]['content']}"


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
