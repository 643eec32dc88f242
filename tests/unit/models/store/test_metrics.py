from prometheus_client import CollectorRegistry, generate_latest

from aihub.models.store.metrics import RegistryMetrics


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
