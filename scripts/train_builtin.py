#!/usr/bin/env python3
"""Trains the built-in model, writes it as a Hugging Face directory, and makes the blocks that the package ships.

Progress on stderr, measurements as JSON on stdout. About 25 minutes on two cores. Seed, steps, threads and versions
decide the result. A directory that is complete already is not trained again, only cut into blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from blyan.learning.hf_directory import write_hf_directory
from blyan.learning.pretrain import Plan, pretrain
from blyan.model.hf_import import read_checkpoint
from blyan.node.builtin import name
from blyan.node.importing import write_bundle
from blyan.primitives.clock import system_monotonic

root = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face directory to write")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of about 4,000 tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="each takes a share of every batch; part of the result")
    parser.add_argument("--resume", type=Path, help="checkpoint to keep, and to go on from when it exists")
    parser.add_argument("--blocks", type=Path, default=root / "backend/blyan/builtin", help="folder for the blocks")
    arguments = parser.parse_args()
    if not (arguments.out / "tokenizer_config.json").exists():  # written last
        train(arguments)
    manifest = write_bundle(
        read_checkpoint(arguments.out), name, "Apache-2.0", "blyan:scripts/train_builtin.py", arguments.blocks
    )
    print(f"{len(manifest.blocks)} blocks in {arguments.blocks}", file=sys.stderr)


def train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # the workers are the threads
    result = pretrain(
        Plan(seed=arguments.seed, steps=arguments.steps, workers=arguments.threads),
        system_monotonic,
        lambda line: print(line, file=sys.stderr, flush=True),
        arguments.resume,
    )
    write_hf_directory(arguments.out, result.config, result.tokenizer, result.parameters)
    measured = {
        "parameters": result.config.parameters,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds),
        "held_out_exact_match": result.exact_match,
        "small_talk_exact_match": result.small_talk,
    }
    print(json.dumps(measured, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
