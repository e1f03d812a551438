#!/usr/bin/env python3
"""Trains the built-in model in a folder, goes on there when it was interrupted, and writes a Hugging Face directory.

Progress on stderr, measurements as JSON on stdout. Two hours on two cores by `scripts/genesis.toml`. Settings,
documents and code decide the result, how busy the machine is does not. `scripts/ship_builtin.py` makes its blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from blyan.learning.genesis import blyan_words
from blyan.learning.genesis.arguments import count
from blyan.learning.genesis.documents import read_documents
from blyan.learning.genesis.exam import exam, fingerprints
from blyan.learning.genesis.lessons import Lessons
from blyan.learning.genesis.settings import Settings, read_settings
from blyan.learning.hf_directory import write_hf_directory
from blyan.learning.pretrain import Training
from blyan.primitives.clock import system_monotonic

root = Path(__file__).resolve().parent.parent
questions = 50  # of the exam, for each skill and language: none of them is in a lesson
periodic_questions = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the training is kept, and `hf/` is written when it is done")
    parser.add_argument("--settings", type=Path, default=root / "scripts/genesis.toml")
    parser.add_argument("--seed", type=int, help="another one than the settings'")
    parser.add_argument("--steps", type=count, help="how many in all, for a trial: rates follow")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), help="another one than the settings', to compare")
    parser.add_argument("--measure", action="store_true", help="time 40 steps and say how many fit into two hours")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the workers are the threads
    settings = changed(read_settings(arguments.settings), arguments)
    documents = read_documents(root / "docs")
    blyan_words.check(documents)
    items = exam(documents, questions)
    lessons = Lessons(documents, settings.mixture, fingerprints(items), settings.shipping.system)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    training = Training(arguments.folder, settings, lessons, say)
    if arguments.measure:
        measure(training)
        return
    made = training.run(system_monotonic, exam(documents, periodic_questions))
    write_hf_directory(arguments.folder / "hf", made.config, made.tokenizer, made.parameters)
    said = {
        "made": made.made,
        "seed": settings.training.seed,
        "parameters": made.config.parameters,
        "steps": made.steps,
        "tokens": made.tokens,
        "pools": training.position.pool + 1,
    }
    (arguments.folder / "made.json").write_text(json.dumps(said) + "\n")
    print(json.dumps(said, indent=2))


def changed(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """The settings with what the command line says otherwise."""
    told = {name: getattr(arguments, name) for name in ("seed", "steps", "optimizer") if getattr(arguments, name)}
    return replace(settings, training=replace(settings.training, **told))


def measure(training: Training) -> None:
    """Say how fast it goes here, from the second twenty steps on: kernels are made in the first."""
    training.run(system_monotonic, [], steps=20)
    started, before = system_monotonic(), training.tokens
    training.run(system_monotonic, [], steps=20)
    seconds = system_monotonic() - started
    rate = (training.tokens - before) / seconds
    print(f"{rate:,.0f} tokens a second; {int(6900 * 20 / seconds):,} steps in 115 minutes")


if __name__ == "__main__":
    main()
