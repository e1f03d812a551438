"""`/receipt` in `blyan chat`: the last answer's receipt from the node, verified here, and saved with what opens it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from blyan.cli.chat_client import Answer, ChatClient
from blyan.cli.output import Output
from blyan.cli.receipt import private_bytes, private_suffix, report_text
from blyan.inference.receipt import Choice, output_bytes
from blyan.inference.receipt_check import Known, check_receipt
from blyan.primitives.errors import Fault, IntegrityFault, InvalidInput
from blyan.storage import durable

_mode: Final = 0o600
_attempts: Final = 20
_pause_seconds: Final = 1.5


async def save_receipt(client: ChatClient, answer: Answer | None, path: Path | None, output: Output) -> None:
    """Save the receipt as FILE and, for its owner alone, FILE.private; say each check of it.

    `InvalidInput` where the last answer has none, or rather than replace a file; `IntegrityFault` where a check fails:
    what came is saved all the same, because it is the proof.
    """
    cost = None if answer is None else answer.cost
    if answer is None or cost is None or cost.receipt is None or cost.salt is None:
        raise InvalidInput("/receipt: expected an answer that came to its end and was charged, found none before this")
    path = Path(f"receipt-{cost.receipt}.json") if path is None else path
    private = path.with_name(path.name + private_suffix)
    for each in (path, private):
        if each.exists():
            raise InvalidInput(f"{each}: expected no file, found one")
    raw = await _fetched(client, cost.receipt, output)
    said = output_bytes([Choice(answer.text, answer.thought)])
    durable.write_file(path, raw, _mode)
    durable.write_file(private, private_bytes(cost.salt, answer.request, said), _mode)
    report = check_receipt(raw, Known(request=answer.request, output=said, salt=cost.salt))
    for line in report_text(report).split("\n"):
        output.note(line)
    if report.file is not None and report.file.signed.receipt.id != cost.receipt:
        raise IntegrityFault(f"receipt: expected {cost.receipt}, found {report.file.signed.receipt.id}")
    if report.failed:
        raise IntegrityFault(f"receipt {cost.receipt}: expected every check to hold, found what is said above")
    output.note(f"saved as {path}; `blyan receipt verify {path} --private {private}` checks it again, anywhere")


async def _fetched(client: ChatClient, identity: str, output: Output) -> bytes:
    """The file once the books are sealed, which takes some seconds."""
    for attempt in range(_attempts):
        try:
            return await client.receipt(identity)
        except Fault as reason:
            if reason.code != "not_yet" or attempt == _attempts - 1:
                raise
            if attempt == 0:
                output.note("waiting until the books are sealed…")
            await asyncio.sleep(_pause_seconds)
    raise AssertionError("the last attempt returns or raises")
