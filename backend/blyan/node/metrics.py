"""What a node counts, for Prometheus. Names and meanings: docs/metrics.md, which a test holds equal to this module.

Labels come from lists of ours (route templates, outcomes, chains) and keys of members of the swarm: nothing that a
stranger sends becomes a label value.
What has a state elsewhere (queue, store, models, chains) is read when somebody asks, not counted along.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from blyan import __version__
from blyan.inference.prediction import plans
from blyan.inference.scheduler import Scheduler
from blyan.node.network_metrics import delegation_families, network_families
from blyan.node.tally import Tally
from blyan.primitives.amount import USD

if TYPE_CHECKING:
    from blyan.node.books import NodeBooks
    from blyan.node.charges import Charges
    from blyan.node.node import Node
    from blyan.node.planning import Planning

disable_created_metrics()  # else a `_created` series beside each counter and histogram, which nobody asks for
_request_buckets: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_first_token_buckets: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_step_buckets: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_wait_buckets: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_batch_buckets: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_tokens_buckets: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_delay_buckets: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_between_buckets: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The counters of one node. Methods may be called from any thread."""

    def __init__(self, node: Node) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self.requests = Counter(
            "blyan_http_requests_total", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "blyan_http_request_seconds",
            "From the headers of a request to the end of its answer.",
            ("method", "route"),
            buckets=_request_buckets,
            registry=registry,
        )
        self.in_flight = Gauge("blyan_http_requests_in_flight", "Requests under way.", registry=registry)
        self.tokens = Counter("blyan_tokens_total", "Tokens read and written.", ("kind",), registry=registry)
        self.generations = Counter(
            "blyan_generations_total", "Generations by their end.", ("outcome",), registry=registry
        )
        self.first_token_seconds = Histogram(
            "blyan_time_to_first_token_seconds",
            "From the submission of a generation to its first token, the wait included.",
            buckets=_first_token_buckets,
            registry=registry,
        )
        self.between_tokens_seconds = Tally(
            "blyan_inter_token_seconds", "Between two tokens of one generation.", _between_buckets
        )
        registry.register(self.between_tokens_seconds)
        self.step_seconds = Histogram(
            "blyan_step_seconds", "Computing one step of a model.", buckets=_step_buckets, registry=registry
        )
        self.step_generations = Histogram(
            "blyan_step_generations", "Generations in one step.", buckets=_batch_buckets, registry=registry
        )
        self.step_tokens = Histogram(
            "blyan_step_tokens", "Positions computed in one step.", buckets=_tokens_buckets, registry=registry
        )
        self.queue_seconds = Histogram(
            "blyan_queue_seconds",
            "From the submission of a generation until it holds memory.",
            buckets=_wait_buckets,
            registry=registry,
        )
        self.loop_delay_seconds = Histogram(
            "blyan_event_loop_delay_seconds",
            "How late the event loop came to what was due, while requests were under way.",
            buckets=_delay_buckets,
            registry=registry,
        )
        build = Gauge("blyan_build_info", "1, with the version as a label.", ("version",), registry=registry)
        build.labels(__version__).set(1)
        registry.register(_State(node))
        ProcessCollector(registry=registry)
        self._prompt, self._completion = self.tokens.labels("prompt"), self.tokens.labels("completion")

    def text(self, accept: str) -> tuple[bytes, str]:
        """Everything as text, and its media type: OpenMetrics for who accepts it, else Prometheus' own format."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def stepped(self, seconds: float, sequences: int, tokens: int) -> None:
        """Count one step."""
        self.step_seconds.observe(seconds)
        self.step_generations.observe(sequences)
        self.step_tokens.observe(tokens)

    def waited(self, seconds: float) -> None:
        """Count one admission."""
        self.queue_seconds.observe(seconds)

    def generated(self, outcome: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Count one generation that ended."""
        self.generations.labels(outcome).inc()
        self._prompt.inc(prompt_tokens)
        self._completion.inc(completion_tokens)


