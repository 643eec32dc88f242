import json
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.history import KEPT_MODELS, EngineHistory, ObservedEngine
from aihub.core.errors import InvalidRequestError, ModelUnavailableError

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "một hai ba bốn năm sáu bảy tám chín mười"}]}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_answers_are_timed_streamed_or_not() -> None:
    history = EngineHistory()
    engine = ObservedEngine(FakeChatEngine(token_s=0.001), "m", history)
    await engine.chat(BODY)
    whole = history.of("m").tokens_per_s
    async for _ in engine.stream_chat(BODY):
        pass
    record = history.of("m")
    assert whole
    assert record.first_token_s is not None
    assert 0 < (record.tokens_per_s or 0) < 1100
    assert record.requests == 2


@pytest.mark.parametrize(("error", "rate"), [(ModelUnavailableError("died"), 0.2), (InvalidRequestError("sai"), 0.0)])
async def test_only_the_models_own_failures_count(error: Any, rate: float) -> None:
    history = EngineHistory(clock=Clock())
    fake = FakeChatEngine()
    fake.error = error
    with pytest.raises(type(error)):
        await ObservedEngine(fake, "m", history).chat(BODY)
    assert history.of("m").error_rate == pytest.approx(rate)


async def test_stream_that_ends_with_an_error_counts_as_failure() -> None:
    class Breaking(FakeChatEngine):
        async def stream_chat(self, body: dict[str, Any]) -> Any:
            yield 'data: {"choices":[]}\n\n'
            yield f"data: {json.dumps({'error': {}}, separators=(',', ':'))}\n\ndata: [DONE]\n\n"

    history = EngineHistory(clock=Clock())
    async for _ in ObservedEngine(Breaking(), "m", history).stream_chat(BODY):
        pass
    assert history.of("m").error_rate > 0


def test_errors_fade_so_that_a_model_is_tried_again() -> None:
    clock = Clock()
    history = EngineHistory(clock=clock)
    for _ in range(20):
        history.fail("m")
    assert history.of("m").error_rate > 0.9
    clock.now_s += 600
    assert history.of("m").error_rate < 0.3


def test_names_from_requests_cannot_fill_the_memory() -> None:
    history = EngineHistory()
    for number in range(2 * KEPT_MODELS):
        history.fail(f"openai/{number}")
    assert len(history._records) == KEPT_MODELS
