"""Network workloads: three sizes of request, three distances, every plan, every fault, beside one local node.

Back of the envelope, with a round trip of R between each two nodes. `dynamic` waits for one R in each of the four
layers of the tiny model: a token cannot come sooner than 4 R, 60 ms where R is 15, 400 ms where it is 100: the second
is beyond what users were promised, whatever the code does. `pipeline` through two stages waits for three halves of R:
22 and 150 ms. `static_delegate` waits for R once in an answer, and then tokens come as fast as one node makes them.
One node that holds the model waits for nobody: all it lacks is memory for a model that is larger than it. So where the
model fits one node, as here, no plan can beat it but by computing in two places at once what it computes in one: a
long prompt through two stages. A node that falls costs what it takes to notice, some hundred milliseconds, and with
`static_delegate` and `pipeline` the tokens so far once more.

What the table says. A request's size is tokens of prompt and answer together; of 10 to 50 half are the answer, at most
32, of the larger ones 32 are. Prompts are random token ids that no two lines share, so that no prefix is met again;
every second answer is drawn by a seed. Four nodes hold everything and do everything for others; the gateway has what
is of no layer. One of four that falls is 25 % of all. *Round trips* are messages that a gateway sent to have something
computed, those to several nodes at once counted each. *Between tokens* are waits of all answers of a line. × *local*
is the time of the one node alone for the same whole answers divided by that of this line: below 1, local is faster.
*Right* are answers with exactly the local one's tokens.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benched_node import completion
from fallback_scene import fallbacks
from harness import SMOKE, Page, milliseconds, percentile
from network_swarm import Contenders, Fate, Heard, ask, contenders, laid_out
from network_work import CALM, DISTANCES, FULL, WORKLOADS, Case, cases
from reference_models import Reference, reference

from blyan.learning.draws import Draws

MODEL = "smoke" if SMOKE else "tiny"
HEAD = (
    *("tokens", "links", "plan", "fault", "answers", "tok/s", "first token", "between tokens, p50", "p95"),
    *("round trips", "longest pause", "right", "× local"),
)
BOUND = (__doc__ or "").partition("\n\n")[2].strip()
_settled_s = 3.0  # for what nodes measure of each other to follow the links
_chosen_before = 16  # answers by which a gateway that chooses has seen what the ways give there


@dataclass
class Came:
    """What came of one case."""

    case: Case
    heard: list[Heard] = field(default_factory=list[Heard])
    alone: list[Heard] = field(default_factory=list[Heard])  # the same requests asked of the one node
    trips: list[float] = field(default_factory=list[float])
    stages: float = 0.0  # that a call of a pipeline went through, on average
    taken: set[str] = field(default_factory=set[str])  # plans, where it was free to choose

    @property
    def right(self) -> int:
        """Answers that are the local one's, token for token."""
        return sum(not one.error and one.tokens == own.tokens for one, own in zip(self.heard, self.alone, strict=True))

    @property
    def good(self) -> list[Heard]:
        """Those that can be measured: they ended."""
        return [one for one in self.heard if not one.error and len(one.moments) > 1]

    @property
    def waits(self) -> list[float]:
        """Between tokens."""
        return [wait for one in self.good for wait in one.waits]

    @property
    def pairs(self) -> list[tuple[Heard, Heard]]:
        """Those that can be measured, each with the local node's answer to the same request."""
        good = self.good
        return [(one, own) for one, own in zip(self.heard, self.alone, strict=True) if one in good]

    @property
    def ratio(self) -> float:
        """Of the local node's seconds to these; 0 where none can be measured."""
        pairs = self.pairs
        return sum(own.whole for _, own in pairs) / sum(one.whole for one, _ in pairs) if pairs else 0.0

    def row(self) -> tuple[str, ...]:
        """As the table has it."""
        case, good, waits = self.case, self.good, self.waits
        plan = f"{case.plan}: {', '.join(sorted(self.taken))}" if self.taken else case.plan
        ends = case.workload.name, case.distance.name, plan, case.fault, str(len(self.heard))
        if not good:
            return (*ends, *["-"] * (len(HEAD) - len(ends) - 2), "0", "-")
        return (
            *ends,
            f"{len(waits) / sum(waits):.1f}",
            milliseconds(percentile([one.first for one in good], 0.5)),
            milliseconds(percentile(waits, 0.5)),
            milliseconds(percentile(waits, 0.95)),
            f"{sum(self.trips) / len(self.trips):.0f}",
            milliseconds(max(one.pause for one in good)),
            str(self.right),
            f"{self.ratio:.2f}",
        )


