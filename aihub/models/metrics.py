"""Metrics of the model registry and of local models in memory, on the registry that is passed in (see `aihub.core.metrics`).

Labels come from code only: providers, outcomes, states, devices, reasons; never a key or a name from a request.
"""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DURATION_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_WAKE_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
_LOAD_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900)

MemoryKind = Literal["budget", "reserved", "used"]
UnloadReason = Literal["evicted", "idle", "requested", "ram", "outdated"]
FailureStage = Literal["start", "run", "stop", "sleep", "wake"]


class RegistryMetrics:
    """Totals, downloads and validations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.models = Gauge(
            "aihub_registry_models",
            "Models by state: total (all known), available (usable now), required, missing_required.",
            ["state"],
            registry=registry,
        )
        self.downloads = Counter(
            "aihub_model_downloads", "Finished downloads by outcome.", ["provider", "outcome"], registry=registry
        )
        self.downloads_running = Gauge("aihub_model_downloads_running", "Downloads that run now.", registry=registry)
        self.download_bytes = Counter(
            "aihub_model_download_bytes", "Bytes fetched, failed downloads included.", ["provider"], registry=registry
        )
        self.download_seconds = Histogram(
            "aihub_model_download_seconds",
            "From the first byte asked for to the installed model.",
            ["provider", "outcome"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.validations = Counter(
            "aihub_model_validations", "Checks of models; outcome is good or bad.", ["provider", "outcome"], registry=registry
        )
        self.validation_seconds = Histogram(
            "aihub_model_validation_seconds", "Time of one check.", ["provider"], buckets=_DURATION_BUCKETS, registry=registry
        )

    def set_totals(self, *, total: int, available: int, required: int, missing_required: int) -> None:
        """Set the counts of `GET /models/status`."""
        counts = {"total": total, "available": available, "required": required, "missing_required": missing_required}
        for state, count in counts.items():
            self.models.labels(state).set(count)

    def observe_download(self, provider: str, outcome: str, seconds: float, fetched_bytes: int) -> None:
        """Count one finished download. `outcome` is a final job status."""
        self.downloads.labels(provider, outcome).inc()
        self.download_seconds.labels(provider, outcome).observe(seconds)
        self.download_bytes.labels(provider).inc(fetched_bytes)

    def observe_validation(self, provider: str, *, is_good: bool, seconds: float) -> None:
        """Count one finished check of a model."""
        self.validations.labels(provider, "good" if is_good else "bad").inc()
        self.validation_seconds.labels(provider).observe(seconds)


class LifecycleMetrics:
    """Loads, unloads, failures and memory."""

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
