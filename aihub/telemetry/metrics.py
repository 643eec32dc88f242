"""Every metric of the hub, declared once, with label sets that cannot grow without bound.

Labels take values from code only (route templates, methods, statuses, part names), never from a request.
"""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
