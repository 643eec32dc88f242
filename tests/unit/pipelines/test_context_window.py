from collections.abc import Mapping
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.service import estimate_tokens
from aihub.core.errors import ModelUnavailableError
from aihub.core.principal import Principal
from pipelines.context_window import UNKNOWN_CONTEXT_TOKENS, ContextWindow, ContextWindows, count_fitting_turns
from tests.unit.pipelines.conversation_parts import LoadedModel, stored_request

CALLER = Principal()


def body_with(count: int) -> Mapping[str, Any]:
    """A question behind `count` turns of 20 words."""
    return {"messages": [*({"role": "user", "content": "word " * 20} for _ in range(count)), {"role": "user", "content": "?"}]}


async def fitting(room: int, *, turns: int = 10, engine: FakeChatEngine | None = None) -> int:
    size = estimate_tokens({"messages": [{"role": "user", "content": "word " * 20}]})
    return await count_fitting_turns(ContextWindow(4096, engine), room, [size] * turns, body_with)


async def test_all_turns_that_fit_by_estimate_are_taken_without_counting() -> None:
    class Uncounted(FakeChatEngine):
        async def count_tokens(self, body: dict[str, Any]) -> int:
            raise AssertionError("counted")

    assert await fitting(4000, engine=Uncounted()) == 10


@pytest.mark.parametrize("room", [0, 30, 63, 64, 105, 149, 209])
async def test_the_models_own_tokens_decide_where_the_estimate_finds_too_many(room: int) -> None:
    engine = FakeChatEngine()
    count = await fitting(room, engine=engine)
    tokens = [await engine.count_tokens(dict(body_with(number))) for number in range(11)]
    best = max((number for number in range(11) if tokens[number] <= room), default=0)
    assert count == best
    assert count >= await fitting(room)


async def test_estimate_decides_for_a_model_that_is_not_loaded() -> None:
    assert 0 < await fitting(200) < 10
    assert await fitting(0) == 0


async def test_model_that_cannot_count_leaves_it_to_the_estimate() -> None:
    class Away(FakeChatEngine):
        async def count_tokens(self, body: dict[str, Any]) -> int:
            raise ModelUnavailableError("away")

    assert await fitting(200, engine=Away()) == await fitting(200)


async def test_window_is_that_of_the_model_that_is_asked() -> None:
    directory = LoadedModel(FakeChatEngine(context_tokens=777))
    windows = ContextWindows(directory, directory.candidates)
    for model in ("fake-chat", "auto"):
        window = await windows.find(CALLER, stored_request("Hi", model=model), {"messages": []})
        assert window.context_tokens == 777
        assert window.engine is not None
    window = await windows.find(CALLER, stored_request("Hi", model="openai/unheard-of"), {"messages": []})
    assert window == ContextWindow(UNKNOWN_CONTEXT_TOKENS)


def test_room_is_what_the_answer_leaves_and_half_of_it_beside_sources() -> None:
    assert ContextWindow(1000).room_tokens(200) == 800
    assert ContextWindow(1000, is_shared=True).room_tokens(200) == 400
    assert ContextWindow(1000).room_tokens(None) == 750
    assert ContextWindow(1000).room_tokens(5000) == 0
