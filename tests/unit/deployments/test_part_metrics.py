import logging
from dataclasses import replace

import httpx
import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.core.metrics import Metrics
from aihub.http.app import create_app
from deployments.part_metrics import PartMetrics
from tests.unit.http.services import Parts


class Part:
    """An application without a cluster between."""

    def __init__(self, name: str) -> None:
        self.text = f"# TYPE {name} gauge\n{name} 1.0\n".encode()
        self.reason: str | None = None

    async def read(self) -> bytes:
        if self.reason is not None:
            raise ModelUnavailableError(self.reason)
        return self.text


async def test_a_part_without_metrics_is_counted_in_the_same_scrape_and_leaves_the_others() -> None:
    metrics, models, speech = Metrics(), Part("models_x"), Part("speech_x")
    parts = PartMetrics({"models": models.read, "speech": speech.read}, metrics.registry)
    services = replace(Parts(metrics=metrics).services(), more_metrics=parts.render)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(services)), base_url="http://localhost") as http:
        whole = (await http.get("/metrics")).text
        speech.reason = "The speech service is starting."
        lacking = (await http.get("/metrics")).text
    assert "models_x 1.0" in whole
    assert "speech_x 1.0" in whole
    assert 'aihub_metrics_failures_total{part="speech"} 0.0' in whole
    assert "models_x 1.0" in lacking
    assert "speech_x" not in lacking
    assert 'aihub_metrics_failures_total{part="speech"} 1.0' in lacking
    assert 'aihub_metrics_failures_total{part="models"} 0.0' in lacking


async def test_each_new_reason_is_logged_once_and_the_return_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="deployments")
    speech = Part("speech_x")
    parts = PartMetrics({"speech": speech.read}, Metrics().registry)
    for reason in ("starting", "starting", "gone", None, None, "gone"):
        speech.reason = reason
        await parts.render()
    assert [record.getMessage() for record in caplog.records] == [
        "Metrics of speech are missing: starting",
        "Metrics of speech are missing: gone",
        "Metrics of speech are back.",
        "Metrics of speech are missing: gone",
    ]
