"""Logging, metrics, and the rule for what degrades: counted every time, logged once.

Metric names follow OpenTelemetry's GenAI conventions where they exist.
Source: OpenTelemetry semantic conventions for generative AI metrics.
"""

from __future__ import annotations

import logging
import sys
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
log = logging.getLogger("turnwise")
_M = TypeVar("_M", Counter, Histogram)


def set_up_logging(level: str = "INFO") -> None:
    """Send log lines to stderr: time, level, logger, message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its steps are of interest only where one fails.
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _Labelled(Generic[_M]):
    """A metric by its labels; the children are remembered, since looking them up costs more.

    `labels` values come from the configuration, so there are few.
    """

    def __init__(self, metric: _M) -> None:
        self._metric: _M = metric
        self._children: dict[tuple[str, ...], _M] = {}

    def labels(self, *values: str) -> _M:
        """Return the child with these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Metrics:
    """Every metric of the gateway, in a registry of its own.

    Args:
        shared_folder: where several workers count together; None counts this process alone.
    """

    def __init__(self, shared_folder: str | None = None) -> None:
        self._shared_folder = shared_folder
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> _Labelled[Counter]:
            return _Labelled(Counter(name, text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str) -> _Labelled[Histogram]:
            return _Labelled(Histogram(name, text, labels, buckets=_SECONDS, registry=registry))

        model = "gen_ai_request_model"
        self.requests = counter(
            "turnwise_http_requests", "Requests by route and status.", "route", "status"
        )
        self.duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from request to last byte of a turn.",
            *(model, "tier"),
        )
        self.first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from request to first token.",
            *(model, "tier"),
        )
        self.tokens = counter(
            "gen_ai_client_token_usage", "Tokens by kind.", model, "gen_ai_token_type"
        )
        self.overhead = Histogram(
            "turnwise_overhead_seconds",
            "Time of a turn spent in the gateway before the upstream was called.",
            buckets=_OVERHEAD,
            registry=registry,
        )
        self.decisions = counter(
            "turnwise_decisions", "Routing decisions by tier and reason.", "tier", "reason"
        )
        self.degraded = counter(
            "turnwise_degraded", "Turns answered without a part that failed.", "part"
        )
        self.attempts = counter(
            "turnwise_attempts", "Upstream attempts by model and outcome.", "model", "status"
        )
        self.budget_alerts = counter(
            "turnwise_budget_alerts",
            "Steps of budgets that were reached, by what happens from then on.",
            "action",
        )
        self.retries = counter(
            "turnwise_upstream_retries",
            "Requests sent to an upstream once more, because it had not begun on the first.",
            "backend",
        )
        self.in_flight = Gauge(
            "turnwise_turns_in_flight",
            "Turns being answered now.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def retried(self, backend: str) -> None:
        """Count a request that goes to an upstream once more."""
        self.retries.labels(backend).inc()

    def exposition(self) -> bytes:
        """Return every metric in the OpenMetrics text format."""
        registry = self.registry
        if self._shared_folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._shared_folder)  # type: ignore[no-untyped-call]
        text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
        return text


class Degradations:
    """Counts each part that failed and logs one line per change of its state."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failing: set[str] = set()

    def failed(self, part: str, error: BaseException, request_id: str) -> None:
        """Note that a turn goes on without this part."""
        self._metrics.degraded.labels(part).inc()
        if part not in self._failing:
            self._failing.add(part)
            log.warning(
                "%s is failing, turns go on without it (first: %s): %s: %s",
                part,
                request_id,
                type(error).__name__,
                error,
            )

    def worked(self, part: str) -> None:
        """Note that the part did its work; cheap when nothing was wrong."""
        if self._failing and part in self._failing:
            self._failing.discard(part)
            log.warning("%s works again", part)
