import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.fallback import Candidate, FallbackEngine
from aihub.chat.providers.failures import ProviderError, ProviderRetiredError
from aihub.chat.service import ChatEngine, ChatModelInfo, model_info_for
from aihub.core.errors import (
    ContextLengthError,
    EngineTimeoutError,
    HubError,
    InternalError,
    InvalidRequestError,
    ModelUnavailableError,
    OverloadedError,
    RateLimitError,
)
from aihub.core.logging import add_response_header, response_headers

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Xin chào"}]}
WORTH_ANOTHER = [
    ModelUnavailableError("not loaded"),
    OverloadedError("full"),
    RateLimitError("slow down"),
    EngineTimeoutError("slow"),
    ProviderError("garbage"),
    ProviderRetiredError("gone"),
    InternalError("bug"),
]


def candidate(engine: FakeChatEngine, provider: str) -> Candidate:
    async def find() -> ChatEngine:
        return engine

    return Candidate(provider, f"{provider}/m", find)


@pytest.fixture
def local() -> FakeChatEngine:
    return FakeChatEngine("local/m")


@pytest.fixture
def remote() -> FakeChatEngine:
    return FakeChatEngine("openai/m")


@pytest.fixture
def engine(local: FakeChatEngine, remote: FakeChatEngine) -> FallbackEngine:
    return FallbackEngine([candidate(local, "local"), candidate(remote, "openai")])


async def frames_of(stream: AsyncGenerator[str, None]) -> str:
    return "".join([frame async for frame in stream])


async def test_first_candidate_answers_while_it_can(engine: FallbackEngine, remote: FakeChatEngine) -> None:
    answer = await engine.chat(BODY)
    assert answer["aihub"] == {"provider": "local", "model": "local/m", "fallback_from": []}
    assert not remote.bodies


@pytest.mark.parametrize("error", WORTH_ANOTHER, ids=lambda error: type(error).__name__)
async def test_failing_candidate_is_replaced_and_recorded(engine: FallbackEngine, local: FakeChatEngine, error: HubError) -> None:
    local.error = error
    answer = await engine.chat(BODY)
    failed = {"provider": "local", "model": "local/m", "code": error.code}
    assert answer["aihub"] == {"provider": "openai", "model": "openai/m", "fallback_from": [failed]}


@pytest.mark.parametrize("error", [InvalidRequestError("sai"), ContextLengthError("dài")], ids=lambda error: type(error).__name__)
async def test_request_that_is_wrong_everywhere_is_not_passed_on(
    engine: FallbackEngine, local: FakeChatEngine, remote: FakeChatEngine, error: HubError
) -> None:
    local.error = error
    with pytest.raises(type(error)):
        await engine.chat(BODY)
    assert not remote.bodies


async def test_last_error_is_raised_when_all_fail(engine: FallbackEngine, local: FakeChatEngine, remote: FakeChatEngine) -> None:
    local.error, remote.error = OverloadedError("full"), RateLimitError("slow down", retry_after_s=9)
    with pytest.raises(RateLimitError) as caught:
        await frames_of(engine.stream_chat(BODY))
    assert caught.value.retry_after_s == 9


async def test_stream_says_in_its_first_chunk_who_answers(engine: FallbackEngine, local: FakeChatEngine) -> None:
    local.error = ModelUnavailableError("not loaded")
    events = (await frames_of(engine.stream_chat(BODY))).removesuffix("\n\n").split("\n\n")
    first = json.loads(events[0].removeprefix("data: "))
    assert first["aihub"]["provider"] == "openai"
    assert first["aihub"]["fallback_from"][0]["code"] == "model_unavailable"
    assert events[-1] == "data: [DONE]"


async def test_stream_that_has_begun_is_never_begun_again(remote: FakeChatEngine) -> None:
    class Breaking(FakeChatEngine):
        async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
            yield 'data: {"choices":[{"index":0,"delta":{"content":"Xin"},"finish_reason":null}]}\n\n'
            raise ModelUnavailableError("died")

    engine = FallbackEngine([candidate(Breaking(), "local"), candidate(remote, "openai")])
    with pytest.raises(ModelUnavailableError):
        await frames_of(engine.stream_chat(BODY))
    assert not remote.bodies


async def test_closing_the_stream_stops_the_engine_behind_it(engine: FallbackEngine, local: FakeChatEngine) -> None:
    stream = engine.stream_chat(BODY)
    await anext(stream)
    assert local.active == 1
    await stream.aclose()
    assert local.active == 0


class Recovering(FakeChatEngine):
    """Fails once, at the first question."""

    async def count_tokens(self, body: dict[str, Any]) -> int:
        raise OverloadedError("full")


async def test_candidate_that_failed_is_out_for_the_rest_of_the_request(remote: FakeChatEngine) -> None:
    """A prompt that was counted by one model is answered by that model."""
    engine = FallbackEngine([candidate(Recovering("local/m"), "local"), candidate(remote, "openai")])
    await engine.count_tokens(BODY)
    assert (await engine.chat(BODY))["model"] == "openai/m"


