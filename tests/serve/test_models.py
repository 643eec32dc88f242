"""Local models on the running hub: loaded on request, evicted for each other, unloaded when idle; the registry's API."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import httpx
import openai
import pytest

from aihub.core.errors import InvalidRequestError
from aihub.models.memory.manager import SPECS_MAX_AGE_S
from deployments.client import HubClient, LLMService
from tests.cluster import MODELS_MEMORY_GB, SECOND_MODEL, RunningHub

LOAD_TIMEOUT_S = 400.0

pytestmark = pytest.mark.timeout(900)


def states(hub: RunningHub) -> dict[str, str]:
    answer = httpx.get(f"{hub.url}/api/v1/models", timeout=30).json()
    return {model["model_id"]: model["state"] for model in answer["data"]["models"]}


def ask(hub: RunningHub, model: str, **fields: Any) -> httpx.Response:
    """Ask as OpenAI's clients do, which try again while a model is still being loaded."""
    body = {"model": model, "messages": [{"role": "user", "content": "Xin chào!"}], "max_tokens": 4} | fields
    deadline_s = time.monotonic() + LOAD_TIMEOUT_S
    while True:
        answer = httpx.post(f"{hub.url}/v1/chat/completions", json=body, timeout=LOAD_TIMEOUT_S)
        is_loading = answer.status_code == 503 and answer.json()["error"]["code"] == "model_loading"
        if not is_loading or time.monotonic() > deadline_s:
            return answer
        time.sleep(1.0)


