"""Metrics that all HTTP edges share, and those of several replicas in one answer.

Labels take values from code only (route templates, methods, statuses, part names), never from a request, so that they are few.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
_STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class RequestMetrics:
    """What every HTTP edge counts, on one registry, which is passed in so that tests and replicas never share state.

    Args:
        registry: A new one when None.
        prefix: Of all names; two edges of one hub take different ones.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, prefix: str = "aihub") -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self.requests = Counter(
            f"{prefix}_http_requests",
            "Finished requests; 499 means the client left.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            f"{prefix}_http_request_seconds",
            "From the first byte of the request to the last of the answer.",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(f"{prefix}_http_requests_in_flight", "Requests being answered now.", registry=self.registry)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one finished request. `route` is a template (`/v1/models/{model_id}`), never a path."""
        self.requests.labels(method, route, status).inc()
        self.latency.labels(method, route).observe(seconds)


class Metrics(RequestMetrics):
    """All metrics of the hub's ingress."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.first_token = Histogram(
            "aihub_first_token_seconds",
            "From the request to the first streamed content.",
            ["route"],
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "aihub_tokens",
            "Tokens as reported in `usage`; kind is prompt or completion.",
            ["route", "kind"],
            registry=self.registry,
        )
        self.retrieval_stage = Histogram(
            "aihub_retrieval_stage_seconds",
            "Time of one retrieval stage.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.ingested_files = Counter(
            "aihub_ingested_files", "Files that left the ingest queue, by outcome.", ["status"], registry=self.registry
        )
        self.ingested_chunks = Counter("aihub_ingested_chunks", "Chunks stored by ingest.", registry=self.registry)
        self.cache_lookups = Counter(
            "aihub_cache_lookups",
            "Cache lookups; result is hit, miss or unavailable.",
            ["cache", "result"],
            registry=self.registry,
        )

    def observe_usage(self, route: str, usage: Mapping[str, Any]) -> None:
        """Count the tokens of an OpenAI `usage` object."""
        for kind in ("prompt", "completion"):
            self.tokens.labels(route, kind).inc(usage.get(f"{kind}_tokens") or 0)


FORGET_AFTER_S = 30.0
"""A replica that was not heard of for so long has ended."""
LABEL = "replica"


class ReplicaBoard:
    """The newest metrics of each replica, in Prometheus' text format.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[float, bytes]] = {}

    def exchange(self, replica: str, text: bytes) -> dict[str, bytes]:
        """Take a replica's metrics and return those of all that live, by replica."""
        now_s = self._clock()
        self._heard[replica] = (now_s, text)
        self._heard = {name: heard for name, heard in self._heard.items() if now_s - heard[0] < FORGET_AFTER_S}
        return {name: text for name, (_, text) in self._heard.items()}


def merge_metrics(texts: Mapping[str, bytes]) -> bytes:
    """Return the metrics of all replicas, each sample with the label `replica`, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    merged: bytes = generate_latest(registry)
    return merged


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in sorted(self._texts.items()):
            for found in text_string_to_metric_families(text.decode()):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, sample.labels | {LABEL: replica}, sample.value)
        yield from families.values()
