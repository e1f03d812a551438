"""What each plan should give for a request, from what was measured. Pure.

A prediction rests on measurements alone: steps of this node (`step_times`), calls, round trips and steps of others by
this node's clock. What was not measured is named, and there are no numbers then; where a smaller thing stands in for
one that was not measured (a round trip for a call), that is named too. Corrections come from answers that ended
(`planner_error`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from blyan.inference.call_times import Calls, CallTimes, Spread, alone
from blyan.inference.partition import Stage, StagePlan
from blyan.inference.step_times import Curve
from blyan.inference.trying import Doubt
from blyan.model.stepping import PlanName
from blyan.primitives.ids import PublicKey

plans: Final[tuple[PlanName, ...]] = ("local", "dynamic", "static_delegate", "pipeline")
_key_digits: Final = 12
_token_least_s: Final = 1e-6
_beside_cost: Final = 0.25  # of a step, for each other generation at a node that leads
_unmeasured: Final = Curve()


@dataclass(frozen=True, slots=True)
class Shape:
    """One request, and how it is computed."""

    prompt: int  # tokens
    answer: int  # tokens
    beside: int = 0  # generations that run here already
    chunk: int = 512  # tokens of a prompt that go through a step
    chunk_beside: int = 128  # the same where others write
    reused: int = 0  # of the prompt, that stand here already
    reused_staged: int = 0  # on stages


@dataclass(frozen=True, slots=True)
class Delegate:
    """A node that could generate alone."""

    node: PublicKey
    curve: Curve  # of its steps, measured by this node
    round_trip_s: float | None
    lacking: int = 0  # experts of the predicted set
    beside: int = 0  # generations that it leads already
    calls: Calls = alone  # for what it lacks, as seen from there


@dataclass(frozen=True, slots=True)
class Situation:
    """One model at one moment, as this node sees it."""

    experts_per_token: int
    missing: int  # experts that are not here
    nobody: int  # of these, that no node can be asked for
    local: Curve
    dynamic: Curve
    callees: tuple[CallTimes, ...] = ()
    spreads: tuple[Spread, ...] = ()  # by whom the layers are computed where others are asked
    delegate: Delegate | None = None  # the best one
    trunk: bool = True  # whether all but routed experts is here
    route: tuple[Stage, ...] = ()  # of a pipeline, as it would be opened now
    stages: StagePlan | None = None  # what that should take for this shape, by trial calls of each stage
    piped: Curve = _unmeasured
    why_not: tuple[tuple[PlanName, str], ...] = ()  # plans that cannot be at all, beside what stands above
    offered: frozenset[PlanName] = frozenset({"local", "dynamic"})  # what may answer, by configuration and model
    doubts: tuple[tuple[PlanName, Doubt], ...] = ()  # plans that may be quicker than they were measured to be
    missing_bytes: int = 0  # of the experts that are not here
    fits: bool = True  # whether there is memory for these
    here: float = 0.0  # share of the experts that answers use, of those that are here


@dataclass(frozen=True, slots=True)
class Correction:
    """By what measured answers differed from predictions of the same plan and model."""

    rate: float = 1.0
    first: float = 1.0
    answers: int = 0
    late_s: float = 0.0  # beside steps, until the first token


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one plan should give. Without numbers where it is not possible, or something was not measured."""

    plan: PlanName
    possible: bool
    why: str
    tokens_per_s: float | None = None  # after the first token
    first_token_s: float | None = None
    not_measured: tuple[str, ...] = ()  # what is missing for numbers
    assumed: tuple[str, ...] = ()  # what numbers rest on beside measurements
    nodes: tuple[PublicKey, ...] = ()  # others that take part

    def seconds(self, answer: int) -> float | None:
        """For a whole answer."""
        if self.tokens_per_s is None or self.first_token_s is None:
            return None
        return self.first_token_s + max(0, answer - 1) / self.tokens_per_s


def predict(
    situation: Situation, shape: Shape, corrections: Sequence[tuple[PlanName, Correction]] = ()
) -> tuple[Prediction, ...]:
    """One prediction for each plan, in the order of `plans`."""
    raw = (
        _local(situation, shape),
        _dynamic(situation, shape),
        _delegated(situation, shape),
        _pipelined(situation, shape),
    )
    known = dict(corrections)
    return tuple(_corrected(each, known.get(each.plan)) for each in raw)


def if_held(
    situation: Situation, shape: Shape, corrections: Sequence[tuple[PlanName, Correction]] = ()
) -> Prediction | None:
    """What this node alone would give with the experts that it lacks; None where nothing tells of it, or no room is.

    By its steps with all of them, from when it had all. Else at least so much: it computes a known share of the experts
    itself, in no less than that share of the time that all of them would take.
    """
    if not situation.trunk or not situation.missing or not situation.fits:
        return None
    whole = _corrected(_local(replace(situation, missing=0), shape), dict(corrections).get("local"))
    if whole.tokens_per_s is not None:
        return whole
    found = _own(situation.dynamic, shape)
    if isinstance(found, str) or situation.here <= 0:
        return None
    token_s, first_s = max(found.token_s / situation.here, _token_least_s), found.first_s / situation.here
    assumed = ("experts that are not here take as long as those that are: the rate is at least this",)
    return Prediction(
        "local", True, whole.why, 1 / max(token_s, _token_least_s), first_s, (), (*assumed, *_assumed(found))
    )