def post(hub: RunningHub, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    return httpx.post(f"{hub.url}{path}", json=body, timeout=LOAD_TIMEOUT_S)


@pytest.fixture(scope="module", autouse=True)
def _default_model_is_back(hub: RunningHub) -> Iterator[None]:
    yield
    post(hub, "/models/configure", {"model_unload_timeout_s": None})
    assert post(hub, "/api/v1/models/load", {"model_id": hub.model}).status_code == 200
    deadline_s = time.monotonic() + 30
    while httpx.get(f"{hub.url}/health", timeout=30).status_code != 200:  # the ingress hears of it within a second or two
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def put_broken_model(hub: RunningHub) -> str:
    """A third model whose configuration names a layer that its weights lack."""
    source, broken = hub.home / "models" / SECOND_MODEL, hub.home / "models" / "tiny-broken"
    broken.mkdir()
    for path in source.iterdir():
        (broken / path.name).symlink_to(path.resolve())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (broken / "config.json").unlink()
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    time.sleep(SPECS_MAX_AGE_S)  # the hub looks for new models no more often
    return broken.name


def test_model_that_cannot_start_says_why_everywhere_and_is_tried_once(hub: RunningHub) -> None:
    model = put_broken_model(hub)
    refused = post(hub, "/api/v1/models/load", {"model_id": model})
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert error["code"] == "model_cannot_start"
    assert "model.layers.2" in error["message"]  # the layer that is missing, out of the engine's own process
    assert refused.headers["retry-after"]
    began_s = time.monotonic()
    again = ask(hub, model)
    assert (again.status_code, time.monotonic() - began_s < 5) == (503, True)
    assert "model.layers.2" in again.json()["error"]["message"]
    models = httpx.get(f"{hub.url}/api/v1/models", timeout=30).json()["data"]["models"]
    failed = next(view for view in models if view["model_id"] == model)
    assert failed["state"] == "failed"
    assert "model.layers.2" in failed["failure"]
    shutil.rmtree(hub.home / "models" / model)


class BudgetWatch(threading.Thread):
    """Looks at the ledger all the time, inside a `with` statement."""

    def __init__(self, hub: RunningHub) -> None:
        super().__init__(daemon=True)
        self.hub = hub
        self._stopping = threading.Event()
        self.seen = 0
        self.over: list[Any] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.wait(0.2):
            devices = httpx.get(f"{self.hub.url}/api/v1/models/status", timeout=30).json()["data"]["devices"]
            self.seen += 1
            self.over += [device for device in devices if device["reserved_bytes"] > device["budget_bytes"]]


def test_second_model_waits_for_a_budget_that_holds_only_one(hub: RunningHub, client: openai.OpenAI) -> None:
    """It is loaded when the first has ended its stream, whole; the next test sees the first one come back."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(ask(hub, SECOND_MODEL)))
    with BudgetWatch(hub) as watch:
        stream = client.chat.completions.create(
            model=hub.model,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=300,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        usage = None
        for number, chunk in enumerate(stream):
            if number == 2:
                thread.start()
            usage = chunk.usage or usage
        assert usage is not None
        assert usage.completion_tokens == 300
        thread.join()
        assert answers[0].status_code == 200, answers[0].text
        assert answers[0].json()["model"] == SECOND_MODEL
        assert states(hub) == {SECOND_MODEL: "ready", hub.model: "unloaded"}
    assert watch.seen > 10
    assert watch.over == []


def test_idle_model_is_unloaded_and_the_default_one_comes_back_and_stays(hub: RunningHub) -> None:
    assert ask(hub, SECOND_MODEL).status_code == 200
    assert states(hub) == {SECOND_MODEL: "ready", hub.model: "unloaded"}
    assert post(hub, "/models/configure", {"model_unload_timeout_s": 3}).status_code == 200
    started_s = time.monotonic()
    while states(hub) != {SECOND_MODEL: "unloaded", hub.model: "ready"}:
        assert time.monotonic() - started_s < LOAD_TIMEOUT_S
        assert httpx.get(f"{hub.url}/health/ready", timeout=30).status_code == 200
        time.sleep(0.5)
    time.sleep(9)  # idle far longer than others may be
    assert states(hub) == {SECOND_MODEL: "unloaded", hub.model: "ready"}
    post(hub, "/models/configure", {"model_unload_timeout_s": None})


@pytest.mark.usefixtures("ray_cluster")
async def test_loaded_model_is_described_and_tuned_over_handles(hub: RunningHub) -> None:
    client = HubClient()
    assert (await client.load_model(hub.model)).state == "ready"
    info = await client.get_model_info(hub.model)
    assert info["device"] == "cpu"
    assert info["context_tokens"] == 4096
    before = {name: value for name, value in info["generation_config"].items() if value is not None}
    assert await client.update_generation_config(hub.model, max_tokens=3) == before | {"max_tokens": 3}
    answer = await client.chat([{"role": "user", "content": "Tell a story."}], ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 3
    assert await client.update_generation_config(hub.model, max_tokens=None) == before
    assert await client.clear_cache(hub.model) is True


@pytest.mark.usefixtures("ray_cluster")
async def test_llm_service_answers_by_the_names_of_the_service_before(hub: RunningHub) -> None:
    llm = LLMService()
    await HubClient().load_model(hub.model)
    whole = await llm.generate_answer("What is the capital of France?", max_tokens=8, temperature=0.0)
    pieces = [text async for text in llm.generate_answer_with_streaming("What is the capital of France?", None, 8, 0.0)]
    assert "".join(pieces).strip() == whole.answer
    info = await llm.get_model_info()
    assert (info["device"], info["gpu_name"], info["gpu_memory_allocated"]) == ("cpu", None, 0.0)
    with pytest.raises(InvalidRequestError, match="runs on the CPU"):
        await llm.optimize_for_gpu(load_in_4bit=True)
    assert await llm.clear_gpu_cache() is True


def test_pinned_model_is_neither_unloaded_nor_evicted(hub: RunningHub) -> None:
    model = {"model_id": hub.model}
    assert post(hub, "/api/v1/models/load", model).status_code == 200
    assert post(hub, "/api/v1/models/pin", model).status_code == 200
    try:
        assert post(hub, "/api/v1/models/unload", model).status_code == 409
        refused = ask(hub, SECOND_MODEL)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "pinned" in refused.json()["error"]["message"]
        assert states(hub)[hub.model] == "ready"
    finally:
        assert post(hub, "/api/v1/models/unpin", model).status_code == 200


def test_auto_says_which_model_it_took_and_why(hub: RunningHub) -> None:
    answer = ask(hub, "auto", messages=[{"role": "user", "content": "What is the capital of France?"}])
    assert answer.status_code == 200
    assert answer.headers["x-aihub-model"] == answer.json()["model"]
    assert "task chat" in answer.headers["x-aihub-route-reasons"]


def test_generate_answers_as_the_local_llm_service_did(hub: RunningHub) -> None:
    body = {"prompt": "What is the capital of France?", "max_tokens": 8, "do_sample": False}
    answer = post(hub, "/v1/generate", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["success"] is True
    assert answer.json()["text"]


def test_registry_tells_what_is_here_and_what_is_required(hub: RunningHub) -> None:
    data = httpx.get(f"{hub.url}/models/status", timeout=30).json()["data"]
    assert set(data) == {
        "total_models",
        "available_models",
        "required_models",
        "missing_required",
        "missing_required_keys",
        "models_by_type",
        "models_by_use",
        "model_details",
    }
    assert data["missing_required"] == 0
    assert data["model_details"]["package:smollm2"]["state"] == "available"
    assert httpx.get(f"{hub.url}/models/health", timeout=30).json()["data"]["status"] == "ok"


def test_model_is_validated_and_measured(hub: RunningHub) -> None:
    answer = post(hub, "/models/validate", {"models": ["package:smollm2"]})
    assert answer.status_code == 200, answer.text
    report = answer.json()["data"]
    assert report["is_good"] is True
    speed = report["results"][0]["speed"]
    assert speed["unit"] == "tokens/s"
    assert speed["value"] > 0


@pytest.mark.parametrize("key", ["hf:../../etc", "vosk:VI?", "http://evil.example/x"])
def test_bad_key_is_refused(hub: RunningHub, key: str) -> None:
    answer = httpx.post(f"{hub.url}/models/download/{key}", timeout=30)
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_download_without_a_network_fails_with_a_reason_and_nothing_is_left(hub: RunningHub) -> None:
    job = httpx.post(f"{hub.url}/models/download/hf:Qwen/Qwen2.5-0.5B-Instruct", timeout=30)
    assert job.status_code == 202
    job_id = job.json()["data"]["id"]
    with httpx.stream("GET", f"{hub.url}/models/jobs/{job_id}/events", timeout=120) as events:
        text = "".join(events.iter_text())
    assert "event: end" in text
    ended = httpx.get(f"{hub.url}/models/jobs/{job_id}", timeout=30).json()["data"]
    assert ended["status"] == "failed"
    assert ended["error"]["message"]
    assert states(hub).keys() == {hub.model, SECOND_MODEL}


def test_configuration_refuses_unknown_settings_and_addresses(hub: RunningHub) -> None:
    assert post(hub, "/models/configure", {"no_such_setting": 1}).status_code == 400
    refused = post(hub, "/models/configure", {"openai_base_url": "http://evil.example"})
    assert refused.status_code == 400
    assert httpx.get(f"{hub.url}/models/health", timeout=30).status_code == 200


def test_provider_without_a_key_says_what_to_set(hub: RunningHub) -> None:
    answer = ask(hub, "openai/gpt-4o-mini")
    assert answer.status_code == 503
    assert "OPENAI_API_KEY" in answer.json()["error"]["message"]


def test_budget_of_the_test_hub_is_the_one_it_was_given(hub: RunningHub) -> None:
    device = httpx.get(f"{hub.url}/api/v1/models/status", timeout=30).json()["data"]["devices"][0]
    fixed = sum(holder["size_bytes"] for holder in device["holders"] if holder["fixed"])
    assert device["budget_bytes"] - fixed == int(MODELS_MEMORY_GB * 2**30)


def test_unload_on_a_cpu_is_a_full_one_its_memory_is_back_and_the_hub_stays_ready(hub: RunningHub) -> None:
    post(hub, "/api/v1/models/load", {"model_id": hub.model})
    answer = post(hub, "/api/v1/models/unload", {"model_id": hub.model, "level": "sleep"})
    assert (answer.status_code, answer.json()["data"]["state"]) == (200, "unloaded")
    device = httpx.get(f"{hub.url}/api/v1/models/status", timeout=30).json()["data"]["devices"][0]
    assert hub.model not in {holder["holder"] for holder in device["holders"]}
    assert hub.processes("VLLM::EngineCore") == []
    started_s = time.monotonic()
    while (llm := httpx.get(f"{hub.url}/health").json()["parts"]["llm"])["reason"] != "idle: loads on the next request":
        assert llm["status"] == "ok"
        assert time.monotonic() - started_s < 10  # the ingress hears of it within a second or two
        time.sleep(0.2)
    load = threading.Thread(target=ask, args=(hub, hub.model))
    load.start()
    while load.is_alive():
        assert httpx.get(f"{hub.url}/health", timeout=30).status_code == 200
        assert httpx.get(f"{hub.url}/health/live", timeout=30).status_code == 200
        time.sleep(0.3)
    assert states(hub)[hub.model] == "ready"


def test_unknown_level_of_an_unload_is_400(hub: RunningHub) -> None:
    answer = post(hub, "/api/v1/models/unload", {"model_id": hub.model, "level": "deep"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "level")