async def test_headers_name_provider_and_failures(engine: FallbackEngine, local: FakeChatEngine) -> None:
    notes: dict[str, str] = {}
    token = response_headers.set(notes)
    local.error = OverloadedError("full")
    await engine.chat(BODY)
    response_headers.reset(token)
    assert notes == {"x-aihub-provider": "openai", "x-aihub-fallback-from": "local/m (overloaded)"}


def test_note_is_safe_in_a_header_whatever_it_says() -> None:
    notes: dict[str, str] = {}
    token = response_headers.set(notes)
    add_response_header("x-aihub-model", "mô-hình\r\nset-cookie: x=1")
    response_headers.reset(token)
    [value] = notes.values()
    assert value.isascii()
    assert value.isprintable()
    add_response_header("x-aihub-model", "outside of a request")


def slow_candidate(engine: FakeChatEngine, provider: str) -> Candidate:
    """Everyone has begun before the first one fails."""

    async def find() -> ChatEngine:
        await asyncio.sleep(0.01)
        return engine

    return Candidate(provider, f"{provider}/m", find)


async def test_calls_of_one_request_that_fail_at_once_give_up_the_dead_engine_once(
    local: FakeChatEngine, remote: FakeChatEngine
) -> None:
    engine = FallbackEngine([slow_candidate(local, "local"), slow_candidate(remote, "openai")])
    local.error = ModelUnavailableError("dead")
    answers = await asyncio.gather(*(engine.chat(BODY) for _ in range(8)))
    assert [answer["model"] for answer in answers] == ["openai/m"] * 8
    assert [failed["model"] for failed in answers[-1]["aihub"]["fallback_from"]] == ["local/m"]


async def test_last_engine_is_never_given_up_however_many_calls_fail_there(local: FakeChatEngine, remote: FakeChatEngine) -> None:
    engine = FallbackEngine([slow_candidate(local, "local"), slow_candidate(remote, "openai")])
    local.error = remote.error = ModelUnavailableError("dead")
    errors = await asyncio.gather(*(engine.chat(BODY) for _ in range(4)), return_exceptions=True)
    assert [type(error) for error in errors] == [ModelUnavailableError] * 4
    remote.error = None
    assert (await engine.chat(BODY))["model"] == "openai/m"


IMAGE_BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
}


@pytest.mark.parametrize("is_stream", [False, True])
async def test_stand_in_that_cannot_see_is_passed_over(is_stream: bool) -> None:
    down, blind, seeing = FakeChatEngine("a", max_images=1), FakeChatEngine("b"), FakeChatEngine("c", max_images=1)
    down.error = ModelUnavailableError("gone")
    engine = FallbackEngine([candidate(down, "local"), candidate(blind, "ollama"), candidate(seeing, "openai")])
    said = await frames_of(engine.stream_chat(IMAGE_BODY)) if is_stream else str(await engine.chat(IMAGE_BODY))
    assert "model_reads_no_images" in said
    assert (len(blind.bodies), len(seeing.bodies)) == (0, 1)


async def test_failure_is_unavailable_where_no_stand_in_sees(local: FakeChatEngine, engine: FallbackEngine) -> None:
    local.error = ModelUnavailableError("gone")
    with pytest.raises(ModelUnavailableError, match="cannot stand in"):
        await engine.chat(IMAGE_BODY)
    assert (await engine.chat(BODY))["choices"]


class Uncounting(FakeChatEngine):
    async def count_tokens(self, body: dict[str, Any]) -> int:
        raise ModelUnavailableError("gone")


async def test_prompt_with_images_is_counted_by_a_model_that_sees() -> None:
    down, blind, seeing = Uncounting("a", max_images=1), FakeChatEngine("b"), FakeChatEngine("c", max_images=1)
    engine = FallbackEngine([candidate(down, "local"), candidate(blind, "ollama"), candidate(seeing, "openai")])
    assert await engine.count_tokens(IMAGE_BODY) == await seeing.count_tokens(IMAGE_BODY)
    assert (await engine.model_info()).model_id == "c"


async def test_model_for_images_is_the_first_stand_in_that_takes_so_many() -> None:
    class Down(FakeChatEngine):
        async def model_info(self) -> ChatModelInfo:
            raise ModelUnavailableError("gone")

    few, many = FakeChatEngine("few", max_images=1), FakeChatEngine("many", max_images=4)
    engines = {"local": Down(), "ollama": FakeChatEngine("blind"), "openai": few, "gemini": many}
    engine = FallbackEngine([candidate(engine, provider) for provider, engine in engines.items()])
    assert [(await model_info_for(engine, count)).model_id for count in (0, 1, 2)] == ["blind", "few", "many"]
    with pytest.raises(ModelUnavailableError, match="cannot stand in"):
        await model_info_for(engine, 5)


async def test_model_that_was_asked_for_is_the_one_for_images_too() -> None:
    seeing = FakeChatEngine("openai/m", max_images=4)
    engine = FallbackEngine([candidate(FakeChatEngine("local/m"), "local"), candidate(seeing, "openai")])
    assert (await model_info_for(engine, 1)).model_id == "local/m"
