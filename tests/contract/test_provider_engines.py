"""Every provider keeps the promises of a `ChatEngine`, and fails as one: on local servers that speak the documented protocols."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from aihub.chat.fake import FakeChatEngine
from aihub.chat.providers.connection import ProviderMetrics
from aihub.chat.providers.failures import ProviderError, ProviderKeyError, ProviderUnavailableError
from aihub.chat.providers.origin import MAX_LINE_BYTES
from aihub.chat.providers.pool import ProviderPool
from aihub.chat.providers.resilience import RetryPolicy
from aihub.chat.providers.settings import (
    KnownModel,
    KnownProvider,
    KnownProviders,
    ProviderName,
    ProviderSettings,
    load_known_providers,
)
from aihub.chat.service import ChatEngine
from aihub.core.errors import EngineTimeoutError, HubError, InvalidRequestError, NotFoundError, RateLimitError
from tests.contract.test_chat_engine import PNG_URL, ChatEngineContract, ImageContract, chat_body, collect, image_body
from tests.provider_servers import Fault, OllamaServer, OpenAIServer, ProviderServer

KEY = "sk-test-0123456789"
QUICK = RetryPolicy(attempts=3, base_delay_s=0.01, max_delay_s=0.02, max_retry_after_s=1.0)
KNOWN_MODEL = KnownModel(name="upstream-model", context_tokens=4096)
SEEING_MODEL = KnownModel(name="seeing-model", context_tokens=4096, types=("chat", "vision"))


def known() -> KnownProviders:
    provider = KnownProvider(default_model="upstream-model", context_tokens=4096, models=(KNOWN_MODEL, SEEING_MODEL))
    retired = provider.model_copy(update={"retired": load_known_providers().github.retired})
    return KnownProviders(local=provider, openai=provider, github=retired, ollama=provider)


class ProviderContract(ChatEngineContract, ImageContract):
    """The suite of all chat engines, and what a provider promises besides."""

    provider: ProviderName
    server_class: type[ProviderServer]

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls) -> Iterator[ProviderServer]:
        server = cls.server_class()
        server.start()
        yield server
        server.stop()

    @pytest.fixture
    def server(self, running: ProviderServer) -> ProviderServer:
        running.reset()
        self._server = running
        return running

    @pytest.fixture
    async def pool(self, server: ProviderServer) -> AsyncIterator[ProviderPool]:
        pool = ProviderPool(self.settings(server.url), known(), ProviderMetrics(), policy=QUICK)
        yield pool
        await pool.close()

    @pytest.fixture
    def engine(self, pool: ProviderPool) -> ChatEngine:
        return pool.engine(self.provider, "upstream-model")

    @pytest.fixture
    def seeing(self, pool: ProviderPool, server: ProviderServer) -> ChatEngine:
        server.engine = FakeChatEngine("upstream-model", token_s=0.003, max_images=4)
        return pool.engine(self.provider, "seeing-model")

    @pytest.fixture
    def blind(self, engine: ChatEngine) -> ChatEngine:
        return engine

    async def test_model_info_says_what_is_known_of_images(self, pool: ProviderPool) -> None:
        infos = [await pool.engine(self.provider, name).model_info() for name in ("upstream-model", "seeing-model", "unheard-of")]
        assert [bool(model_info.max_images) for model_info in infos] == [False, True, True]

    async def active(self, engine: ChatEngine) -> int:
        return self._server.engine.active

    def settings(self, url: str) -> ProviderSettings:
        raise NotImplementedError

    def refused(self, message: str, code: str) -> Any:
        """The protocol's error object."""
        return {"error": {"message": message, "type": code, "param": None, "code": code}}

    async def test_count_tokens_equals_what_chat_reports(self, engine: ChatEngine) -> None:
        """A provider does not count without answering; what is promised is an estimate that is never too small."""
        body = await chat_body(engine, "Thủ đô của Việt Nam là gì?")
        assert await engine.count_tokens(body) >= (await engine.chat(body))["usage"]["prompt_tokens"]

    async def test_answers_name_provider_and_its_model(self, engine: ChatEngine) -> None:
        whole = await engine.chat(await chat_body(engine))
        chunks, _ = await collect(engine.stream_chat(await chat_body(engine, stream=True)))
        assert whole["aihub"] == {"provider": self.provider, "model": "upstream-model"}
        assert chunks[0]["aihub"] == whole["aihub"]
        assert {chunk["model"] for chunk in chunks} == {f"{self.provider}/upstream-model"}

    async def test_vietnamese_text_comes_through_unchanged(self, engine: ChatEngine, server: ProviderServer) -> None:
        text = "Phở bò giá bao nhiêu? 🍜 {{7*7}} %(a)s"
        answer = await engine.chat(await chat_body(engine, text, max_completion_tokens=50))
        assert answer["choices"][0]["message"]["content"] == f"You said: {text}"
        assert server.bodies[-1]["messages"][0]["content"] == text

    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    async def test_passing_failure_is_tried_again(self, engine: ChatEngine, server: ProviderServer, status: int) -> None:
        server.faults += [Fault(status, self.refused("busy", "overloaded")), Fault(status, self.refused("busy", "overloaded"))]
        assert (await engine.chat(await chat_body(engine)))["choices"]
        assert len(server.bodies) == 3

    async def test_stream_is_tried_again_before_its_first_frame(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults += [Fault(500), Fault(cut_after=0)]
        _, last = await collect(engine.stream_chat(await chat_body(engine, stream=True)))
        assert last == "data: [DONE]"
        assert len(server.bodies) == 3

    async def test_lasting_failure_is_unavailable_after_the_last_try(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults += [Fault(500)] * 3
        with pytest.raises(ProviderUnavailableError, match="status 500"):
            await engine.chat(await chat_body(engine))
        assert len(server.bodies) == 3

    async def test_retry_after_is_honoured(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(429, self.refused("slow down", "rate_limit_exceeded"), {"Retry-After": "1"}))
        started_s = asyncio.get_running_loop().time()
        await engine.chat(await chat_body(engine))
        assert asyncio.get_running_loop().time() - started_s >= 1.0

    async def test_long_retry_after_goes_to_the_client(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(429, self.refused("slow down", "rate_limit_exceeded"), {"Retry-After": "77"}))
        with pytest.raises(RateLimitError) as caught:
            await engine.chat(await chat_body(engine))
        assert caught.value.retry_after_s == 77
        assert len(server.bodies) == 1

    async def test_refused_request_is_not_repeated(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(400, self.refused("tham số sai", "invalid_request_error")))
        with pytest.raises(InvalidRequestError, match="tham số sai"):
            await engine.chat(await chat_body(engine))
        assert len(server.bodies) == 1

    async def test_refused_key_is_the_operators_matter_and_is_not_shown(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(401, self.refused(f"Incorrect API key provided: {KEY}", "invalid_api_key")))
        with pytest.raises(ProviderKeyError) as caught:
            await engine.chat(await chat_body(engine))
        assert "sk-" not in caught.value.message
        assert len(server.bodies) == 1

    async def test_cut_stream_ends_with_an_error_frame(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(cut_after=2))
        frames = [frame async for frame in engine.stream_chat(await chat_body(engine, stream=True))]
        events = [event for frame in frames for event in frame.removesuffix("\n\n").split("\n\n")]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "provider_unavailable"
        assert len(server.bodies) == 1, "what has been said is not said twice"

    @pytest.mark.parametrize("raw", [b"<html>Bad gateway</html>", b"", b"[]", b"{}", b'{"choices": [{}]}', b"\xff\xfe{", b"NaN"])
    async def test_garbage_is_no_answer(self, engine: ChatEngine, server: ProviderServer, raw: bytes) -> None:
        server.faults.append(Fault(raw=raw))
        with pytest.raises(ProviderError):
            await engine.chat(await chat_body(engine))
        assert (await engine.chat(await chat_body(engine)))["choices"]

    @pytest.mark.parametrize("raw", [b"data: {garbage\n\n", b"garbage\n", b"", b"\n\n\n", b"data: [DONE]\n\n"])
    async def test_garbage_stream_is_refused_before_its_first_frame(
        self, engine: ChatEngine, server: ProviderServer, raw: bytes
    ) -> None:
        server.faults += [Fault(raw=raw)] * 3
        with pytest.raises(HubError) as caught:
            await anext(engine.stream_chat(await chat_body(engine, stream=True)))
        assert caught.value.status in {502, 503}

    async def test_endless_line_is_given_up(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(raw=b"data: " + b"x" * (MAX_LINE_BYTES + 10)))
        with pytest.raises(ProviderError, match="line"):
            await anext(engine.stream_chat(await chat_body(engine, stream=True)))

    async def test_redirect_is_not_followed_and_the_key_stays(self, engine: ChatEngine, server: ProviderServer) -> None:
        other = self.server_class()
        other.start()
        try:
            server.faults.append(Fault(307, headers={"Location": f"{other.url}/v1/chat/completions"}))
            with pytest.raises(ProviderError, match="redirect"):
                await engine.chat(await chat_body(engine))
            assert other.headers == []
        finally:
            other.stop()

    async def test_slow_provider_times_out_and_is_not_asked_again(self, server: ProviderServer) -> None:
        settings = self.settings(server.url)
        slow = type(settings)(**{name: getattr(settings, name) for name in settings.__slots__} | {"timeout_s": 0.2})
        pool = ProviderPool(slow, known(), ProviderMetrics(), policy=QUICK)
        engine = pool.engine(self.provider, "upstream-model")
        server.faults.append(Fault(delay_s=0.45))
        with pytest.raises(EngineTimeoutError):
            await engine.chat(await chat_body(engine))
        assert len(server.bodies) == 1
        await pool.close()

    async def test_breaker_opens_after_failures_and_says_so_in_health(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults += [Fault(500)] * 10
        for _ in range(2):
            with pytest.raises(ProviderUnavailableError):
                await engine.chat(await chat_body(engine))
        sent = len(server.bodies)
        with pytest.raises(ProviderUnavailableError, match="left alone") as caught:
            await engine.chat(await chat_body(engine))
        assert len(server.bodies) == sent == 5
        assert caught.value.retry_after_s
        assert (await engine.health()).status == "down"


class OpenAIShapedContract(ProviderContract):
    server_class = OpenAIServer

    async def test_error_inside_a_stream_ends_it(self, engine: ChatEngine, server: ProviderServer) -> None:
        said = {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Xin"}}]}
        told = {"error": {"message": "The server had an error", "type": "server_error", "code": None}}
        server.faults.append(Fault(raw=f"data: {json.dumps(said)}\n\ndata: {json.dumps(told)}\n\n".encode()))
        frames = "".join([frame async for frame in engine.stream_chat(await chat_body(engine, stream=True))])
        assert '"content":"Xin"' in frames
        assert '"error"' in frames
        assert frames.endswith("data: [DONE]\n\n")

    async def test_used_up_quota_is_not_tried_again(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(429, self.refused("You exceeded your current quota", "insufficient_quota")))
        with pytest.raises(RateLimitError) as caught:
            await engine.chat(await chat_body(engine))
        assert caught.value.code == "insufficient_quota"
        assert len(server.bodies) == 1

    async def test_half_an_emoji_does_not_break_the_answer(self, engine: ChatEngine, server: ProviderServer) -> None:
        message = {"role": "assistant", "content": "\ud83c"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        server.faults.append(Fault(raw=json.dumps({"id": "c1", "model": "m", "choices": choices}).encode()))
        answer = await engine.chat(await chat_body(engine))
        assert json.dumps(answer, ensure_ascii=False).encode()
        assert answer["usage"]["total_tokens"] == 0

    async def test_chunks_without_choices_are_left_out(self, engine: ChatEngine, server: ProviderServer) -> None:
        filters = {"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": []}
        said = {"id": "c1", "choices": [{"index": 0, "delta": {"content": "Chào"}, "finish_reason": "stop"}], "usage": None}
        raw = f": ping\n\ndata: {json.dumps(filters)}\n\ndata:{json.dumps(said)}\n\ndata: [DONE]\n\n"
        server.faults.append(Fault(raw=raw.encode()))
        chunks, _ = await collect(engine.stream_chat(await chat_body(engine, stream=True)))
        assert len(chunks) == 1

    async def test_images_are_sent_in_openais_shape(self, seeing: ChatEngine, server: ProviderServer) -> None:
        await seeing.chat(await image_body(seeing, images=2))
        image = {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "auto"}}
        content = [image, image, {"type": "text", "text": "Màu gì?"}]
        assert server.bodies[-1]["messages"] == [{"role": "user", "content": content}]


class TestOpenAI(OpenAIShapedContract):
    provider = "openai"

    def settings(self, url: str) -> ProviderSettings:
        return ProviderSettings(openai_base_url=f"{url}/v1", openai_api_key=SecretStr(KEY), timeout_s=5.0)

    async def test_key_goes_to_the_configured_origin(self, engine: ChatEngine, server: ProviderServer) -> None:
        await engine.chat(await chat_body(engine))
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"

    async def test_engine_extras_are_left_out(self, engine: ChatEngine, server: ProviderServer) -> None:
        await engine.chat(await chat_body(engine, top_k=5, min_p=0.1, ignore_eos=True, seed=3))
        sent = server.bodies[-1]
        assert not {"top_k", "min_p", "ignore_eos"} & sent.keys()
        assert sent["seed"] == 3
        assert sent["model"] == "upstream-model"

    async def test_missing_model_is_not_found(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(404, self.refused("The model `x` does not exist", "model_not_found")))
        with pytest.raises(NotFoundError):
            await engine.chat(await chat_body(engine))

    async def test_several_prompts_are_refused_by_name(self, engine: ChatEngine) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            await engine.complete({"prompt": ["một", "hai"], "max_tokens": 4})
        assert caught.value.param == "prompt"


class TestCompatibleServer(OpenAIShapedContract):
    provider = "local"

    def settings(self, url: str) -> ProviderSettings:
        return ProviderSettings(local_api_url=f"{url}/v1", timeout_s=5.0)

    async def test_no_key_is_sent_where_none_is_configured(self, engine: ChatEngine, server: ProviderServer) -> None:
        await engine.chat(await chat_body(engine))
        assert "authorization" not in server.headers[-1]

    async def test_limit_goes_by_its_older_name(self, engine: ChatEngine, server: ProviderServer) -> None:
        await engine.chat(await chat_body(engine, max_completion_tokens=3, top_k=5))
        assert server.bodies[-1]["max_tokens"] == 3
        assert server.bodies[-1]["top_k"] == 5


class TestGitHubModels(OpenAIShapedContract):
    provider = "github"

    def settings(self, url: str) -> ProviderSettings:
        return ProviderSettings(github_base_url=f"{url}/v1", github_api_key=SecretStr(KEY), timeout_s=5.0)

    @pytest.mark.parametrize("status", [404, 410])
    async def test_gone_service_names_alternatives(self, engine: ChatEngine, server: ProviderServer, status: int) -> None:
        server.faults.append(Fault(status, raw=b"<html>Gone</html>"))
        with pytest.raises(HubError) as caught:
            await engine.chat(await chat_body(engine))
        assert (caught.value.code, caught.value.status) == ("provider_retired", 410)
        assert f"'github' answers {status}: GitHub Models was retired" in caught.value.message
        assert "openai/gpt-4o-mini" in caught.value.message
        assert len(server.bodies) == 1


class TestOllama(ProviderContract):
    provider = "ollama"
    server_class = OllamaServer

    def settings(self, url: str) -> ProviderSettings:
        return ProviderSettings(ollama_url=url, timeout_s=5.0)

    def refused(self, message: str, code: str) -> Any:
        return {"error": message}

    async def test_prompt_is_never_cut_in_silence(self, engine: ChatEngine, server: ProviderServer) -> None:
        await engine.chat(await chat_body(engine))
        assert server.bodies[-1]["truncate"] is False
        assert server.bodies[-1]["options"]["num_ctx"] == 4096

    async def test_what_only_the_native_protocol_can_say_is_sent(self, engine: ChatEngine, server: ProviderServer) -> None:
        await engine.chat(await chat_body(engine, top_k=5, min_p=0.1, repetition_penalty=1.1))
        said = {"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "num_ctx": 4096}
        assert said.items() <= server.bodies[-1]["options"].items()
        assert (server.bodies[-1]["truncate"], server.bodies[-1]["shift"]) == (False, False)
        await engine.complete({"model": "any", "prompt": "Xin chào", "max_tokens": 3})
        assert (server.bodies[-1]["raw"], server.bodies[-1]["prompt"]) == (True, "Xin chào")

    async def test_images_are_sent_as_bare_base64_beside_the_text(self, seeing: ChatEngine, server: ProviderServer) -> None:
        await seeing.chat(await image_body(seeing, images=2))
        [message] = server.bodies[-1]["messages"]
        data = PNG_URL.partition(",")[2]
        assert message == {"role": "user", "content": "Màu gì?", "images": [data, data]}

    async def test_missing_model_names_the_command_that_gets_it(self, engine: ChatEngine, server: ProviderServer) -> None:
        server.faults.append(Fault(404, {"error": "model 'gemma2:9b' not found"}))
        with pytest.raises(NotFoundError, match="aihub models download"):
            await engine.chat(await chat_body(engine))

    async def test_tool_call_has_openais_shape_streamed_or_not(self, engine: ChatEngine, server: OllamaServer) -> None:
        server.tool_call = {"name": "tra_gia", "arguments": {"món": "phở bò"}}
        tool = {"type": "function", "function": {"name": "tra_gia", "parameters": {"type": "object"}}}
        body = await chat_body(engine, tools=[tool], tool_choice="auto")
        whole = await engine.chat(body)
        chunks, _ = await collect(engine.stream_chat(body | {"stream": True}))
        [call] = whole["choices"][0]["message"]["tool_calls"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        [streamed] = [item for delta in deltas for item in delta.get("tool_calls", ())]
        assert json.loads(call["function"]["arguments"]) == {"món": "phở bò"}
        assert streamed["function"] == call["function"]
        assert streamed["index"] == 0
        assert whole["choices"][0]["finish_reason"] == "tool_calls"
        assert server.bodies[-1]["tools"] == [tool]

    async def test_tool_results_carry_the_tools_name(self, engine: ChatEngine, server: ProviderServer) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "tra_gia", "arguments": '{"món": "phở"}'}}
        messages = [
            {"role": "user", "content": "Giá phở?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "65 nghìn"},
        ]
        await engine.chat(await chat_body(engine) | {"messages": messages})
        sent = server.bodies[-1]["messages"]
        assert sent[1]["tool_calls"][0]["function"]["arguments"] == {"món": "phở"}
        assert sent[2]["tool_name"] == "tra_gia"

    @pytest.mark.parametrize("field", [{"logit_bias": {"1": 5}}, {"logprobs": True}, {"tool_choice": "required"}])
    async def test_what_ollama_cannot_do_is_refused_by_name(self, engine: ChatEngine, field: dict[str, Any]) -> None:
        tool = {"type": "function", "function": {"name": "f"}}
        with pytest.raises(InvalidRequestError) as caught:
            await engine.chat(await chat_body(engine, tools=[tool], **field))
        assert caught.value.param == next(iter(field))

    async def test_each_prompt_and_choice_gets_its_text(self, engine: ChatEngine) -> None:
        answer = await engine.complete({"prompt": ["một", "hai"], "max_tokens": 8, "n": 2})
        assert [choice["text"] for choice in answer["choices"]] == ["You said: một"] * 2 + ["You said: hai"] * 2

    async def test_error_line_ends_the_stream(self, engine: ChatEngine, server: ProviderServer) -> None:
        said = {"model": "m", "message": {"role": "assistant", "content": "Xin"}, "done": False}
        server.faults.append(Fault(raw=f'{json.dumps(said)}\n{{"error": "llama runner process has terminated"}}\n'.encode()))
        frames = "".join([frame async for frame in engine.stream_chat(await chat_body(engine, stream=True))])
        assert '"content":"Xin"' in frames
        assert '"error"' in frames

    async def test_installed_models_are_listed(self, pool: ProviderPool) -> None:
        assert [model_info.model_id for model_info in await pool.models()] == ["ollama/gemma2:9b", "ollama/upstream-model"]

    async def test_installed_models_that_nothing_is_known_of_are_not_named_as_seeing(self, pool: ProviderPool) -> None:
        assert not any(model_info.max_images for model_info in await pool.models())
        assert (await pool.engine("ollama", "gemma2:9b").model_info()).max_images
