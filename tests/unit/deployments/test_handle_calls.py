"""Rights and records of calls over a handle, without a cluster."""

import asyncio
import inspect
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from aihub.core.errors import NotFoundError, PermissionDeniedError, RateLimitError
from aihub.core.logging import request_id
from aihub.core.principal import Principal
from aihub.core.request_record import current_record, get_record
from aihub.http.services import NoLimits
from deployments.handle_calls import ADMINISTRATOR, answers, streams
from deployments.ingress import Ingress
from tests.unit.http.services import Parts

USER = Principal(tenant_id="shop", role="user", user_id="user_b")


class OneRequestEach(NoLimits):
    """Callers with a key have one request."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def admit(self, principal: Principal) -> None:
        if principal.key_id is not None:
            if principal.key_id in self._seen:
                raise RateLimitError("One is enough.")
            self._seen.add(principal.key_id)


class Target:
    """What is called, as the ingress is."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.services = replace(self.parts.services(), limiter=OneRequestEach())
        self.usage = self.parts.usage
        self.went_on = asyncio.Event()
        self.has_ended = False

    @answers("POST /v1/chat/completions")
    async def chat(self, text: str, *, principal: Principal = ADMINISTRATOR) -> tuple[str, str]:
        get_record().note_usage({"prompt_tokens": 3, "completion_tokens": 4})
        await asyncio.sleep(0)
        return text, principal.tenant_id

    @answers("POST /api/v1/models/load")
    async def load(self, *, principal: Principal = ADMINISTRATOR) -> str:
        return "loaded"

    @answers("GET /v1/models/{model_id:path}")
    async def missing(self, *, principal: Principal = ADMINISTRATOR) -> None:
        raise NotFoundError("No such model.", code="model_not_found")

    @answers("GET /v1/models")
    async def broken(self, *, principal: Principal = ADMINISTRATOR) -> None:
        raise ZeroDivisionError

    @answers("GET /v1/models")
    async def waits(self, *, principal: Principal = ADMINISTRATOR) -> None:
        await self.went_on.wait()

    @streams("POST /v1/chat/completions")
    async def stream(self, *, principal: Principal = ADMINISTRATOR) -> AsyncGenerator[str, None]:
        try:
            for text in (principal.tenant_id, "b", "c"):
                get_record().note_streamed(1)
                yield text
        finally:
            self.has_ended = True


async def test_call_acts_for_whom_it_names_and_leaves_a_record() -> None:
    target = Target()
    assert await target.chat("Xin chào", principal=USER) == ("Xin chào", "shop")
    assert await target.chat("Xin chào") == ("Xin chào", "default")
    first, second = target.usage.records
    assert (first.route, first.task, first.status, first.error_code) == ("handle chat", "chat", 200, "")
    assert (first.principal, second.principal) == (USER, ADMINISTRATOR)
    assert (first.prompt_tokens, first.completion_tokens) == (3, 4)
    assert first.total_s > 0
    assert first.request_id != second.request_id
    assert (current_record.get(), request_id.get()) == (None, None)


async def test_handle_has_the_rights_of_http() -> None:
    target = Target()
    assert await target.load() == "loaded"
    with pytest.raises(PermissionDeniedError) as refused:
        await target.load(principal=USER)
    assert refused.value.code == "admin_required"
    speech_only = Principal(tenant_id="shop", routes=frozenset({"/v1/audio"}))
    for call in (target.chat("a", principal=speech_only), anext(target.stream(principal=speech_only))):
        with pytest.raises(PermissionDeniedError) as refused:
            await call
        assert refused.value.code == "route_not_allowed"
    assert [record.status for record in target.usage.records] == [200, 403, 403, 403]


async def test_calls_of_a_key_are_counted() -> None:
    target, caller = Target(), Principal(key_id="key_1")
    await target.chat("a", principal=caller)
    for call in (target.chat("a", principal=caller), anext(target.stream(principal=caller))):
        with pytest.raises(RateLimitError):
            await call
    assert [record.status for record in target.usage.records] == [200, 429, 429]


async def test_failures_are_told_and_recorded() -> None:
    target = Target()
    with pytest.raises(NotFoundError):
        await target.missing()
    with pytest.raises(ZeroDivisionError):
        await target.broken()
    waiting = asyncio.create_task(target.waits())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    seen = [(record.status, record.error_code) for record in target.usage.records]
    assert seen == [(404, "model_not_found"), (500, "internal_error"), (499, "")]


async def test_something_else_than_a_principal_is_refused() -> None:
    target = Target()
    with pytest.raises(TypeError, match="must be a Principal"):
        await target.chat("a", principal="shop")  # type: ignore[arg-type]  # what is tested
    assert target.usage.records == []


async def test_stream_is_recorded_once_it_has_ended() -> None:
    target = Target()
    stream = target.stream(principal=USER)
    assert [await anext(stream), await anext(stream)] == ["shop", "b"]
    assert target.usage.records == []
    assert [text async for text in stream] == ["c"]
    (record,) = target.usage.records
    assert (record.status, record.completion_tokens, record.principal) == (200, 3, USER)
    assert record.is_streamed
    assert record.first_token_s is not None
    assert 0.0 < record.first_token_s <= record.total_s


async def test_stream_that_is_closed_ends_the_work_and_is_recorded_as_left() -> None:
    target = Target()
    stream = target.stream()
    await anext(stream)
    await asyncio.create_task(stream.aclose())  # in another context
    assert target.has_ended
    assert [record.status for record in target.usage.records] == [499]


async def test_calls_at_once_keep_their_own_records() -> None:
    target = Target()
    callers = [Principal(tenant_id=f"t{number}") for number in range(20)]
    found = await asyncio.gather(*(target.chat("a", principal=caller) for caller in callers))
    assert [tenant for _, tenant in found] == [caller.tenant_id for caller in callers]
    assert {record.principal.tenant_id for record in target.usage.records} == {caller.tenant_id for caller in callers}


def test_every_handle_method_of_the_ingress_takes_a_principal() -> None:
    methods = {
        name: method
        for name, method in vars(Ingress).items()
        if inspect.isfunction(method) and not name.startswith("_") and name != "check_health"
    }
    assert len(methods) > 15
    assert [name for name, method in methods.items() if not hasattr(method, "__wrapped__")] == []
    assert [name for name, method in methods.items() if "principal" not in inspect.signature(method).parameters] == []
    streamed = {name for name, method in methods.items() if inspect.isasyncgenfunction(method)}
    assert streamed == {"stream_chat", "stream_answer"}


def test_route_that_the_table_lacks_is_noticed_at_once() -> None:
    with pytest.raises(KeyError):
        answers("POST /v1/nothing")