def main() -> int:
    page = Page("network", "Network workloads", BOUND)
    model = reference(MODEL, ("fp32",))
    found: list[Came] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        laid_out(model, root)
        with page.part("workloads, those in the table aside"), contenders(model, root) as made:
            for distance in DISTANCES:
                middles = made.move(distance, DISTANCES.index(distance))
                links = ", ".join(f"{1000 * each:.0f}" for each in middles)
                page.row(f"round trip to each of the four nodes, {distance.name}", f"{links} ms")
                settle(made, model)
                for case in cases(distance):
                    came = answered(made, model, case)
                    found.append(came)
                    print(" | ".join(came.row()), flush=True)
            shares(page, made, found)
    with page.part("what users were promised"):
        floors(page, found)
        regrets(page, found)
    with tempfile.TemporaryDirectory() as folder, page.part("fallbacks"):
        fallbacks(page, model, Path(folder))
    page.table(HEAD, [came.row() for came in found])
    page.write()
    return sum(len(came.heard) - came.right for came in found)


def settle(made: Contenders, model: Reference) -> None:
    """Some answers that nobody counts: what was measured of other links is old. More where the gateway is to choose."""
    name = model.model("fp32")
    time.sleep(_settled_s)
    draws = Draws(1 << 21)
    for plan, gateway in made.gateways.items():
        for _ in range(_chosen_before if plan == "auto" else 2):
            ask(gateway.url, short(model, name, draws))


def short(model: Reference, name: str, draws: Draws) -> dict[str, object]:
    """A request of which nothing is kept."""
    return completion(name, model.prompt(12, draws.below(1 << 30)), 8)


