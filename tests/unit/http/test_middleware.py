import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aihub.core.logging import configure_logging
from aihub.core.response_headers import add_response_header
from aihub.models.metrics import RegistryMetrics
from tests.unit.conftest import chat_body
from tests.unit.http.services import Parts


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await client.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_answer_carries_its_own_request_id(client: httpx.AsyncClient) -> None:
    responses = [await client.get(path) for path in ("/health", "/v1/models", "/nothing", "/metrics", "/openapi.json")]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(request_id.startswith("req_") for request_id in ids)
    assert len(set(ids)) == len(ids)


async def test_well_formed_request_id_of_the_client_is_kept(client: httpx.AsyncClient) -> None:
    response = await client.get("/health", headers={"x-request-id": "trace-1.2_3"})
    assert response.headers.get_list("x-request-id") == ["trace-1.2_3"]


@pytest.mark.parametrize("sent", ["a b", "x" * 129, "<script>", ""])
async def test_malformed_request_id_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    response = await client.get("/health", headers={"x-request-id": sent})
    assert response.headers["x-request-id"].startswith("req_")


async def test_requests_are_counted_by_template_and_status(client: httpx.AsyncClient) -> None:
    await client.get("/v1/models/fake-chat")
    await client.get("/v1/models/other")
    counted = await samples(client)
    template = ("route", "/v1/models/{model_id:path}")
    assert counted["aihub_http_requests_total", (("method", "GET"), template, ("status", "200"))] == 1
    assert counted["aihub_http_requests_total", (("method", "GET"), template, ("status", "404"))] == 1
    assert counted["aihub_http_request_seconds_count", (("method", "GET"), template)] == 2


async def test_unknown_paths_and_methods_share_one_label(client: httpx.AsyncClient) -> None:
    for path in ("/a", "/b", "/wp-login.php"):
        await client.get(path)
    await client.request("BREW", "/coffee")
    counted = await samples(client)
    unmatched = {key: value for key, value in counted.items() if key[0] == "aihub_http_requests_total" and value == 4}
    labels = (("method", "any"), ("route", "unmatched"), ("status", "404"))
    assert unmatched == {("aihub_http_requests_total", labels): 4}


async def test_invented_methods_share_one_label(client: httpx.AsyncClient) -> None:
    for method in ("BREW", "STEEP"):
        assert (await client.request(method, "/v1/models")).status_code == 405
    counted = await samples(client)
    labels = (("method", "any"), ("route", "/v1/models"), ("status", "405"))
    assert counted["aihub_http_requests_total", labels] == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_counted_from_usage(client: httpx.AsyncClient, stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    await client.post("/v1/chat/completions", json=chat_body(**options))
    counted = await samples(client)
    route = ("route", "/v1/chat/completions")
    assert counted["aihub_tokens_total", (("kind", "prompt"), route)] == 2
    assert counted["aihub_tokens_total", (("kind", "completion"), route)] == 4
    assert counted.get(("aihub_first_token_seconds_count", (route,)), 0) == (1 if stream else 0)


async def test_no_request_is_in_flight_after_all_answers_but_the_probe_itself(client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json=chat_body(stream=True))
    await client.get("/nothing")
    assert (await samples(client))["aihub_http_requests_in_flight", ()] == 1


async def test_decisions_about_a_request_are_headers_of_its_answer_only(client: httpx.AsyncClient, parts: Parts) -> None:
    def answer(prompt: str) -> str:
        if "auto" in prompt:
            add_response_header("x-aihub-model", "mô-hình")
            add_response_header("x-aihub-route-reasons", "task chat; loaded 35\r\nset-cookie: a=b")
        return "Chào bạn."

    parts.engine._answer = answer
    for stream in (False, True):
        noted = await client.post(
            "/v1/chat/completions", json=chat_body(messages=[{"role": "user", "content": "auto"}], stream=stream)
        )
        assert unquote(noted.headers["x-aihub-model"]) == "mô-hình"
        assert unquote(noted.headers["x-aihub-route-reasons"]).startswith("task chat; loaded 35")
        assert "set-cookie" not in noted.headers
    plain = await client.post("/v1/chat/completions", json=chat_body())
    assert not [name for name in plain.headers if name.startswith("x-aihub")]


async def test_metrics_of_other_processes_follow_the_replicas_own(app: FastAPI, client: httpx.AsyncClient, parts: Parts) -> None:
    async def others() -> bytes:
        registry = CollectorRegistry()
        RegistryMetrics(registry).set_totals(total=5, available=3, required=2, missing_required=1)
        return generate_latest(registry)

    app.state.services = replace(parts.services(), more_metrics=others)
    counted = await samples(client)
    assert counted["aihub_registry_models", (("state", "missing_required"),)] == 1
    assert counted["aihub_http_requests_in_flight", ()] == 1
    families = [line.split()[2] for line in (await client.get("/metrics")).text.splitlines() if line.startswith("# TYPE")]
    assert len(set(families)) == len(families)


class TestLogging:
    @pytest.fixture
    def log(self) -> Iterator[io.StringIO]:
        stream = io.StringIO()
        configure_logging("INFO", stream)
        yield stream
        for name in ("aihub", "pipelines", "deployments", "training"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True
            logging.getLogger(name).setLevel(logging.NOTSET)

    async def test_each_request_is_one_json_line_without_text_or_keys(self, client: httpx.AsyncClient, log: io.StringIO) -> None:
        secret = "sk-very-secret"
        response = await client.post(
            "/v1/chat/completions?key=in-the-query", json=chat_body(), headers={"authorization": f"Bearer {secret}"}
        )
        (line,) = [json.loads(text) for text in log.getvalue().splitlines()]
        assert line["request_id"] == response.headers["x-request-id"]
        assert line["fields"]["route"] == "/v1/chat/completions"
        assert line["fields"]["status"] == 200
        for hidden in (secret, "Xin chào", "in-the-query"):
            assert hidden not in log.getvalue()

    async def test_bug_is_logged_with_traceback_and_request_id(
        self, client: httpx.AsyncClient, parts: Parts, log: io.StringIO
    ) -> None:
        def broken(_: str) -> str:
            raise RuntimeError("broken part")

        parts.engine._answer = broken
        response = await client.post("/v1/chat/completions", json=chat_body())
        lines = [json.loads(text) for text in log.getvalue().splitlines()]
        (error,) = [line for line in lines if line["level"] == "ERROR"]
        assert "RuntimeError: broken part" in error["exception"]
        assert error["request_id"] == response.headers["x-request-id"]
