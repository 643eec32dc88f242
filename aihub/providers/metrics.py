"""Metrics of the providers. Labels are provider names and error codes, both fixed in code."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)


class ProviderMetrics:
    """Latency, errors and retries of each provider, on one registry which is passed in."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "aihub_provider_requests",
            "Requests to a provider by outcome; retries are not counted apart. outcome is ok, error or cancelled.",
            ["provider", "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "aihub_provider_request_seconds",
            "From the request to the end of the answer, retries included.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "aihub_provider_first_chunk_seconds",
            "From the request to the first chunk of a stream, retries included.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "aihub_provider_errors", "Failed requests by the error's code.", ["provider", "code"], registry=registry
        )
        self.retries = Counter("aihub_provider_retries", "Further tries before the first byte.", ["provider"], registry=registry)
        self.breaker_open = Gauge(
            "aihub_provider_breaker_open", "1 while a provider is left alone after failures.", ["provider"], registry=registry
        )
