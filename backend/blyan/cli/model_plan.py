"""`blyan model plan`: what running a model needs, whether it fits here, and what each plan should give for a request.

Memory is counted from the data directory. What plans give is known to a node that runs, from what it measured.
"""

from __future__ import annotations

import argparse
from typing import Any, Final
from urllib.parse import urlencode

from blyan.cli.model_show import model_of
from blyan.cli.node_client import asked
from blyan.cli.node_swarm import node_url
from blyan.cli.output import Output, byte_size, table
from blyan.model.footprint import cache_bytes, footprint_of
from blyan.node.data_directory import lock_holder, open_ground
from blyan.node.holdings import Holdings, Hosted
from blyan.node.machine import memory
from blyan.primitives import limits
from blyan.primitives.errors import PeerFault, UsageMistake
from blyan.primitives.model_name import canonical_name
from blyan.wire.fields import as_dict, as_list

_asked: Final = ("request", "chosen", "said", "if_held", "advice", "predictions", "error")  # of what the node answers
_lengths: Final = (2_048, 8_192, 32_768)  # of context that are shown


def add_command(commands: Any, common: argparse.ArgumentParser, readable: argparse.ArgumentParser) -> None:
    """Register the verb."""
    planned = commands.add_parser(
        "plan", parents=[common, readable], help="what running a model needs, if it fits, and how fast each plan is"
    )
    planned.add_argument("name", metavar="NAME", nargs="?", type=canonical_name, help="default: the only model")
    for option, what in (("--prompt-tokens", "of the prompt"), ("--tokens", "of the answer")):
        planned.add_argument(option, metavar="N", type=int, default=128, help=f"{what}; default: 128")
    planned.add_argument("--node", metavar="URL", help="who says it; default: the node of the data directory")
    planned.set_defaults(run=plan)


def plan(options: argparse.Namespace, output: Output) -> int:
    """Run `model plan [NAME]`."""
    _want_counts(options)
    ground = open_ground(options.data_dir)
    version, manifest = model_of(ground, options.name)
    config, bytes_of = manifest.config, footprint_of(manifest)
    per_token = cache_bytes(config, manifest.dtype, 1)
    total, available = memory()
    room = max(0, available - bytes_of.weights) // per_token
    lengths = sorted({min(each, config.context_length) for each in (*_lengths, config.context_length)})
    hosted = Holdings(ground.store).look(version.manifest, manifest)
    here, fits = hosted.trunk and hosted.complete, room > 0
    expected = _expected(options, version.name)
    value = {
        "name": version.name,
        "version": version.version,
        "weights_bytes": bytes_of.weights,
        "active_bytes": bytes_of.active,
        "cache_bytes_per_token": per_token,
        "contexts": [{"tokens": each, "bytes": bytes_of.weights + per_token * each} for each in lengths],
        "memory_bytes": total,
        "available_bytes": available,
        "plan": "local" if fits and here else None,
        "trunk_here": hosted.trunk,
        "experts": hosted.grid.count,
        "experts_here": len(hosted.here),
        "tokens_that_fit": room,
        **expected,
    }
    rows = [["CONTEXT", "WEIGHTS", "KEYS AND VALUES", "IN ALL", "FITS HERE"]]
    for each in lengths:
        held = per_token * each
        answer = "yes" if bytes_of.weights + held <= available else "no"
        sizes = [byte_size(bytes_of.weights), byte_size(held), byte_size(bytes_of.weights + held)]
        rows.append([f"{each:,}", *sizes, answer])
    machine = f"this machine: {byte_size(available)} of {byte_size(total)} free"
    if not here:
        verdict = f"plan local: not possible, {_lacking(hosted)}; other nodes take part in every answer"
    elif fits:
        verdict = f"plan local: everything here, room for {room:,} tokens of conversation in all"
    else:
        verdict = f"plan local: {byte_size(bytes_of.weights - available)} short; the weights are read from disk again"
    read = f"each token reads {byte_size(bytes_of.active)} of weights"
    output.data(value, "\n".join([table(rows), "", machine, read, verdict, "", *_expected_lines(expected)]))
    return 0


def _lacking(hosted: Hosted) -> str:
    """What of a model is not here."""
    total, here = hosted.grid.count, len(hosted.here)
    missing = [f"{total - here:,} of {total:,} experts"] if here < total else []
    missing += [] if hosted.trunk else ["parts of other layers"]
    return f"{' and '.join(missing)} are not here"


def _want_counts(options: argparse.Namespace) -> None:
    for option, found in (("--prompt-tokens", options.prompt_tokens), ("--tokens", options.tokens)):
        if not 1 <= found <= limits.plan_tokens_max:
            raise UsageMistake(f"model plan: expected {option} from 1 to {limits.plan_tokens_max}, found {found}")


def _expected(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What the node says that plans should give; nothing where none runs here."""
    if options.node is None and not (lock_holder(options.data_dir) or {}).get("url"):
        return dict.fromkeys(_asked)
    query = urlencode({"model": name, "prompt_tokens": options.prompt_tokens, "tokens": options.tokens})
    said = asked(node_url(options), f"/network/plan?{query}")
    if any(key not in said for key in _asked):
        raise PeerFault("node: expected what each plan should give, found none", hint="it may be of an older version")
    return {key: said[key] for key in _asked}


def _expected_lines(expected: dict[str, Any]) -> list[str]:
    """One line a plan, the sentence why, and how far earlier ones were off."""
    request, error = as_dict(expected["request"]), as_dict(expected["error"])
    if request is None or error is None:
        return ["how fast each plan is, a node says that runs and has answered: blyan up"]
    rows = [["PLAN", "TOKENS/S", "FIRST TOKEN", "ANSWER", "WHY"]]
    rows += [_row(each) for each in map(as_dict, as_list(expected["predictions"]) or []) if each is not None]
    prompt, answer, beside = (int(request[key]) for key in ("prompt_tokens", "tokens", "beside"))
    busy = f", beside {beside} others" if beside else ""
    lines = [f"a prompt of {prompt:,} tokens and an answer of {answer:,}{busy}:", table(rows), str(expected["said"])]
    if error["answers"]:
        off = f"by {error['tokens_per_s']:.0%} in tokens/s and {error['first_token_s']:.0%} in the first token"
        lines.append(f"the last {error['answers']} answers differed {off} from what was predicted, in the median")
    return lines


def _row(each: dict[str, Any]) -> list[str]:
    rate, first, whole = each.get("tokens_per_s"), each.get("first_token_s"), each.get("seconds")
    lacking, assumed = as_list(each.get("not_measured")) or [], as_list(each.get("assumed")) or []
    notes = [str(each.get("why"))]
    notes += [f"not measured: {'; '.join(map(str, lacking))}"] if lacking else []
    notes += [f"assumed: {'; '.join(map(str, assumed))}"] if assumed else []
    if each.get("possible") is True and each.get("offered") is not True:
        notes.append("not used here: network.plan, or what is here, says otherwise")
    return [
        str(each.get("plan")),
        "-" if rate is None else f"{rate:.1f}",
        "-" if first is None else f"{first:.2f} s",
        "-" if whole is None else f"{whole:.1f} s",
        "; ".join(notes) if each.get("possible") is True else f"not possible: {notes[0]}",
    ]
