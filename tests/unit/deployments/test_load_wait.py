"""Waiting for a load over HTTP: the real edge, pipeline, directory and lifecycle; only Serve and the model are not there."""

import asyncio
import gc
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.history import EngineHistory
from aihub.chat.service import ChatEngine
from aihub.core.health import PartHealth
from aihub.http.app import create_app
from aihub.http.local_server import LocalServer
from aihub.models.configuration import HubConfiguration
from aihub.models.memory import loader
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.status import ModelStatus
from aihub.models.service import ModelsReport, ModelView
from deployments.handles import AppConnection
from deployments.local_engine import LocalEngine
from deployments.model_directory import ModelDirectory
from pipelines import load_wait
from pipelines.chat import ChatPipeline
from tests.unit.http.services import Parts
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, Hub, running_hub, spec
from tests.unit.pipelines.rag_parts import hub as pipeline_hub

MODEL = "mô-hình"
QUESTION: list[Any] = [{"role": "user", "content": "Xin chào"}]
SPEC = spec(MODEL, 6)


class ModelsPart(AppConnection):
    """The `models` application in this process: the calls that a directory makes, answered by a lifecycle."""

    def __init__(self, lifecycle: Any) -> None:
        super().__init__("models", "The model manager")
        self._lifecycle = lifecycle
        self._health = PartHealth("ok")

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        if name == "ensure":
            model_id, wait_s = args
            return await self._lifecycle.ensure(model_id, wait_s=wait_s)
        client_id, in_flight, used, version, speeds = args
        directory = await self._lifecycle.report(client_id, in_flight, used, seen_version=version, tokens_per_s=speeds)
        status = await self._lifecycle.status()
        return ModelsReport(directory, tuple(map(_view, status.models)), HubConfiguration())


class Directory(ModelDirectory):
    """Hands out a fake engine where the real one connects to Serve."""

    engine: ChatEngine

    def _connection(self, model_id: str) -> AppConnection:
        return AppConnection("llm-" + model_id, model_id)

    async def _engine(self, model_id: str, adapter_id: str | None) -> LocalEngine:
        return LocalEngine(self.engine, model_id, self, adapter_id)


def _view(status: ModelStatus) -> ModelView:
    return ModelView(status.model_id, str(status.state), False, status.failure, ("chat",), ("en",), 4096, 1, fits=True)


class HeldHost(FakeHost):
    """A device on which no model starts before `release` is set."""

    def __init__(self) -> None:
        super().__init__({"cpu": 64 * GIB}, start_s=0.0)
        self.release = asyncio.Event()

    async def start(self, spec: ModelSpec) -> None:
        await super().start(spec)
        await self.release.wait()


@dataclass
class WaitingHub:
    """A hub whose model is not loaded.

    Attributes:
        client: The official client, over a real connection.
        raw: The same without its parsing.
    """

    lifecycle: Hub
    host: HeldHost
    client: openai.AsyncOpenAI
    raw: httpx2.AsyncClient
    parts: Parts

    async def waiting(self) -> int:
        return (await self.lifecycle.model(MODEL)).waiting

    def load(self) -> None:
        """Let the model's load end."""
        self.host.release.set()

    async def until_waiting(self, count: int) -> None:
        async with asyncio.timeout(20.0):
            while await self.waiting() != count:
                await self.lifecycle.lifecycle._manager_state.changed.wait(0.05)


@asynccontextmanager
async def waiting_hub(*, load_wait_s: float = 50.0, max_waiting: int = 64) -> AsyncIterator[WaitingHub]:
    policy = replace(POLICY, max_waiting_requests=max_waiting, poll_s=0.02)
    host = HeldHost()
    async with running_hub(SPEC, policy=policy, host=host, clients=0) as lifecycle:
        directory = Directory(
            ModelsPart(lifecycle.lifecycle),
            default_model=MODEL,
            history=EngineHistory(),
            configured=lambda _: None,
            max_in_flight=100,
        )
        directory.engine = FakeChatEngine(MODEL)
        reports = asyncio.create_task(directory.run())
        parts = Parts()
        chat = ChatPipeline(directory, pipeline_hub().chat._rag, timeout_s=60.0, load_wait_s=load_wait_s)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "hub.sock"
            server = LocalServer(create_app(replace(parts.services(), chat=chat)), path)
            await server.start()
            transport = httpx2.AsyncHTTPTransport(uds=str(path))
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=30.0) as raw:
                client = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="unused", http_client=raw, max_retries=0)
                yield WaitingHub(lifecycle, host, client, raw, parts)
                reports.cancel()
                await asyncio.gather(reports, return_exceptions=True)
                await server.close(grace_s=0.1)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_wait, "GRACE_S", 0.05)
    monkeypatch.setattr(load_wait, "COMMENT_PERIOD_S", 0.1)
    monkeypatch.setattr(loader, "UNKNOWN_RETRY_S", 1)


