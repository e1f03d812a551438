#!/usr/bin/env python3
"""Shows lessons of the built-in model as lines of JSON, or says the digest of that many of them."""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

from blyan.learning.genesis import blyan_words
from blyan.learning.genesis.documents import read_documents
from blyan.learning.genesis.exam import exam, fingerprints
from blyan.learning.genesis.lessons import Lessons, digest_of
from blyan.learning.genesis.settings import read_settings

root = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=root / "scripts/genesis.toml")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--digest", action="store_true")
    arguments = parser.parse_args()
    documents = read_documents(root / "docs")
    blyan_words.check(documents)
    settings = read_settings(arguments.settings)
    lessons = Lessons(documents, settings.mixture, fingerprints(exam(documents, 50)), settings.shipping.system)
    dialogues = islice(lessons.dialogues(arguments.seed), arguments.count)
    if arguments.digest:
        print(digest_of(dialogues))
        return
    for messages in dialogues:
        print(json.dumps(messages, ensure_ascii=False))


if __name__ == "__main__":
    main()
