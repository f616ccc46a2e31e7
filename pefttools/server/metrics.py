"""Metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One registry per server, so that two in one process don't mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pefttools_requests_total", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "pefttools_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "pefttools_batch_rows", "Rows that ran together.", buckets=_ROWS, registry=self.registry
        )
        self.queued = Histogram(
            "pefttools_queue_seconds", "Time that a row waits for its batch.", buckets=_SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "pefttools_first_token_seconds", "Time from a row's arrival to its first token.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.errors = Counter("pefttools_errors_total", "Errors by code.", ["code"], registry=self.registry)
        self.tokens = Counter("pefttools_generated_tokens_total", "Generated tokens.", registry=self.registry)
        self.loads = Counter("pefttools_adapter_loads_total", "Adapters made resident.", registry=self.registry)

    def watch(
        self,
        waiting: Callable[[], int],
        resident: Callable[[], int],
        held: Callable[[], int],
        evicted: Callable[[], int],
    ) -> None:
        """Read these whenever the metrics are requested."""
        for name, text, read in (
            ("pefttools_waiting_rows", "Rows that are waiting.", waiting),
            ("pefttools_resident_adapters", "Adapters in memory.", resident),
            ("pefttools_adapter_bytes", "Bytes of adapter weights in memory.", held),
            ("pefttools_evicted_adapters", "Adapters evicted to make room, since the start.", evicted),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
