"""Faults in a running hub: each part dies or freezes; callers get a typed answer at once, and the part comes back by itself."""

import signal
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.cluster import RunningHub

CHAT = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 8,
    "temperature": 0,
    "cache": False,  # what is away must be missed
}


def chat(hub: RunningHub, **changes: object) -> httpx.Response:
    return httpx.post(f"{hub.url}/v1/chat/completions", json=CHAT | {"model": hub.model} | changes, timeout=120)


def parts(hub: RunningHub) -> dict[str, str]:
    body = httpx.get(f"{hub.url}/health", timeout=10).json()
    return {name: part["status"] for name, part in body["parts"].items()}


def wait_for(condition: Callable[[], bool], timeout_s: float) -> float:
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.2)
    return time.monotonic() - started_s


@pytest.fixture(autouse=True)
def _hub_is_whole_before_and_after(hub: RunningHub) -> Iterator[None]:
    wait_for(lambda: set(parts(hub).values()) == {"ok"}, 240)
    yield
    wait_for(lambda: set(parts(hub).values()) == {"ok"}, 240)
    assert chat(hub).status_code == 200


def test_redis_gone_never_breaks_a_request_and_is_reported(hub: RunningHub) -> None:
    (redis,) = store_servers(hub, "redis-server")
    redis.suspend()
    try:
        wait_for(lambda: parts(hub)["redis"] != "ok", 10)
        assert httpx.get(f"{hub.url}/health", timeout=10).json()["status"] == "degraded"
        assert chat(hub).status_code == 200
        assert httpx.get(f"{hub.url}/v1/files", timeout=10).status_code == 200
    finally:
        redis.resume()


def test_postgres_frozen_gives_503_on_what_needs_it_and_chat_goes_on(hub: RunningHub) -> None:
    servers = store_servers(hub, "postgres")
    for server in servers:
        server.suspend()
    try:
        started_s = time.monotonic()
        answer = httpx.get(f"{hub.url}/v1/files", timeout=30)
        assert time.monotonic() - started_s < 6
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "storage_unavailable"
        assert "retry-after" in answer.headers
        grounded = chat(hub, retrieval={"vector_store_ids": ["vs_any"]})
        assert grounded.json()["error"]["code"] == "storage_unavailable"
        assert chat(hub).status_code == 200
    finally:
        for server in reversed(servers):
            if server.is_running():
                server.resume()
    wait_for(lambda: httpx.get(f"{hub.url}/v1/files", timeout=30).status_code == 200, 60)


def test_postgres_killed_comes_back_with_its_data(hub: RunningHub) -> None:
    file = httpx.post(
        f"{hub.url}/v1/files", data={"purpose": "assistants"}, files={"file": ("ghi chú.txt", "Xin chào".encode())}, timeout=30
    ).json()
    postmaster = min(store_servers(hub, "postgres"), key=lambda process: process.create_time())
    postmaster.kill()
    wait_for(lambda: httpx.get(f"{hub.url}/v1/files/{file['id']}", timeout=30).status_code == 200, 60)
    assert httpx.delete(f"{hub.url}/v1/files/{file['id']}", timeout=30).status_code == 200


def test_supervisor_of_the_stores_killed_comes_back_with_both_servers(hub: RunningHub) -> None:
    (supervisor,) = hub.processes("aihub.core.embedded.supervisor")
    supervisor.kill()
    wait_for(lambda: parts(hub)["postgres"] == "ok" and supervisor.pid not in psutil.pids(), 60)
    wait_for(lambda: httpx.get(f"{hub.url}/v1/files", timeout=30).status_code == 200, 30)


@pytest.mark.timeout(600)
def test_killed_engine_fails_requests_fast_and_is_replaced(hub: RunningHub) -> None:
    ended: list[str] = []

    def stream() -> None:
        body = CHAT | {"model": hub.model, "stream": True, "max_tokens": 2000, "ignore_eos": True}
        with httpx.stream("POST", f"{hub.url}/v1/chat/completions", json=body, timeout=120) as answer:
            ended.extend(line for line in answer.iter_lines() if line.startswith("data: "))

    caller = threading.Thread(target=stream)
    caller.start()
    time.sleep(2)
    for engine in engine_processes(hub):
        engine.kill()
    caller.join(timeout=15)
    assert not caller.is_alive(), "the stream hung"
    assert any('"error"' in line for line in ended[-2:]), ended[-3:]
    started_s = time.monotonic()
    refused = chat(hub)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert time.monotonic() - started_s < 3


@pytest.mark.timeout(600)
def test_frozen_engine_is_noticed_and_replaced(hub: RunningHub) -> None:
    frozen = engine_processes(hub)
    for engine in frozen:
        engine.send_signal(signal.SIGSTOP)
    wait_for(lambda: parts(hub)["llm"] == "down", 150)
    wait_for(lambda: parts(hub)["llm"] == "ok", 240)
    assert not any(is_alive(engine) for engine in frozen), "the frozen engine still holds its memory"


def test_model_manager_killed_chat_goes_on_and_the_loaded_model_is_taken_over(hub: RunningHub) -> None:
    engines = {engine.pid for engine in engine_processes(hub)}
    (replica,) = hub.processes("ServeReplica:models")
    replica.kill()
    for _ in range(10):
        assert chat(hub).status_code == 200
        time.sleep(0.5)
    wait_for(lambda: parts(hub)["models"] == "ok", 60)
    models = httpx.get(f"{hub.url}/api/v1/models", timeout=30).json()["data"]["models"]
    assert {model["model_id"]: model["state"] for model in models}[hub.model] == "ready"
    assert {engine.pid for engine in engine_processes(hub)} == engines


def test_embeddings_replica_killed_comes_back(hub: RunningHub) -> None:
    (replica,) = hub.processes("ServeReplica:embeddings")
    replica.kill()
    body = {"model": hub.embedding_model, "input": "Xin chào"}

    def embed() -> httpx.Response:
        started_s = time.monotonic()
        answer = httpx.post(f"{hub.url}/v1/embeddings", json=body, timeout=30)
        assert time.monotonic() - started_s < 12
        assert answer.status_code in {200, 503}, answer.text
        return answer

    wait_for(lambda: embed().status_code == 200, 90)


def store_servers(hub: RunningHub, name: str) -> list[psutil.Process]:
    """The embedded servers run in an environment of their own, below their supervisor."""
    (supervisor,) = hub.processes("aihub.core.embedded.supervisor")
    return [process for process in supervisor.children(recursive=True) if name in process.name()]


def engine_processes(hub: RunningHub) -> list[psutil.Process]:
    found = hub.processes("VLLM::")
    assert found
    return found


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