class _State(Collector):
    """What is read from the node when metrics are asked for."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """The present state."""
        node = self._node
        yield from _of_scheduler(node.scheduler)
        store = node.ground.store
        yield CounterMetricFamily(
            "blyan_bytes_verified_total", "Bytes of blocks hashed and found whole.", value=store.bytes_verified
        )
        yield GaugeMetricFamily("blyan_blocks_corrupt", "Blocks found corrupt.", value=store.corrupt_count)
        yield from _expert_memory(node)
        yield from _of_books(node.books)
        yield from _of_charges(node.charges)
        yield from network_families(node.peering)
        yield from delegation_families(node.answering)
        yield from _of_planning(node.planning)
        refused = len(node.refused())
        models = GaugeMetricFamily("blyan_models", "Models of the chain.", labels=("state",))
        models.add_metric(("ready",), len(node.models) - refused)
        models.add_metric(("refused",), refused)
        yield models
        chains = GaugeMetricFamily("blyan_chain_entries", "Entries below the checkpoint.", labels=("chain",))
        for name, log in node.ground.chains.logs.items():
            chains.add_metric((name,), log.checkpoint.size)
        yield chains


def _of_scheduler(scheduler: Scheduler) -> Iterator[Metric]:
    running, waiting = scheduler.depth()
    yield GaugeMetricFamily("blyan_generations_running", "Generations that hold memory.", value=running)
    yield GaugeMetricFamily("blyan_generations_waiting", "Generations in the queue.", value=waiting)
    usage, counters = scheduler.engines.usage(), scheduler.counters
    pages = GaugeMetricFamily("blyan_kv_pages", "Pages of keys and values.", labels=("state",))
    for state, count in (("used", usage.used), ("kept", usage.kept), ("blank", usage.blank)):
        pages.add_metric((state,), count)
    yield pages
    yield CounterMetricFamily(
        "blyan_kv_positions_reused_total", "Positions that need not be computed.", value=usage.reused_positions
    )
    yield GaugeMetricFamily(
        "blyan_models_jitted",
        "Models that the jitted step computes.",
        value=sum(engine.jitted for engine in scheduler.engines),
    )
    yield CounterMetricFamily(
        "blyan_preemptions_total", "Generations that gave their memory back.", value=counters.preemptions
    )
    yield CounterMetricFamily(
        "blyan_recomputed_total", "Generations computed again after a stage was lost.", value=counters.recomputed
    )
    drafts = CounterMetricFamily("blyan_draft_tokens_total", "Tokens guessed ahead.", labels=("outcome",))
    drafts.add_metric(("accepted",), counters.accepted)
    drafts.add_metric(("refused",), counters.drafted - counters.accepted)
    yield drafts


def _of_planning(planning: Planning) -> Iterator[Metric]:
    """Plans that were chosen, and how far off predictions were; no error before an answer told of one."""
    chosen = CounterMetricFamily("blyan_plans_total", "Generations by their plan.", labels=("plan",))
    for plan in plans:
        chosen.add_metric((plan,), planning.chosen[plan])
    yield chosen
    found = planning.errors.errors()
    error = GaugeMetricFamily("blyan_planner_error", "Median error of predictions, a share.", labels=("of",))
    for of, value in (("tokens_per_s", found.tokens_per_s), ("first_token_s", found.first_token_s)):
        if value is not None:
            error.add_metric((of,), value)
    yield error


def _of_books(books: NodeBooks | None) -> Iterator[Metric]:
    """What the last look at the books found; nothing where there are none."""
    if books is None:
        return
    yield GaugeMetricFamily("blyan_ledger_up", "Whether the books answer.", value=books.gone is None)
    sizes = books.sizes
    records = GaugeMetricFamily("blyan_ledger_records", "Records of the books.", labels=("state",))
    for state, count in (("written", sizes.records), ("sealed", sizes.sealed), ("promised", sizes.promised)):
        records.add_metric((state,), count)
    yield records
    yield GaugeMetricFamily("blyan_ledger_requests_waiting", "Requests that wait for a commit.", value=books.waiting)
    yield GaugeMetricFamily(
        "blyan_ledger_held_usd", "Promised to the income by holds.", value=sizes.held / 10**USD.scale
    )
    refusals = CounterMetricFamily("blyan_ledger_refusals_total", "Requests not taken.", labels=("code",))
    for code, count in sorted(books.refused.items()):
        refusals.add_metric((code,), count)
    yield refusals


def _of_charges(charges: Charges | None) -> Iterator[Metric]:
    """Answers that were charged for; nothing on a node without accounts."""
    if charges is None:
        return
    ended = CounterMetricFamily("blyan_charges_total", "Charges by their end.", labels=("outcome",))
    for outcome in ("settled", "voided", "lost"):
        ended.add_metric((outcome,), charges.ended[outcome])
    yield ended
    yield GaugeMetricFamily(
        "blyan_charges_unsettled", "Answers delivered and not settled yet.", value=charges.unsettled
    )


def _expert_memory(node: Node) -> Iterator[Metric]:
    """What a budget of expert memory is used for; nothing where there is none."""
    if node.expert_memory is None:
        return
    usage = node.expert_memory.usage()
    held = GaugeMetricFamily("blyan_expert_memory_bytes", "Bytes of experts in a tier.", labels=("tier",))
    held.add_metric(("hot",), usage.hot_bytes)
    held.add_metric(("warm",), usage.warm_bytes)
    yield held
    yield GaugeMetricFamily("blyan_expert_memory_budget_bytes", "What hot experts may take.", value=usage.budget)
    calls = CounterMetricFamily("blyan_expert_calls_total", "Expert calls.", labels=("tier",))
    left = CounterMetricFamily("blyan_expert_evictions_total", "Experts that left a tier.", labels=("tier",))
    for tier, count in usage.calls.items():
        calls.add_metric((tier,), count)
        if tier != "cold":
            left.add_metric((tier,), usage.left[tier])
    yield calls
    yield left
    expected = GaugeMetricFamily("blyan_expert_expected_rows", "Expected a second of experts here.", labels=("tier",))
    for tier, rows in usage.expected.items():
        expected.add_metric((tier,), rows)
    yield expected
    yield CounterMetricFamily("blyan_expert_read_bytes_total", "Bytes of experts read.", value=usage.bytes_read)
    yield CounterMetricFamily(
        "blyan_expert_wait_seconds_total", "In which calls waited for bytes.", value=usage.wait_seconds
    )
