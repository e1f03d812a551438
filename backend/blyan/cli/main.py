"""Parses the command line, runs the command, turns faults into messages and exit codes.

`--data-dir` and `--json` are accepted before or after the verb. Exit codes are those of docs/cli.md.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from blyan.cli.output import Output
from blyan.cli.parser import parse
from blyan.node.config import data_dir_from_environment
from blyan.primitives import errors

_exit_codes: Final[tuple[tuple[type[errors.Fault], int], ...]] = (
    (errors.UsageMistake, 2),
    (errors.IntegrityFault, 7),
    (errors.NotFound, 3),
    (errors.InsufficientFunds, 5),
    (errors.Denied, 4),
    (errors.PeerFault, 6),
    (errors.Unavailable, 75),
)

_not_allowed: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def entry() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    try:
        options = parse(arguments)
    except errors.InvalidInput as fault:  # of an id or key
        return _failed(errors.UsageMistake(fault.message, hint=fault.hint), Output("--json" in arguments))
    logging.basicConfig(level=logging.WARNING, format="blyan: %(message)s", stream=sys.stderr)
    as_json = bool(getattr(options, "json", False))
    output = Output(as_json)
    try:
        options.data_dir = Path(getattr(options, "data_dir", None) or data_dir_from_environment())
        code = options.run(options, output)
        sys.stdout.flush()
        return code
    except errors.Fault as fault:
        return _failed(fault, output)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our stdout left, as `head` does; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as reason:
        kind = errors.Denied if reason.errno in _not_allowed else errors.Unavailable
        return _failed(kind(f"{reason.strerror or reason}: {reason.filename or ''}".rstrip(": ")), output)


def _failed(fault: errors.Fault, output: Output) -> int:
    output.fault(fault)
    return next((code for kind, code in _exit_codes if isinstance(fault, kind)), 1)
