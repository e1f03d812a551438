"""`blyan doctor`: is everything as it should be, and if not, what to do. It changes nothing."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from blyan.cli.output import Output, table
from blyan.node.doctor import examine
from blyan.primitives.clock import system_seconds

_integrity_failure = 7  # exit code, docs/cli.md


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register `doctor`."""
    doctor = verbs.add_parser("doctor", parents=[common, readable], help="what is wrong here, and how to mend it")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace, output: Output) -> int:
    found = list(examine(options.data_dir, system_seconds))
    failed = [each for each in found if each.status == "fail"]
    lines = table([[each.status, each.name, each.message] for each in found]).split("\n")
    told: list[str] = []
    for each, line in zip(found, lines, strict=True):
        told.append(line)
        if each.mend is not None:
            told.append(f"      mend: {each.mend}")
    value = {"healthy": not failed, "findings": [asdict(each) for each in found]}
    output.data(value, "\n".join(told))
    if any(each.integrity for each in failed):
        return _integrity_failure
    return 1 if failed else 0
