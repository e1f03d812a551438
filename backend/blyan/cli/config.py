"""`blyan config show|check`: what holds and where it comes from, and everything that is wrong with it at once."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blyan.cli.output import Output, table
from blyan.node.config import file_name
from blyan.node.config_survey import Setting, Survey, survey, survey_file


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("config", parents=[common, readable], help="the settings: what holds, and what is wrong")
    commands = group.add_subparsers(metavar="VERB", required=True)
    shown = commands.add_parser("show", parents=[common, readable], help="every setting with its value")
    shown.add_argument("--origin", action="store_true", help="and where the value comes from")
    shown.set_defaults(run=_show)
    checked = commands.add_parser("check", parents=[common, readable], help="all mistakes at once, with their lines")
    checked.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help=f"one file alone; default: {file_name} and the environment"
    )
    checked.set_defaults(run=_check)


def _show(options: argparse.Namespace, output: Output) -> int:
    found = survey(options.data_dir)
    rows = [["SETTING", "VALUE", *(["ORIGIN"] if options.origin else [])]]
    rows += [[each.key, _text(each), *([each.origin] if options.origin else [])] for each in found.settings]
    values = {each.key: {"value": each.value, "origin": each.origin} for each in found.settings}
    output.data(values, table(rows))
    _say(found, output)
    return 1 if found.mistakes else 0


def _check(options: argparse.Namespace, output: Output) -> int:
    found = survey(options.data_dir) if options.file is None else survey_file(options.file)
    _say(found, output)
    count = len(found.mistakes)
    verdict = "no mistakes" if not count else "1 mistake" if count == 1 else f"{count} mistakes"
    output.data({"mistakes": [asdict(each) for each in found.mistakes], "warnings": found.warnings}, verdict)
    return 1 if found.mistakes else 0


def _say(found: Survey, output: Output) -> None:
    for mistake in found.mistakes:
        output.note(f"{mistake.where}: {mistake.message}")
        if mistake.hint is not None:
            output.note(f"  try: {mistake.hint}")
    for sentence in found.warnings:
        output.note(f"warning: {sentence}")


def _text(setting: Setting) -> str:
    match setting.value:
        case bool(value):
            return "true" if value else "false"
        case tuple(values):
            return ", ".join(values) or "none"
        case value:
            return str(value) if value != "" else "none"