def body(path: str, **fields: Any) -> dict[str, Any]:
    asked = {"messages": QUESTION} if path == "/v1/chat/completions" else {"prompt": "Xin chào"}
    return {"model": MODEL, "stream": True, **asked, **fields}


async def read(stream: "openai.AsyncStream[Any]") -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def test_official_client_reads_a_stream_that_begins_with_comments() -> None:
    async with waiting_hub() as hub:
        # Returns with the first bytes, which are a comment.
        stream = await hub.client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        hub.load()
        assert await read(stream) == "You said: Xin chào"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/generate"])
async def test_every_stream_begins_with_comments_while_its_model_is_loaded(path: str) -> None:
    async with waiting_hub() as hub, hub.raw.stream("POST", path, json=body(path)) as answer:
        assert answer.status_code == 200
        lines = (line async for line in answer.aiter_lines() if line)
        assert [await anext(lines) for _ in range(3)] == [f": loading {MODEL}, 0 s"] * 3
        hub.load()
        rest = [line async for line in lines if not line.startswith(":")]
        assert rest[0].startswith("data: {")
        assert rest[-1] == "data: [DONE]"


async def test_comments_are_no_first_token_in_the_metrics() -> None:
    path = "/v1/chat/completions"
    async with waiting_hub() as hub, hub.raw.stream("POST", path, json=body(path)) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith(":")
        first_tokens = hub.parts.metrics.first_token.labels(path)
        assert first_tokens._sum.get() == 0
        hub.load()
        assert [line async for line in lines]
        assert first_tokens._sum.get() > 0


async def test_unknown_model_and_a_full_queue_keep_their_status_while_others_wait() -> None:
    path = "/v1/chat/completions"
    async with waiting_hub(max_waiting=1) as hub, hub.raw.stream("POST", path, json=body(path)):
        unknown = await hub.raw.post(path, json=body(path, model="không-có"))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        full = await hub.raw.post(path, json=body(path))
        assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")


async def test_plain_answer_is_refused_after_its_wait_and_the_load_goes_on() -> None:
    path = "/v1/chat/completions"
    async with waiting_hub(load_wait_s=0.2) as hub:
        answer = await hub.raw.post(path, json=body(path, stream=False))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
        assert int(answer.headers["retry-after"]) >= 1
        hub.load()
        await asyncio.wait_for(hub.lifecycle.until(MODEL, "ready"), 20.0)
        assert hub.host.starts == [MODEL]


async def test_official_clients_own_retries_get_the_answer_of_a_slow_host() -> None:
    async with waiting_hub(load_wait_s=0.2) as hub:
        refused = asyncio.Event()

        async def note(answer: httpx2.Response) -> None:
            if answer.status_code == 503:
                refused.set()

        hub.raw.event_hooks["response"].append(note)
        asked = hub.client.with_options(max_retries=2).chat.completions.create(model=MODEL, messages=QUESTION)
        answer = asyncio.ensure_future(asked)
        await asyncio.wait_for(refused.wait(), 20.0)
        hub.load()
        assert (await answer).choices[0].message.content == "You said: Xin chào"
        assert hub.host.starts == [MODEL]


async def test_waits_of_clients_that_leave_end_at_once_and_the_load_goes_on_for_others() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    path = "/v1/chat/completions"
    async with waiting_hub() as hub:
        leaving = [asyncio.create_task(hub.raw.post(path, json=body(path, stream=number % 2 == 0))) for number in range(20)]
        staying = asyncio.create_task(hub.raw.post(path, json=body(path)))
        await hub.until_waiting(21)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await hub.until_waiting(1)
        hub.load()
        assert (await staying).text.endswith("data: [DONE]\n\n")
        assert hub.host.starts == [MODEL]
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_sixty_four_streams_wait_at_once_and_all_are_answered() -> None:
    path = "/v1/chat/completions"
    async with waiting_hub() as hub:
        waiting = [asyncio.create_task(hub.raw.post(path, json=body(path))) for _ in range(64)]
        await hub.until_waiting(64)
        await asyncio.sleep(0.2)
        hub.load()
        answers = await asyncio.gather(*waiting)
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
