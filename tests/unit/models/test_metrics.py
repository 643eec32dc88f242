from prometheus_client import CollectorRegistry, generate_latest

from aihub.models.metrics import LifecycleMetrics, RegistryMetrics


def test_models_memory_unloads_and_failures_are_exposed() -> None:
    registry = CollectorRegistry()
    metrics = LifecycleMetrics(registry)
    metrics.watch_models("ready", lambda: 2)
    metrics.watch_memory("cuda:0", "reserved", lambda: 9)
    metrics.unloads.labels("cuda:0", "idle").inc()
    metrics.failures.labels("cuda:0", "start").inc()
    text = generate_latest(registry).decode()
    for line in (
        'aihub_local_models{state="ready"} 2.0',
        'aihub_device_memory_bytes{device="cuda:0",kind="reserved"} 9.0',
        'aihub_model_unloads_total{device="cuda:0",reason="idle"} 1.0',
        'aihub_model_failures_total{device="cuda:0",stage="start"} 1.0',
        "aihub_model_waiting_requests 0.0",
    ):
        assert line in text


def test_they_share_a_registry_with_the_model_registrys() -> None:
    registry = CollectorRegistry()
    RegistryMetrics(registry)
    LifecycleMetrics(registry)
    types = [line for line in generate_latest(registry).decode().splitlines() if line.startswith("# TYPE")]
    assert len(set(types)) == len(types)


def test_totals_downloads_and_validations_are_exposed() -> None:
    registry = CollectorRegistry()
    metrics = RegistryMetrics(registry)
    metrics.set_totals(total=5, available=3, required=2, missing_required=1)
    metrics.observe_download("vosk", "succeeded", 12.0, 1000)
    metrics.observe_download("vosk", "failed", 1.0, 500)
    metrics.observe_validation("vosk", is_good=False, seconds=0.1)
    text = generate_latest(registry).decode()
    for line in (
        'aihub_registry_models{state="missing_required"} 1.0',
        'aihub_model_downloads_total{outcome="failed",provider="vosk"} 1.0',
        'aihub_model_download_bytes_total{provider="vosk"} 1500.0',
        'aihub_model_download_seconds_bucket{le="30.0",outcome="succeeded",provider="vosk"} 1.0',
        'aihub_model_validations_total{outcome="bad",provider="vosk"} 1.0',
    ):
        assert line in text