def _corrected(raw: Prediction, by: Correction | None) -> Prediction:
    if by is None or raw.tokens_per_s is None or raw.first_token_s is None or not by.answers:
        return raw
    first = raw.first_token_s * by.first + by.late_s
    return replace(raw, tokens_per_s=raw.tokens_per_s * by.rate, first_token_s=first)


@dataclass(slots=True)
class _Sum:
    """Seconds of a request's steps, and what they rest on."""

    first_s: float = 0.0
    token_s: float = 0.0
    beyond: int = 0  # the most tokens of a step that was not measured


def _steps(shape: Shape) -> list[tuple[int, int, int, float]]:
    """Times, generations, tokens and positions of steps: those that read the prompt, and the last of them."""
    chunk = max(1, shape.chunk_beside if shape.beside else shape.chunk)
    stands = min(shape.reused, shape.prompt - 1)
    whole, rest = divmod(shape.prompt - stands, chunk)
    size, generations = chunk + shape.beside, shape.beside + 1
    steps = [(whole, generations, size, stands + (whole - 1) * chunk / 2)] if whole else []
    return steps + ([(1, generations, rest + shape.beside, float(stands + whole * chunk))] if rest else [])


def _written(shape: Shape) -> tuple[int, int, float]:
    """Generations, tokens and positions of a step that writes, in the middle of the answer."""
    return shape.beside + 1, shape.beside + 1, shape.prompt + shape.answer / 2


def _by_curve(curve: Curve, shape: Shape) -> _Sum | str:
    """Seconds by steps that were measured as a whole, or which were not."""
    found = _Sum()
    for times, generations, tokens, positions in _steps(shape):
        read = curve.step(generations, tokens, positions)
        if read is None:
            return _steps_of(generations, tokens)
        found.first_s += times * read.seconds
        found.beyond = max(found.beyond, tokens if read.beyond else 0)
    generations, tokens, positions = _written(shape)
    written = curve.step(generations, tokens, positions)
    if written is None:
        return _steps_of(generations, tokens)
    found.token_s = written.seconds
    return found


def _steps_of(generations: int, tokens: int) -> str:
    beside = f" of {generations} generations" if generations > 1 else ""
    return f"steps of {tokens} {'token' if tokens == 1 else 'tokens'}{beside}"


def _assumed(found: _Sum, whose: str = "") -> tuple[str, ...]:
    return (f"steps{whose} of {found.beyond} tokens take as long a token as smaller ones",) if found.beyond else ()


def _local(situation: Situation, shape: Shape) -> Prediction:
    if not situation.trunk:
        return Prediction("local", False, "not all layers are here")
    if situation.missing:
        return Prediction("local", False, f"{situation.missing} experts are not here")
    found = _by_curve(situation.local, shape)
    if isinstance(found, str):
        return Prediction("local", True, "every expert is here", not_measured=(found,))
    return Prediction(
        "local",
        True,
        "every expert is here",
        1 / max(found.token_s, _token_least_s),
        found.first_s,
        (),
        _assumed(found),
    )


def _dynamic(situation: Situation, shape: Shape) -> Prediction:
    """This node's own share of a step, and for each layer the slowest of the nodes that it probably asks."""
    if not situation.trunk:
        return Prediction("dynamic", False, "not all layers are here")
    if situation.nobody:
        return Prediction("dynamic", False, f"{situation.nobody} experts are neither here nor at a node that answers")
    nodes = tuple(each.node for each in situation.callees)
    if not nodes:
        return Prediction("dynamic", False, "no other node that answers holds an expert")
    why = f"{situation.missing or 'all'} experts from {len(nodes)} other {'node' if len(nodes) == 1 else 'nodes'}"
    if not situation.missing and "local" in situation.offered and "dynamic" not in situation.offered:
        why = f"{why}, but not asked: they are here too, and a round trip for each layer gains least of all plans"
    unknown = [f"round trip to {_name(each.node)}" for each in situation.callees if each.seconds(1) is None]
    calls = Calls(situation.experts_per_token, situation.callees, situation.spreads)
    curve, assumed = situation.dynamic, list[str]()
    if not curve.points and not situation.missing:
        curve = situation.local
        assumed.append("the experts' share of a step here is as nothing: the rate is at most this")
        why = f"at best, {why}"
    found = _own(curve, shape)
    if isinstance(found, str):
        unknown.append(f"{found} with other nodes")
    if unknown or isinstance(found, str):
        return Prediction("dynamic", True, why, not_measured=tuple(unknown), nodes=nodes)
    for each in situation.callees:
        taken = each.seconds(1)
        if taken is not None and not taken[1]:
            assumed.append(f"calls of {_name(each.node)} take a round trip")
    if not situation.dynamic.points:
        found.token_s = 0.0  # what this node would still compute itself was not measured: none of it is counted
        found.first_s = 0.0
    _wait(found, calls, situation.dynamic, shape)
    rate = 1 / max(found.token_s, _token_least_s)
    return Prediction("dynamic", True, why, rate, found.first_s, (), (*assumed, *_assumed(found)), nodes)


