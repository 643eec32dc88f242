"""Turns at a model in the ingress: real directory and chat; the cluster between is faked."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aihub.accounts.metrics import LimitMetrics
from aihub.chat.history import EngineHistory
from aihub.core.errors import NotFoundError, OverloadedError
from aihub.core.fair_queue import QueueFullError
from aihub.core.principal import Principal
from aihub.http.services import NoLimits
from deployments import model_directory
from deployments.model_directory import ModelDirectory
from pipelines.chat import ChatPipeline
from pipelines.fair_turn import FairTurn, ModelTurns, current_turn
from pipelines.limited_chat import LimitedChat
from tests.unit.deployments.test_directory_adapters import Cluster
from tests.unit.pipelines.rag_parts import hub, request

FLOODING, OTHER = Principal(key_id="flooding"), Principal(key_id="other")


class BusyCluster(Cluster):
    """Its models answer once they may."""

    def __init__(self) -> None:
        super().__init__()
        self.ready.add("m")
        self.may_answer = asyncio.Event()
        self.busy = self.busiest = 0

    async def call(self, method: str, *args: Any, **_: Any) -> Any:
        if method == "model_info":
            return await hub().engine.model_info()
        if method != "chat":
            return await super().call(method, *args)
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            await self.may_answer.wait()
        finally:
            self.busy -= 1
        return {"model": args[0]["model"], "usage": {"total_tokens": 3}}


async def limited_chat(
    cluster: BusyCluster, monkeypatch: pytest.MonkeyPatch, *, places: int, most_waiting: int
) -> tuple[LimitedChat, ModelTurns]:
    monkeypatch.setattr(model_directory, "AppConnection", lambda *_, **__: cluster)
    turns = ModelTurns(places, most_waiting, LimitMetrics(CollectorRegistry()).refused)
    models: Any = cluster
    directory = ModelDirectory(
        models,
        default_model="m",
        history=EngineHistory(),
        configured=lambda _: None,
        max_in_flight=places + most_waiting,
        turns=turns,
    )
    await directory.refresh()
    pipeline = ChatPipeline(directory, hub().chat._rag, timeout_s=20.0)
    return LimitedChat(pipeline, NoLimits(), usual_answer_tokens=100), turns


async def test_a_model_and_its_adapters_share_places_and_all_names_of_it_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = BusyCluster()
    chat, turns = await limited_chat(cluster, monkeypatch, places=3, most_waiting=30)
    names = ["m", "m:shop", "m:shop@v1", "m:shop@v2"]
    flood = [asyncio.create_task(chat.chat(FLOODING, request(model=names[number % 4]))) for number in range(24)]
    await asyncio.sleep(0.05)
    other = asyncio.create_task(chat.chat(OTHER, request(model="m:shop")))
    await asyncio.sleep(0.05)
    assert cluster.busy == 3
    assert list(turns._queues) == ["m"]
    with pytest.raises(NotFoundError):  # costs no place
        await chat.chat(OTHER, request(model="nobody"))
    cluster.may_answer.set()
    answers = await asyncio.gather(*flood, other)
    assert len(answers) == 25
    assert cluster.busiest == 3
    assert (turns._queues["m"].taken, turns._queues["m"].waiting) == (0, 0)


async def test_without_keys_as_many_are_taken_as_before_and_the_next_hears_503(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = BusyCluster()
    chat, _ = await limited_chat(cluster, monkeypatch, places=2, most_waiting=4)
    tasks = [asyncio.create_task(chat.chat(Principal(), request(model="m"))) for _ in range(6)]
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError, match="its queue is full") as refused:
        await chat.chat(Principal(), request(model="m"))
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    with pytest.raises(OverloadedError):
        await chat.open_chat_stream(Principal(), request(model="m", stream=True))
    cluster.may_answer.set()
    await asyncio.gather(*tasks)


async def test_a_queue_full_of_one_key_has_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = BusyCluster()
    chat, _ = await limited_chat(cluster, monkeypatch, places=2, most_waiting=4)
    tasks = [asyncio.create_task(chat.chat(FLOODING, request(model="m"))) for _ in range(6)]
    await asyncio.sleep(0.05)
    with pytest.raises(QueueFullError):
        await chat.chat(FLOODING, request(model="m"))
    tasks.append(asyncio.create_task(chat.chat(OTHER, request(model="m"))))
    await asyncio.sleep(0.05)
    cluster.may_answer.set()
    assert len(await asyncio.gather(*tasks)) == 7


async def test_one_request_holds_one_place_at_a_time_so_that_no_two_wait_for_each_other() -> None:
    turns = ModelTurns(1, 10, LimitMetrics(CollectorRegistry()).refused)

    async def ask_both(first: str, second: str) -> None:
        turn = FairTurn("key")
        token = current_turn.set(turn)
        try:
            await turns.take(first)
            await turns.take(first)
            await asyncio.sleep(0.01)
            await turns.take(second)
        finally:
            current_turn.reset(token)
            turn.close()

    async with asyncio.timeout(2):
        await asyncio.gather(*(ask_both(*pair) for pair in (("a", "b"), ("b", "a")) for _ in range(5)))
    assert all((queue.taken, queue.waiting) == (0, 0) for queue in turns._queues.values())


async def test_a_place_that_comes_after_the_end_of_the_request_is_given_back() -> None:
    turns = ModelTurns(1, 10, LimitMetrics(CollectorRegistry()).refused)
    holder, late = FairTurn("a"), FairTurn("b")

    async def take(turn: FairTurn) -> None:
        current_turn.set(turn)
        await turns.take("m")

    await asyncio.create_task(take(holder))
    waiting = asyncio.create_task(take(late))
    await asyncio.sleep(0.01)
    late.close()
    holder.close()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], Exception)
    assert turns._queues["m"].taken == 0
