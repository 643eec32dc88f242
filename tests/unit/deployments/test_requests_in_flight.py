"""Requests in flight as the lifecycle sees them: real lifecycle, directory and pipelines; the cluster between is faked."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.fallback import Candidate, FallbackEngine
from aihub.chat.history import EngineHistory, ObservedEngine
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import HubError, OverloadedError, StorageUnavailableError
from aihub.core.health import PartHealth
from aihub.core.principal import Principal
from aihub.documents.search.retriever import Retrieval
from aihub.documents.tables.records import VectorStoreRecord
from aihub.media.service import PreparedImage
from aihub.models.configuration import HubConfiguration
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.manager_state import LifecyclePolicy
from aihub.models.service import ModelsReport
from deployments import model_directory
from deployments.model_directory import ModelDirectory
from pipelines.chat import ChatPipeline
from pipelines.load_wait import LoadWait
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from tests.unit.models.memory.lifecycle_parts import GIB, Hub, running_hub, spec
from tests.unit.pipelines.rag_parts import BATTERY, CALLER, CardOnlyEmbedder, ListedFinder, MemoryStores, chunks, request
from tests.unit.pipelines.test_transcribing_reader import IMAGE, KnowingDecoder, reader

ENGINE = FakeChatEngine("first")


@dataclass
class LifecycleConnection:
    """The `models` application without a cluster between."""

    hub: Hub
    health: PartHealth = field(default_factory=lambda: PartHealth("ok"))

    async def call(self, method: str, *args: Any) -> Any:
        if method == "ensure":
            return await self.hub.lifecycle.ensure(args[0])
        client_id, in_flight, used, version, speeds = args
        report = self.hub.lifecycle.report(client_id, in_flight, used, seen_version=version, tokens_per_s=speeds)
        return ModelsReport(await report, (), HubConfiguration())


class EngineConnection:
    """A model's application without a cluster between."""

    is_new = False
    health = PartHealth("ok")

    async def last_health(self) -> PartHealth:
        return self.health

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(ENGINE, method)(*args)

    def stream(self, method: str, *args: Any) -> AsyncGenerator[str, None]:
        assert method == "stream_chat"
        return ENGINE.stream_chat(*args)


class SlowFinder(ListedFinder):
    """Searches until it may end."""

    def __init__(self) -> None:
        super().__init__(chunks(BATTERY))
        self.searching, self.may_end = asyncio.Semaphore(0), asyncio.Event()

    async def retrieve(self, tenant_id: str, stores: list[VectorStoreRecord], query: str, **options: Any) -> Retrieval:
        self.searching.release()
        await self.may_end.wait()
        return await super().retrieve(tenant_id, stores, query, **options)


@dataclass
class Setting:
    """Two models of which only one fits, and a chat pipeline."""

    hub: Hub
    directory: ModelDirectory
    finder: SlowFinder
    chat: ChatPipeline

    def in_flight(self) -> int:
        return self.hub.lifecycle._manager_state.clients.in_flight("first")

    async def evicting(self) -> "asyncio.Task[Any]":
        """Ask for the other model, which takes the place of the first as soon as that is idle."""
        task = asyncio.create_task(self.hub.lifecycle.ensure("second"))
        await asyncio.sleep(0.3)
        return task

    async def assert_free(self, evicting: "asyncio.Task[Any]") -> None:
        async with asyncio.timeout(5):
            await evicting
        assert await self.hub.ready() == {"second"}
        assert self.in_flight() == 0


@asynccontextmanager
async def setting(max_in_flight: int = 100) -> AsyncIterator[Setting]:
    policy = LifecyclePolicy(
        live_margin_bytes=0, min_residency_s=0.0, settle_s=0.05, poll_s=0.02, tick_s=0.02, client_timeout_s=0.3
    )
    host = FakeHost({"cpu": 64 * GIB}, start_s=0.01, stop_s=0.01, give_back_s=0.01)
    async with running_hub(spec("first", 8.0), spec("second", 8.0), policy=policy, clients=0, host=host) as hub:
        directory = ModelDirectory(
            LifecycleConnection(hub),
            default_model="first",
            history=EngineHistory(),
            configured=lambda _: None,
            max_in_flight=max_in_flight,
        )
        await hub.lifecycle.ensure("first")
        await asyncio.sleep(policy.client_timeout_s)  # before that nothing is evicted after a start
        reporting = asyncio.create_task(directory.run())
        finder = SlowFinder()
        rag = RagPipeline(finder=finder, stores=MemoryStores(), embedder=CardOnlyEmbedder(), prompts=load_prompts())
        try:
            yield Setting(hub, directory, finder, ChatPipeline(directory, rag, timeout_s=20.0))
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await directory.close()


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_directory, "AppConnection", EngineConnection)
    monkeypatch.setattr(model_directory, "REPORT_PERIOD_S", 0.02)


