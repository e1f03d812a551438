"""`blyan receipt show|verify FILE`: what an answer cost, and whether all of it holds. Needs no node and no network."""

from __future__ import annotations

import argparse
import datetime as dt
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from blyan.cli.output import Output, table
from blyan.inference.receipt import Receipt, output_bytes, salt_bytes
from blyan.inference.receipt_check import Known, Report, check_receipt, sentences
from blyan.inference.receipt_file import parse_file
from blyan.inference.receipt_output import choices_of
from blyan.primitives import limits
from blyan.primitives.amount import asset, shown
from blyan.primitives.errors import InvalidInput, NotFound, UsageMistake
from blyan.primitives.ids import public_key
from blyan.storage import durable
from blyan.wire.fields import as_dict

_integrity_failure: Final = 7  # exit code, docs/cli.md
_salt: Final = re.compile(r"[0-9a-f]{64}")
_marks: Final = {"ok": "ok", "failed": "FAILED", "not made": "-"}
_last_second: Final = 253_402_300_799  # of the year 9999
private_suffix: Final = ".private"


def add_commands(verbs: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the group."""
    group = verbs.add_parser("receipt", parents=[common, readable], help="receipts of answers: show, verify")
    commands = group.add_subparsers(metavar="VERB", required=True)
    looked = commands.add_parser("show", parents=[common, readable], help="what a receipt says, unchecked")
    looked.add_argument("file", metavar="FILE", type=Path)
    looked.set_defaults(run=_show)
    verified = commands.add_parser(
        "verify", parents=[common, readable], help="check everything a receipt says, without asking anybody"
    )
    verified.add_argument("file", metavar="FILE", type=Path)
    verified.add_argument("--request", metavar="FILE", type=Path, help="the body of the request, to the byte")
    verified.add_argument("--output", metavar="FILE", type=Path, help="the answer: its body, its stream, or its text")
    verified.add_argument("--salt", metavar="HEX", help="of the answer's last chunk; it opens the two digests")
    verified.add_argument("--private", metavar="FILE", type=Path, help="all three, as /receipt of a chat saves them")
    verified.add_argument("--checkpoint", metavar="FILE", type=Path, help="a joint checkpoint that you trust")
    verified.add_argument("--origin", metavar="KEY", type=public_key, help="the first key of the network you trust")
    verified.set_defaults(run=_verify)


def _show(options: argparse.Namespace, output: Output) -> int:
    raw = _read(options.file, limits.receipt_file_bytes_max, "a receipt")
    try:
        receipt = parse_file(raw).signed.receipt
    except InvalidInput as reason:
        hint = "FILE.private opens the digests of the receipt FILE" if options.file.suffix == ".private" else None
        raise InvalidInput(f"{options.file}: expected a receipt, found none: {reason.message}", hint=hint) from None
    output.data(receipt.value(), receipt_text(receipt))
    return 0


def _verify(options: argparse.Namespace, output: Output) -> int:
    raw = _read(options.file, limits.receipt_file_bytes_max, "a receipt")
    report = check_receipt(raw, _known(options))
    value: dict[str, Any] = {
        "verified": not report.failed,
        "id": report.file.signed.receipt.id if report.file else None,
        "checks": [{"name": each.name, "state": each.state, "why": each.why} for each in report.checks],
    }
    output.data(value, report_text(report))
    return _integrity_failure if report.failed else 0


def receipt_text(receipt: Receipt) -> str:
    """What a receipt says, for people."""
    unit = asset(receipt.price.asset)
    prompt, completion = (
        shown(each, unit.scale) for each in (receipt.price.prompt_per_million, receipt.price.completion_per_million)
    )
    record = "none: nothing was charged" if receipt.record is None else str(receipt.record)
    return table(
        [
            ["receipt", receipt.id],
            ["model", f"{receipt.model} {receipt.manifest}"],
            ["tokens", f"{receipt.prompt_tokens} in, {receipt.completion_tokens} out"],
            ["price", f"{prompt} {unit.code} a million in, {completion} {unit.code} a million out"],
            ["charged", f"{shown(receipt.charged, unit.scale)} {unit.code} from {receipt.account}"],
            ["record", record],
            ["plan", f"{receipt.plan} on {', '.join(each.key for each in receipt.nodes)}"],
            ["gateway", receipt.gateway],
            ["time", _time_text(receipt.time)],
        ]
    )


def _time_text(seconds: int) -> str:
    """As people write it, where there is a calendar for it."""
    if seconds > _last_second:
        return f"{seconds} s after 1970"
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def report_text(report: Report) -> str:
    """Every check on a line, and what they come to."""
    rows = [
        [_marks[each.state], each.name, f"{sentences[each.name]}{f': {each.why}' if each.why else ''}"]
        for each in report.checks
    ]
    return f"{table(rows)}\n{verdict(report)}"


def verdict(report: Report) -> str:
    """What the checks come to, in one line."""
    if report.failed:
        return f"FAILED: {', '.join(each.name for each in report.failed)}"
    held = sum(each.state == "ok" for each in report.checks)
    missing = ", ".join(each.name for each in report.not_made)
    return f"{held} checks hold" + (f"; not made: {missing}" if missing else "")


def private_bytes(salt: bytes, request: bytes, output: bytes) -> bytes:
    """What opens the digests of a receipt, as one file for its owner; `output` is `receipt.output_bytes`."""
    value = {"format": "blyan-receipt-private", "version": 1, "salt": salt.hex()}
    return orjson.dumps({**value, "request": request.decode(), "output": output.decode()})


def _known(options: argparse.Namespace) -> Known:
    if options.private is not None and (options.request or options.output or options.salt):
        raise UsageMistake("receipt verify: expected --private, or --request, --output and --salt, found both")
    request, answer, salt = options.request, options.output, options.salt
    if salt is None and (request or answer):
        raise UsageMistake("receipt verify: expected --salt beside --request or --output, found none")
    if salt is not None and not _salt.fullmatch(salt):
        raise UsageMistake(f"--salt: expected {2 * salt_bytes} lower-case hex digits, found {salt[:80]!r}")
    checkpoint = options.checkpoint
    known = Known(
        request=None if request is None else _read(request, limits.request_body_bytes_max, "a request"),
        output=None if answer is None else output_bytes(choices_of(_read_output(answer))),
        salt=None if salt is None else bytes.fromhex(salt),
        origin=options.origin,
        checkpoint=None if checkpoint is None else _read(checkpoint, limits.joint_bytes_max, "a joint checkpoint"),
    )
    return known if options.private is None else _with_private(known, options.private)


def _with_private(known: Known, path: Path) -> Known:
    try:
        given = as_dict(orjson.loads(_read_output(path))) or {}
    except orjson.JSONDecodeError:
        given = dict[str, Any]()
    request, answer, salt = (_private_text(path, given, name) for name in ("request", "output", "salt"))
    if not _salt.fullmatch(salt):
        raise InvalidInput(f"{path}: expected {2 * salt_bytes} lower-case hex digits as salt, found something else")
    return Known(request.encode(), answer.encode(), bytes.fromhex(salt), known.origin, known.checkpoint)


def _private_text(path: Path, given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"{path}: expected what /receipt of a chat saved beside a receipt, found no {name}")
    return value


def _read_output(path: Path) -> bytes:
    return _read(path, limits.receipt_output_bytes_max, "an answer")


def _read(path: Path, bytes_max: int, what: str) -> bytes:
    try:
        return durable.read_limited(path, bytes_max)
    except FileNotFoundError:
        raise NotFound(f"{path}: expected {what}, found no file") from None
    except (ValueError, IsADirectoryError) as reason:
        raise InvalidInput(f"{path}: expected {what} of at most {bytes_max} bytes, found {reason}") from None