def answered(made: Contenders, model: Reference, case: Case) -> Came:
    """The requests of one case, each asked of the one node and of the gateway."""
    came, gateway = Came(case), made.gateways[case.plan]
    calls, through = made.calls(case.plan)
    for number, body in enumerate(case.bodies(model, model.model("fp32"))):
        came.alone.append(ask(made.whole.url, body))
        assert not came.alone[-1].error, came.alone[-1].error
        fate = None if case.fault == CALM else Fate(made, case.fault, Draws(number))
        trips, plans = made.trips(case.plan), made.plans(case.plan)
        if fate is None:
            came.heard.append(ask(gateway.url, body))
        else:
            fate.begin()
            count = max(1, len(came.alone[-1].tokens) // 3)
            came.heard.append(ask(gateway.url, body, {count: fate.strike}))
        came.trips.append(made.trips(case.plan) - trips)
        if case.plan == "auto":
            came.taken |= {name for name, count in made.plans(case.plan).items() if count > plans[name]}
        if fate is not None:
            fate.undo()
            ask(gateway.url, short(model, model.model("fp32"), Draws(number)))
        if came.heard[-1].error:
            print(f"{case.plan}: {came.heard[-1].error}", file=sys.stderr)
    more, hops = made.calls(case.plan)
    came.stages = (hops - through) / (more - calls) if more > calls else 0.0
    return came


def of(found: Sequence[Came], **wanted: object) -> Iterator[Came]:
    """Cases by what they are of; `fault` none unless it is named."""
    wanted = {"fault": CALM, **wanted}
    for came in found:
        if all(getattr(came.case, name) == value for name, value in wanted.items() if value is not None):
            yield came


def shares(page: Page, made: Contenders, found: Sequence[Came]) -> None:
    """How many answers were delegated that should be."""
    counted = made.gateways["static_delegate"].metrics()
    began = sum(len(came.heard) for came in of(found, plan="static_delegate", fault=None))
    own = counted.get("blyan_delegated_own_total", 0.0)
    said = f"{1 - own / max(began, 1):.1%} of {began}, faults among them"
    page.row("answers with static_delegate that another node generated to the end", said, "≥ 95 %")


def floors(page: Page, found: Sequence[Came]) -> None:
    """What users were promised, beside what was measured."""
    for distance in DISTANCES:
        for plan in ("static_delegate", "pipeline", "dynamic", "auto"):
            waits = [wait for came in of(found, distance=distance, plan=plan) for wait in came.waits]
            if waits:
                said = f"p50 {milliseconds(percentile(waits, 0.5))}, p95 {milliseconds(percentile(waits, 0.95))}"
                page.row(f"between tokens, {plan}, {distance.name}", said, "p50 < 100 ms, p95 < 300 ms")
    dynamic, delegated = (trips(of(found, plan=plan)) for plan in ("dynamic", "static_delegate"))
    said = f"{1 - delegated / dynamic:.1%} fewer" if dynamic and delegated is not None else "no answer"
    page.row("round trips a token, static_delegate against dynamic", said, "70 % fewer; 95 % of issue 9")
    for distance in DISTANCES:
        for came in of(found, workload=WORKLOADS[-1], distance=distance, plan="pipeline"):
            through = f"{came.stages:.1f} stages a call, which the gateway chose"
            what = f"prompts of {WORKLOADS[-1].name} tokens by layers elsewhere ({through}) against one node"
            page.row(f"{what}, {distance.name}", sooner(came), "30 to 50 % faster end to end through two")
    calm, struck = (
        [came for came in found if (came.case.fault == CALM) == undisturbed] for undisturbed in (True, False)
    )
    for what, each, target in (
        ("answers that are not the local one's, nothing happening", calm, "< 0.1 %"),
        ("the same, one node of four failing or slow in each answer", struck, "none, of 10 to 30 % failing"),
    ):
        asked = sum(len(came.heard) for came in each)
        wrong = asked - sum(came.right for came in each)
        more = "" if wrong else f"; no more than {3 / max(asked, 1):.1%} with 95 % confidence"
        page.row(what, f"{wrong} of {asked}{more}", target + ("" if FULL else "; FULL=1 asks more"))


def regrets(page: Page, found: Sequence[Came]) -> None:
    """What the planner's choices cost against the plan that turned out best for the same workload and links."""
    for distance in DISTANCES:
        longer: list[float] = []
        worst = ""
        for workload in WORKLOADS:
            each = {came.case.plan: came for came in of(found, distance=distance, workload=workload) if came.ratio}
            auto, others = each.pop("auto", None), each
            if auto is None or not others:
                continue
            best = max(others.values(), key=lambda came: came.ratio)
            longer.append(max(1.0, best.ratio / auto.ratio))
            if longer[-1] == max(longer):
                chosen = ", ".join(sorted(auto.taken))
                worst = f"{workload.name} tokens: {chosen}, where {best.case.plan} was best"
        if longer:
            said = f"{percentile(longer, 0.5):.2f} in the middle, {max(longer):.2f} at worst ({worst})"
            page.row(f"time of answers by auto, of those by the best of the three plans, {distance.name}", said, "1")


def trips(found: Iterator[Came]) -> float | None:
    """Round trips a token, on average over cases; None where no token came."""
    counted = [(sum(came.trips), sum(len(one.tokens) for one in came.heard)) for came in found]
    each = [sent / tokens for sent, tokens in counted if tokens]
    return sum(each) / len(each) if each else None


def sooner(came: Came) -> str:
    """How much sooner than the local node's, the same requests compared."""
    if not came.pairs:
        return "no answer"
    first, alone = (sum(one.first for one in each) for each in zip(*came.pairs, strict=True))
    return f"first token {1 - first / alone:.0%} sooner, whole answer {1 - 1 / came.ratio:.0%}"


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
