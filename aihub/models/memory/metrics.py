"""Metrics of local models in memory. Labels come from code only: states, devices, reasons; never a model's name."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_WAKE_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
_LOAD_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900)

MemoryKind = Literal["budget", "reserved", "used"]
UnloadReason = Literal["evicted", "idle", "requested", "ram", "outdated"]
FailureStage = Literal["start", "run", "stop", "sleep", "wake"]


class LifecycleMetrics:
    """Loads, unloads, failures and memory, on the registry that is passed in (see `aihub.core.metrics`)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        self.models = Gauge("aihub_local_models", "Installed local chat models by state.", ["state"], registry=registry)
        self.memory_bytes = Gauge(
            "aihub_device_memory_bytes",
            "Per device: budget (what the hub may take), reserved (what holders may take), used (what they were seen to hold).",
            ["device", "kind"],
            registry=registry,
        )
        self.waiting = Gauge("aihub_model_waiting_requests", "Requests that wait for a model to be loaded.", registry=registry)
        self.load_seconds = Histogram(
            "aihub_model_load_seconds",
            "From the start of a model until it answers; its count is that of loads.",
            ["device"],
            buckets=_LOAD_BUCKETS,
            registry=registry,
        )
        self.unloads = Counter(
            "aihub_model_unloads",
            "Models ended; reason is evicted (to make room), idle, requested, ram (sleepers, where it is short) or outdated.",
            ["device", "reason"],
            registry=registry,
        )
        self.sleeps = Counter(
            "aihub_model_sleeps",
            "Models put to sleep instead of being ended; reason is evicted, idle or requested.",
            ["device", "reason"],
            registry=registry,
        )
        self.wake_seconds = Histogram(
            "aihub_model_wake_seconds",
            "Time a sleeping model took until it answered; its count is that of wakes, which are no loads.",
            ["device"],
            buckets=_WAKE_BUCKETS,
            registry=registry,
        )
        self.failures = Counter(
            "aihub_model_failures",
            "Models that failed; stage is start, run (stopped by itself), stop, sleep or wake.",
            ["device", "stage"],
            registry=registry,
        )

    def watch_models(self, state: str, count: Callable[[], int]) -> None:
        """Show the number of models in a state, as it is at each scrape."""
        self.models.labels(state).set_function(count)

    def watch_memory(self, device: str, kind: MemoryKind, read_bytes: Callable[[], int]) -> None:
        """Show one figure of a device's account, as it is at each scrape."""
        self.memory_bytes.labels(device, kind).set_function(read_bytes)
