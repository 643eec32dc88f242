"""What limits of keys refused, and whether they are counted together."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class LimitMetrics:
    """What was refused, and whether Redis counts.

    Args:
        prefix: Of the names; two edges of one hub take different ones.
    """

    def __init__(self, registry: CollectorRegistry, *, prefix: str = "aihub") -> None:
        self.refused = Counter(
            f"{prefix}_limits_refused",
            "Requests refused by a limit of their key: requests, tokens, too_large, streams, day or queue.",
            ["reason"],
            registry=registry,
        )
        self.redis_is_away = Gauge(
            f"{prefix}_limits_redis_away",
            "1 while limits are counted by each replica alone, as Redis does not answer.",
            registry=registry,
        )
