from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from aihub.core.errors import InvalidRequestError, ModelUnavailableError, RateLimitError, UnavailableError
from aihub.core.principal import Principal
from aihub.core.sse import DONE, comment, data_event, error_frame
from deployments.client import HubClient, LLMService
from pipelines.answer import GeneratedAnswer


class Frames:
    """The handle method of a stream, and the remote generator that it returns."""

    def __init__(self, *frames: str) -> None:
        self._frames = frames
        self.asked: list[tuple[Any, ...]] = []
        self.is_cancelled = False

    def remote(self, *args: Any, **named: Any) -> "Frames":
        self.asked.append((*args, *named.items()))
        return self

    def cancel(self) -> None:
        self.is_cancelled = True

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        for frame in self._frames:
            yield frame


class Hub:
    """The handle of the `hub` application; its calls are noted and answered from `answers`."""

    def __init__(self, **answers: Any) -> None:
        self._answers = {"default_model": "shop"} | answers
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, method: str) -> Any:
        async def remote(*args: Any, **named: Any) -> Any:
            self.calls.append((method, *args, *named.items()))
            answer = self._answers[method]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return SimpleNamespace(remote=remote)


def client(*frames: str) -> HubClient:
    made = HubClient.__new__(HubClient)  # the real constructor needs a cluster
    made._for = {}
    made._stream = made._answer_stream = Frames(*frames)
    return made


def service(**answers: Any) -> tuple[LLMService, Hub]:
    made, hub = client(), Hub(**answers)
    made._hub = hub
    return LLMService(made), hub


INFO = {"model_id": "shop", "device": "cuda:0", "gpu_name": "RTX 4060 Ti", "gpu_memory_allocated": 5.25, "weight_bits": 4}


def word(text: str) -> str:
    return data_event({"choices": [{"index": 0, "delta": {"content": text}}]})


WAITING = comment("loading smollm2, 0 s")


async def test_stream_that_begins_with_comments_gives_the_text_alone() -> None:
    stream = client(WAITING, WAITING + word("Xin"), word(" chào"), DONE).stream_chat([])
    assert [text async for text in stream] == ["Xin", " chào"]


async def test_failure_after_comments_is_raised() -> None:
    stream = client(WAITING, error_frame(ModelUnavailableError("it did not start"))).stream_chat([])
    with pytest.raises(UnavailableError, match="did not start"):
        await anext(stream)


async def test_llm_service_answers_a_question_with_its_context() -> None:
    answer = GeneratedAnswer("8:30", "shop", "stop", 9, 3)
    llm, hub = service(generate_answer=answer)
    assert await llm.generate_answer("When?", context="It opens at 8:30.", max_tokens=9, temperature=0.1) == answer
    assert hub.calls == [("generate_answer", "When?", "It opens at 8:30.", 9, 0.1)]


async def test_llm_service_streams_the_same_answer() -> None:
    hub = client(WAITING, word("Tám") + word(" rưỡi"), DONE)
    stream = LLMService(hub).generate_answer_with_streaming("Mấy giờ mở cửa?", "Mở cửa lúc 8:30.", max_tokens=9)
    assert [text async for text in stream] == ["Tám", " rưỡi"]
    assert hub._answer_stream.asked == [("Mấy giờ mở cửa?", "Mở cửa lúc 8:30.", 9, 0.2)]
    assert not hub._answer_stream.is_cancelled


async def test_caller_that_leaves_a_stream_of_the_llm_service_stops_the_model() -> None:
    hub = client(word("one"), word("two"), DONE)
    stream = LLMService(hub).generate_answer_with_streaming("Count.")
    assert await anext(stream) == "one"
    await stream.aclose()
    assert hub._answer_stream.is_cancelled


async def test_two_streams_at_once_do_not_mix() -> None:
    first, second = (LLMService(client(word(text), word("!"), DONE)).generate_answer_with_streaming("?") for text in "ab")
    mixed = [await anext(first), await anext(second), await anext(first), await anext(second)]
    assert mixed == ["a", "b", "!", "!"]


