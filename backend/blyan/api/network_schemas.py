"""What the routes of the network take and answer, as JSON Schema for `/openapi.json`."""

from __future__ import annotations

from typing import Final

from blyan.inference.moves import directions, whys
from blyan.inference.prediction import plans
from blyan.primitives import limits
from blyan.wire.schema import Schema, fields, flag, hex64, integer, listing, number, one_of, optional, table, text

_count: Final = integer(0)
_name: Final = optional(text(1))
_seconds: Final = optional(number(0))
_said: Final[dict[str, Schema]] = {
    "node": hex64,
    "boot": text(32, 32),
    "roles": listing(text(1)),
    "draining": flag,
    "queue": _count,
    "urls": listing(text(1), 0, 2 * limits.summary_urls_max),
    "holds": listing(
        fields(
            {"model": _name, "manifest": hex64, "trunk": flag, "experts": _count},
            required=("model", "manifest", "trunk", "experts"),
        ),
        0,
        limits.summary_models_max,
    ),
}
_left: Final[dict[str, Schema]] = dict.fromkeys(("calls", "answers", "stage_calls", "pipelines", "blobs"), _count)
_under_way: Final[dict[str, Schema]] = {"under_way": _count, "left": fields(_left, required=tuple(_left))}
_own: Final[dict[str, Schema]] = {
    **_said,
    **_under_way,
    "answered": fields(
        {"messages": _count, "rows": _count, "seconds": number(0), "refused": _count},
        required=("messages", "rows", "seconds", "refused"),
    ),
    "asked": fields(
        {"messages": _count, "hedges": _count, "failovers": _count, "rejected": _count},
        required=("messages", "hedges", "failovers", "rejected"),
    ),
    "turned_away": _count,
}
_peer: Final[dict[str, Schema]] = {
    **_said,
    "link": optional(fields({"seconds": number(0), "dialled": flag}, required=("seconds", "dialled"))),
    "why_not": text(),
    "rtt_seconds": _seconds,
    "rtt_p95_seconds": _seconds,
    "calls": _count,
    "rows": _count,
    "rows_waiting": _count,
    "seconds": number(0),
    "call_p95_seconds": _seconds,
    "rows_per_s": _seconds,
    "bytes_per_s": _seconds,
    "expert_bytes": optional(_count),
    "share": number(0, 1),
    "failures": table(_count, one_of("timeout", "lost", "refused", "corrupt", "not_held")),
    "reputation": optional(number(0, 1)),
    "breaker": one_of("closed", "open", "half-open", None),
    "reason": optional(fields({"code": text(1), "text": text(1)}, required=("code", "text"))),
}
_model: Final[dict[str, Schema]] = {
    "model": _name,
    "manifest": hex64,
    "trunk": flag,
    "here": _count,
    "experts": _count,
    "alone": _count,
    "nobody": _count,
    "missing": listing(listing(_count, 2, 2), 0, limits.missing_shown_max),
}
_unreached: Final[dict[str, Schema]] = {"url": text(1), "why": text(1)}
_redis: Final[dict[str, Schema]] = {"up": flag, "why_not": text(), "sent": _count, "read": _count, "refused": _count}
_nodes: Final[dict[str, Schema]] = {
    "swarm": optional(text(16, 16)),
    "self": optional(fields(_own, required=tuple(_own))),
    "known": _count,
    "linked": _count,
    "peers": listing(fields(_peer, required=tuple(_peer)), 0, limits.nodes_shown_max),
    "models": listing(fields(_model, required=tuple(_model))),
    "unreached": listing(fields(_unreached, required=tuple(_unreached)), 0, limits.peers_max),
    "redis": optional(fields(_redis, required=tuple(_redis))),
}
nodes: Final = fields(_nodes, required=tuple(_nodes))
_planned: Final[dict[str, Schema]] = {
    "layer": _count,
    "expert": _count,
    "by": one_of("here", "peer", "nobody"),
    "node": optional(_count),
    "then": listing(_count, 0, limits.expert_fallbacks_max),
}
_prediction: Final[dict[str, Schema]] = {
    "plan": one_of(*plans),
    "possible": flag,
    "offered": flag,
    "why": text(1),
    "tokens_per_s": _seconds,
    "first_token_s": _seconds,
    "seconds": _seconds,
    "not_measured": listing(text(1)),
    "assumed": listing(text(1)),
    "nodes": listing(hex64, 0, limits.nodes_shown_max),
    "corrected_by": _count,
}
_held: Final[dict[str, Schema]] = {
    "experts": integer(1),
    "bytes": _count,
    "tokens_per_s": _seconds,
    "first_token_s": _seconds,
    "seconds": _seconds,
    "times": _seconds,
    "assumed": listing(text(1)),
}
_error: Final[dict[str, Schema]] = {"answers": _count, "tokens_per_s": _seconds, "first_token_s": _seconds}
_errors: Final = fields(
    {**_error, "plans": table(fields(_error, required=tuple(_error)), one_of(*plans))}, required=(*_error, "plans")
)
_shape: Final[dict[str, Schema]] = {"prompt_tokens": integer(1), "tokens": integer(1), "beside": _count}
_plan: Final[dict[str, Schema]] = {
    "model": text(1),
    "manifest": hex64,
    "type": one_of("local", "dynamic"),
    "nodes": listing(hex64),
    "experts": listing(fields(_planned, required=tuple(_planned))),
    "request": fields(_shape, required=tuple(_shape)),
    "chosen": one_of(*plans, None),
    "said": text(1),
    "than": one_of(*plans, None),
    "times": _seconds,
    "if_held": optional(fields(_held, required=tuple(_held))),
    "advice": optional(fields({"en": text(1), "ko": text(1)}, required=("en", "ko"))),
    "predictions": listing(fields(_prediction, required=tuple(_prediction)), len(plans), len(plans)),
    "error": _errors,
}
plan_query: Final[dict[str, Schema]] = {
    "model": text(),
    "prompt_tokens": integer(1, limits.plan_tokens_max),
    "tokens": integer(1, limits.plan_tokens_max),
}
plan: Final = fields(_plan, required=tuple(_plan))
_move: Final[dict[str, Schema]] = {
    "at": _count,
    "move": one_of(*directions),
    "model": _name,
    "manifest": hex64,
    "number": _count,
    "layer": optional(_count),
    "expert": optional(_count),
    "why": one_of(*whys),
    "text": text(1),
    "others": _count,
    "rows_per_s": number(0),
}
_moved: Final[dict[str, Schema]] = {"move": one_of(*directions), "why": one_of(*whys), "experts": _count}
_moves: Final[dict[str, Schema]] = {
    "node": optional(hex64),
    "role": flag,
    "moves": listing(fields(_move, required=tuple(_move)), 0, limits.moves_kept_max),
    "since_start": listing(fields(_moved, required=tuple(_moved)), 0, len(directions) * len(whys)),
}
moves_query: Final[dict[str, Schema]] = {"model": text(), "latest": integer(1, limits.moves_kept_max)}
moves: Final = fields(_moves, required=tuple(_moves))
drain_request: Final = fields({"draining": flag}, required=("draining",))
drained: Final = fields({"draining": flag, **_under_way, "alone": _count}, required=("draining", *_under_way, "alone"))
