#!/usr/bin/env python3
"""Takes the built-in model's exam through the HTTP API of a running node; marks on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from urllib.error import URLError

from blyan.learning.genesis import blyan_words
from blyan.learning.genesis.arguments import count
from blyan.learning.genesis.asking import ask_node
from blyan.learning.genesis.documents import read_documents
from blyan.learning.genesis.exam import exam
from blyan.learning.genesis.marking import mark
from blyan.node.builtin import name

root = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", default="http://127.0.0.1:8645", help="whom to ask")
    parser.add_argument("--model", default=name)
    parser.add_argument("--each", type=count, default=50, help="questions for each skill and language")
    parser.add_argument("--answers", type=Path, help="file for every question with its answer, as lines of JSON")
    arguments = parser.parse_args()
    documents = read_documents(root / "docs")
    blyan_words.check(documents)
    items = exam(documents, arguments.each)
    try:
        answers = ask_node(arguments.node, arguments.model, items, lambda line: print(line, file=sys.stderr))
    except URLError as reason:
        parser.exit(1, f"{arguments.node}: expected a node that answers, found {reason.reason}\n")
    if arguments.answers is not None:
        lines = (
            {"skill": item.skill, "language": item.language, "messages": item.messages, "expected": item.expected,
             "answer": answer, "right": item.passed(answer)}
            for item, answer in zip(items, answers, strict=True)
        )  # fmt: skip
        arguments.answers.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    print(json.dumps(mark(items, answers).as_json(), indent=2))


if __name__ == "__main__":
    main()