async def test_llm_service_changes_only_the_defaults_that_are_given() -> None:
    llm, hub = service(update_generation_config={"temperature": 0.2, "top_k": 50})
    assert await llm.update_generation_config(temperature=0.2, top_p=None) == {"temperature": 0.2, "top_k": 50}
    await llm.update_generation_config(0.0, 0.9, 40)
    changes = [call[1:] for call in hub.calls if call[0] == "update_generation_config"]
    assert changes == [("shop", {"temperature": 0.2}), ("shop", {"temperature": 0.0, "top_p": 0.9, "top_k": 40})]


async def test_llm_service_clears_the_cache_of_the_default_model() -> None:
    llm, hub = service(clear_cache=True)
    assert await llm.clear_gpu_cache() is True
    assert hub.calls[-1] == ("clear_cache", "shop")


async def test_llm_service_tells_the_card_and_its_memory() -> None:
    llm, hub = service(get_model_info=INFO)
    assert {"device", "gpu_name", "gpu_memory_allocated"} <= (await llm.get_model_info()).keys()
    assert hub.calls[-1] == ("get_model_info", "shop")


@pytest.mark.parametrize("asked", [{}, {"load_in_4bit": True}, {"use_quantization": False}])
async def test_model_that_runs_as_asked_needs_no_optimising(asked: dict[str, bool]) -> None:
    assert await service(get_model_info=INFO)[0].optimize_for_gpu(**asked) == INFO


@pytest.mark.parametrize(
    ("info", "asked", "reason"),
    [
        ({}, {"load_in_8bit": True}, "4-bit weights"),
        ({"weight_bits": None}, {"load_in_4bit": True}, "bitsandbytes.*is not part of it"),
        ({"device": "cpu"}, {"load_in_4bit": True}, "no GPU"),
        ({}, {"load_in_8bit": True, "load_in_4bit": True}, "8 or 4 bits"),
    ],
)
async def test_what_the_engine_cannot_optimise_is_refused_with_the_reason(
    info: dict[str, Any], asked: dict[str, bool], reason: str
) -> None:
    llm, _ = service(get_model_info=INFO | info)
    with pytest.raises(InvalidRequestError, match=reason):
        await llm.optimize_for_gpu(**asked)


async def test_every_call_of_a_client_carries_whom_it_is_for() -> None:
    user = Principal(tenant_id="shop", role="user")
    made, hub = client(word("Xin"), DONE), Hub(chat={}, embed=[], recommend={})
    made._hub, made._for = hub, {"principal": user}
    await made.chat([])
    await made.embed(["a"])
    await made.recommend(1, 2, 3)
    assert [call[-1] for call in hub.calls] == [("principal", user)] * 3
    assert [text async for text in made.stream_chat([])] == ["Xin"]
    assert [text async for text in made.stream_answer("Who?")] == ["Xin"]
    assert [asked[-1] for asked in made._stream.asked] == [("principal", user)] * 2


async def test_failures_keep_their_kind() -> None:
    llm, _ = service(get_model_info=ModelUnavailableError("not loaded"), generate_answer=RateLimitError("busy"))
    with pytest.raises(ModelUnavailableError, match="not loaded"):
        await llm.get_model_info()
    with pytest.raises(RateLimitError, match="busy"):
        await llm.generate_answer("Who?")


async def test_training_is_followed_until_it_rests() -> None:
    states = [{"status": "queued"}, {"status": "running", "step": 1}, {"status": "running", "step": 1}, {"status": "succeeded"}]
    made, asked = client(), []

    async def training(job_id: str) -> dict[str, Any]:
        asked.append(job_id)
        return states[len(asked) - 1]

    made.training = training  # type: ignore[method-assign]  # the real one needs a cluster
    seen = [job async for job in made.follow_training("ftjob-1", period_s=0.0)]
    assert seen == [states[0], states[1], states[3]]


async def test_training_is_started_with_the_fields_of_http() -> None:
    made, hub = client(), Hub(start_training={"id": "ftjob-1"}, upload_file={"id": "file-1"})
    made._hub = hub
    file_id = await made.upload_training_file("phở.jsonl", b"{}")
    job = await made.start_training("smollm2", file_id, idempotency_key="k", suffix="shop", lora={"epochs": 2})
    assert job == {"id": "ftjob-1"}
    body = {"model": "smollm2", "training_file": "file-1", "suffix": "shop", "lora": {"epochs": 2}}
    assert hub.calls == [("upload_file", "phở.jsonl", b"{}", "fine-tune"), ("start_training", body, "k")]
