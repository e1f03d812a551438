#!/usr/bin/env python3
"""Trains the built-in model and writes a Hugging Face directory. Progress on stderr, measurements as JSON on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from blyan.learning.hf_directory import write_hf_directory
from blyan.learning.pretrain import Plan, pretrain
from blyan.primitives.clock import system_monotonic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of about 4,000 tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="each takes a share of every batch; part of the result")
    parser.add_argument("--resume", type=Path, help="checkpoint to keep, and to go on from when it exists")
    arguments = parser.parse_args()
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