def _own(curve: Curve, shape: Shape) -> _Sum | str:
    """Seconds in which this node computes, or which steps were not measured."""
    found = _Sum()
    for times, generations, tokens, positions in (*_steps(shape), (0, *_written(shape))):
        read = curve.step(generations, tokens, positions)
        if read is None:
            return _steps_of(generations, tokens)
        found.first_s += times * read.own_s
        found.beyond = max(found.beyond, tokens if read.beyond else 0)
        found.token_s = read.own_s  # the last is the one that writes
    return found


def _wait(found: _Sum, calls: Calls, curve: Curve, shape: Shape) -> None:
    """Add what steps wait for other nodes."""
    for times, generations, tokens, positions in _steps(shape):
        found.first_s += times * calls.waited(curve, generations, tokens, positions)
    found.token_s += calls.waited(curve, *_written(shape))


def _delegated(situation: Situation, shape: Shape) -> Prediction:
    """A node that generates alone: its steps as they came here, and one round trip before the first token.

    For experts that it lacks it asks others, token by token. It may fetch them meanwhile; it does not wait for that.
    """
    plan: PlanName = "static_delegate"
    said = dict(situation.why_not).get(plan)
    if situation.delegate is None or said is not None:
        return Prediction(plan, False, said or "no other node can generate alone")
    delegate = situation.delegate
    name, nodes = _name(delegate.node), (delegate.node,)
    callees = delegate.calls.callees
    why = f"{name} generates" + (f", {delegate.lacking} experts called" if delegate.lacking else " alone")
    found, assumed = _led(delegate, shape)
    unknown = [f"{found} by {name}"] if isinstance(found, str) else []
    if delegate.round_trip_s is None:
        unknown.append(f"round trip to {name}")
    unknown += [f"round trip to {_name(each.node)}" for each in callees if each.seconds(1) is None]
    if unknown or isinstance(found, str) or delegate.round_trip_s is None:
        return Prediction(plan, True, why, not_measured=tuple(unknown), nodes=nodes)
    first = found.first_s + delegate.round_trip_s
    assumed = (*assumed, *_assumed(found, f" by {name}"))
    if callees:
        assumed = (*assumed, f"calls of {name} take what they take from here, or its round trip if that is longer")
    return Prediction(plan, True, why, 1 / max(found.token_s, _token_least_s), first, (), assumed, nodes)


def _led(delegate: Delegate, shape: Shape) -> tuple[_Sum | str, tuple[str, ...]]:
    """Seconds of a node's steps: how it cuts a prompt is its own, so that a prompt counts as one step."""
    curve, assumed = delegate.curve, tuple[str, ...]()
    whole = replace(shape, chunk=shape.prompt, chunk_beside=shape.prompt, reused=0, beside=delegate.beside)
    found = _own(curve, whole)
    if isinstance(found, str) and delegate.beside:
        whole = replace(whole, beside=0)
        found = _own(curve, whole)
        assumed = (f"each of {delegate.beside} generations beside takes a quarter of a step",)
    if isinstance(found, str):
        return found, ()
    slower = 1 + _beside_cost * delegate.beside if assumed else 1.0
    found = _Sum(found.first_s * slower, found.token_s * slower, found.beyond)
    _wait(found, delegate.calls, curve, whole)
    return found, assumed


def _pipelined(situation: Situation, shape: Shape) -> Prediction:
    """Steps through stages as they were measured; before that what trial calls of each stage add up to."""
    plan: PlanName = "pipeline"
    said, stages = dict(situation.why_not).get(plan), situation.stages
    route = situation.route if stages is None else stages.stages
    if not route or said is not None:
        return Prediction(plan, False, said or "no route of stages holds every layer")
    why = "layers " + ", ".join(f"{each.begin} to {each.end - 1} on {_name(each.node)}" for each in route)
    nodes = tuple(dict.fromkeys(each.node for each in route))
    found = _by_curve(situation.piped, replace(shape, reused=shape.reused_staged))
    if not isinstance(found, str):
        return Prediction(plan, True, why, 1 / found.token_s, found.first_s, (), _assumed(found), nodes)
    if stages is None:
        return Prediction(plan, True, why, not_measured=(f"{found} through stages",), nodes=nodes)
    assumed = ("answers take what trial calls of each stage add up to",)
    return Prediction(plan, True, why, 1 / stages.token_s, stages.prompt_s, (), assumed, nodes)


def _name(node: PublicKey) -> str:
    return node[:_key_digits]
