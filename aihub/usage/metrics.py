"""What the recorder counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class UsageMetrics:
    """Counters of one recorder.

    Args:
        registry: Where they are listed; a new one when None.
        prefix: Of all names; two recorders of one hub take different ones.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, prefix: str = "aihub") -> None:
        self.registry = registry or CollectorRegistry()
        self.rows = Counter(
            f"{prefix}_usage_rows",
            "Rows of requests, by what became of them: written, dropped (too many waited for PostgreSQL), refused (by it).",
            ("outcome",),
            registry=self.registry,
        )
        self.waiting = Gauge(f"{prefix}_usage_rows_waiting", "Rows that are not written yet.", registry=self.registry)
