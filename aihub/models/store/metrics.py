"""Metrics of the model registry. Labels come from code only: providers, outcomes, states; never a key from a request."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DURATION_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


class RegistryMetrics:
    """Totals, downloads and validations, on the registry that is passed in (see `aihub.core.metrics`)."""

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
