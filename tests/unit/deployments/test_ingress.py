from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.sse import DONE, data_event
from deployments.ingress import Ingress
from pipelines.prompts import load_prompts
from tests.unit.http.services import Parts

PROMPTS = load_prompts()


class Chat:
    """The chat pipeline: answers three words, and notes what it was asked and whether it was stopped."""

    def __init__(self) -> None:
        self.asked: list[ChatCompletionRequest] = []
        self.has_ended = False

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        self.asked.append(request)
        return self._frames()

    async def _frames(self) -> AsyncGenerator[str, None]:
        try:
            for text in ("Cửa", " hàng", " mở"):
                yield data_event({"choices": [{"index": 0, "delta": {"content": text}}]})
            yield DONE
        finally:
            self.has_ended = True


class Edge(Ingress):
    """The handle methods on a fake pipeline: the real constructor needs a cluster, and the real end awaits what it started."""

    def __init__(self, chat: Chat) -> None:
        self._parts: Any = SimpleNamespace(prompts=PROMPTS, handle_chat=chat, services=Parts().services())
        self._model_id = "shop"

    def __del__(self) -> None:
        """Nothing was started."""


async def test_streamed_answer_asks_the_default_model_with_the_context_and_streams() -> None:
    chat = Chat()
    frames = [frame async for frame in Edge(chat).stream_answer("Mấy giờ mở cửa?", "Mở cửa lúc 8:30.", 9, 0.0)]
    assert len(frames) == 4
    (request,) = chat.asked
    assert (request.model, request.stream, request.temperature, request.max_completion_tokens) == ("shop", True, 0.0, 9)
    assert "Mở cửa lúc 8:30." in str(request.messages)


async def test_streamed_answer_that_is_closed_ends_the_pipeline_too() -> None:
    chat = Chat()
    stream = Edge(chat).stream_answer("Mấy giờ mở cửa?")
    await anext(stream)
    assert not chat.has_ended
    await stream.aclose()
    assert chat.has_ended


@pytest.mark.parametrize("change", [{"question": " "}, {"max_tokens": 0}, {"temperature": 9.0}])
async def test_streamed_answer_to_a_wrong_question_is_refused_before_the_model_is_asked(change: dict[str, Any]) -> None:
    chat = Chat()
    with pytest.raises(InvalidRequestError):
        await anext(Edge(chat).stream_answer(**{"question": "Who?"} | change))
    assert chat.asked == []


async def test_default_model_is_told() -> None:
    assert await Edge(Chat()).default_model() == "shop"