async def test_a_model_is_not_evicted_while_its_request_searches() -> None:
    async with setting() as parts:
        answer = asyncio.create_task(parts.chat.chat(CALLER, request(model="first", retrieval=True)))
        await parts.finder.searching.acquire()
        evicting = await parts.evicting()
        assert not evicting.done()
        assert parts.in_flight() == 1
        parts.finder.may_end.set()
        assert (await answer)["retrieval"]["chunks"]
        await parts.assert_free(evicting)


async def test_a_stream_is_in_flight_from_its_search_to_its_end() -> None:
    async with setting() as parts:
        opening = asyncio.create_task(parts.chat.open_chat_stream(CALLER, request(model="first", retrieval=True, stream=True)))
        await parts.finder.searching.acquire()
        evicting = await parts.evicting()
        parts.finder.may_end.set()
        stream = await opening
        await asyncio.sleep(0.1)
        assert not evicting.done()
        assert parts.in_flight() == 1
        await stream.aclose()  # the client leaves in the middle
        await parts.assert_free(evicting)


async def test_a_request_that_leaves_while_it_searches_lets_go() -> None:
    async with setting() as parts:
        answer = asyncio.create_task(parts.chat.chat(CALLER, request(model="first", retrieval=True)))
        await parts.finder.searching.acquire()
        evicting = await parts.evicting()
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        await parts.assert_free(evicting)


async def test_a_search_that_fails_lets_go() -> None:
    async with setting() as parts:
        parts.finder.error = StorageUnavailableError("away")
        parts.finder.may_end.set()
        with pytest.raises(StorageUnavailableError):
            await parts.chat.chat(CALLER, request(model="first", retrieval=True))
        await parts.assert_free(await parts.evicting())


async def test_a_request_counts_once_and_one_too_many_is_refused_before_it_searches() -> None:
    async with setting(max_in_flight=1) as parts:
        answer = asyncio.create_task(parts.chat.chat(CALLER, request(model="first", retrieval=True)))
        await parts.finder.searching.acquire()
        with pytest.raises(OverloadedError):
            await parts.chat.chat(CALLER, request(model="first", retrieval=True))
        parts.finder.may_end.set()
        assert (await answer)["choices"]
        assert len(parts.finder.asked) == 1


async def test_a_fallback_holds_the_engine_it_asks() -> None:
    async with setting() as parts:

        async def failing() -> Any:
            raise StorageUnavailableError("away")

        async def local() -> Any:
            return ObservedEngine(await parts.directory.resolve(Principal(), "first"), "first", EngineHistory())

        engine = FallbackEngine([Candidate("openai", "openai/x", failing), Candidate("local", "first", local)])
        with engine.hold():
            await engine.model_info()
            evicting = await parts.evicting()
            assert not evicting.done()
            assert parts.in_flight() == 1
        await parts.assert_free(evicting)


async def test_engines_without_a_count_can_be_held() -> None:
    engine = ObservedEngine(FakeChatEngine(), "x", EngineHistory())
    try:
        with engine.hold():
            assert (await engine.model_info()).model_id == "fake-chat"
    except HubError:
        pytest.fail("nothing limits it")


class SeeingModels:
    """The models of a hub as its directory has them; the first one sees."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._directory = directory

    async def list(self, principal: Principal) -> list[ChatModelInfo]:
        return [ChatModelInfo("first", 4096, 0, max_images=1)]

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        return await self._directory.resolve(principal, model_id, body, wait=wait)


class SlowDecoder(KnowingDecoder):
    """Prepares an image until it may end."""

    def __init__(self) -> None:
        super().__init__(IMAGE)
        self.preparing, self.may_end = asyncio.Event(), asyncio.Event()

    async def prepare_image(self, data: bytes, *, max_pixels: int) -> PreparedImage:
        self.preparing.set()
        await self.may_end.wait()
        return await super().prepare_image(data, max_pixels=max_pixels)


async def test_a_vision_model_is_not_evicted_while_it_is_asked_for_a_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked, may_answer = FakeChatEngine("first", max_images=1), asyncio.Event(), asyncio.Event()
    answer_now = engine.chat

    async def answer_later(body: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        await may_answer.wait()
        return await answer_now(body)

    monkeypatch.setattr(engine, "chat", answer_later)
    monkeypatch.setattr("tests.unit.deployments.test_requests_in_flight.ENGINE", engine)
    async with setting() as parts:
        decoder = SlowDecoder()
        reading = asyncio.create_task(reader(decoder=decoder, models=SeeingModels(parts.directory)).read(CALLER, b"cat"))
        await decoder.preparing.wait()
        evicting = await parts.evicting()
        assert not evicting.done()
        assert parts.in_flight() == 1
        decoder.may_end.set()
        await asked.wait()
        await asyncio.sleep(0.1)
        assert not evicting.done()
        assert parts.in_flight() == 1
        may_answer.set()
        assert (await reading).text
        await parts.assert_free(evicting)


async def test_a_caption_that_is_given_up_lets_go() -> None:
    async with setting() as parts:
        decoder = SlowDecoder()
        reading = asyncio.create_task(reader(decoder=decoder, models=SeeingModels(parts.directory)).read(CALLER, b"cat"))
        await decoder.preparing.wait()
        evicting = await parts.evicting()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await parts.assert_free(evicting)
