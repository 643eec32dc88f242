"""The LLM deployment: Ray Serve LLM's `LLMServer` (vLLM) with plain-dict methods, typed errors and a freeze watchdog."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.concurrency import raise_if_cancelled
from aihub.core.errors import ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.models.memory.generation_defaults import with_room_for_minimum
from deployments.cancellation import quiet_refusals
from deployments.engine_adapters import adapters_of
from deployments.engine_start import EngineOptions, start_engine
from deployments.engine_state import EngineSleep
from deployments.engine_work import read_scheduled_tokens
from deployments.llm_images import check_parts, warm_up_image
from deployments.llm_messages import chat_request, completion_request, engine_died, hub_error, several_greedy
from deployments.metering import metered, new_meter

if TYPE_CHECKING:
    from deployments.vllm_compat import LLMServer

logger = logging.getLogger("ray.serve")

SILENCE_LIMIT_S = 30.0
CANARY_TIMEOUT_S = 20.0
WARM_UP_TOKENS = 4


@metered(ChatEngine)
class LLMDeployment(ChatEngine):
    """One replica of one local model.

    Requests and answers cross the Serve border as plain JSON values and text frames, so that callers need neither vLLM
    nor its types; this module imports it in the replica alone. `check_health` asks the engine for one token when it has
    been silent for `SILENCE_LIMIT_S`: a dead engine raises at once, a frozen one after `CANARY_TIMEOUT_S`, and Serve
    replaces the replica. A sleeping engine would queue requests silently: it is asked for nothing, and requests are refused.

    Args:
        engine: How to start the engine.
        model_info: What the model is called and takes.
        defaults: Sampling fields for requests that do not set them, see `GenerationDefaultsInForce`.

    Raises:
        EngineStartError: The engine did not start; the message is the innermost cause.
    """

    async def __init__(self, engine: EngineOptions, *, model_info: ChatModelInfo, defaults: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        quiet_refusals()
        os.environ.update(engine.environment)
        self._model_info = model_info
        self._defaults = defaults
        self._last_progress_s = time.monotonic()
        self._sleep = EngineSleep(self._put_engine_to_sleep, self._wake_engine)
        self._server = await self._start_engine(engine)
        self.meter = new_meter(engine.device, read_work=partial(read_scheduled_tokens, self._server))
        self._adapters = adapters_of(
            self._server, model_info.model_id, engine.home, engine.arguments.get("lora_target_modules", ())
        )
        await self.set_generation_defaults(defaults)
        await self._warm_up()

    async def model_info(self) -> ChatModelInfo:
        return self._model_info

    async def health(self) -> PartHealth:
        """Say whether the engine process lives; Serve's own probe does the deeper check."""
        try:
            await self._server.check_health()
        except Exception as error:  # noqa: BLE001  # vLLM raises several unrelated types here; each means "dead"
            return PartHealth("down", f"the vLLM engine does not answer: {type(error).__name__}")
        return PartHealth("ok")

    async def active_requests(self) -> int:
        """Requests the vLLM engine holds now, waiting ones included."""
        from deployments.vllm_compat import unfinished_requests

        return unfinished_requests(self._server)

    async def process_ids(self) -> list[int]:
        """Return the processes that hold this model: the replica and the engine's workers, wherever they run."""
        from deployments.vllm_compat import worker_process_ids

        return [os.getpid(), *await worker_process_ids(self._server)]

    async def device_bytes(self) -> int:
        """Bytes of the card the engine's workers know they hold, for machines whose driver names no processes."""
        from deployments.vllm_compat import device_bytes

        return await device_bytes(self._server)

    async def sleep(self) -> None:
        """Put the engine to sleep: weights to RAM, KV cache freed. The caller has drained it; what is inside ends first."""
        await self._sleep.sleep()

    async def wake(self) -> None:
        """Bring the weights back; requests are taken again afterwards. Raises as `EngineSleep.wake`."""
        await self._sleep.wake()
        self._last_progress_s = time.monotonic()

    async def is_sleeping(self) -> bool:
        """Say whether the engine sleeps, after a change under way has ended."""
        return await self._sleep.is_sleeping()

    async def absent_cache_bytes(self) -> int:
        """Bytes of RAM the KV cache will take and has not yet."""
        from deployments.vllm_compat import absent_cache_bytes

        return await absent_cache_bytes(self._server)

    async def set_generation_defaults(self, defaults: dict[str, Any]) -> None:
        """Use other defaults from the next request on."""
        from deployments.vllm_compat import set_default_sampling

        self._defaults = defaults
        set_default_sampling(self._server, defaults)

    async def clear_cache(self) -> bool:
        """Forget cached prompt prefixes; False when requests in flight still hold some."""
        from deployments.vllm_compat import reset_prefix_cache

        return await reset_prefix_cache(self._server)

    async def load_adapter(self, adapter_id: str, path: str) -> None:
        """Load a LoRA adapter from a folder, published or not; bodies name it in `model`. Raises as `EngineAdapters.add`."""
        self._sleep.require_awake()
        await self._adapters.add(adapter_id, path)

    async def remove_adapter(self, adapter_id: str) -> None:
        """Refuse requests for an adapter from now on; return when those under way have ended."""
        await self._adapters.remove(adapter_id)

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a chat body (`stream` false) with OpenAI's `chat.completion` object."""
        completed = self._completed(await check_parts(body, self._model_info.max_images))
        async with self._adapters.use(body.get("model")):
            return await self._first_object(await self._server.chat(chat_request(completed)))

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a completion body (`stream` false) with OpenAI's `text_completion` object."""
        completed = self._completed(body)
        async with self._adapters.use(body.get("model")):
            return await self._first_object(await self._server.completions(completion_request(completed)))

    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the server-sent event frames of a chat body (`stream` true)."""
        completed = self._completed(await check_parts(body, self._model_info.max_images))
        async with (
            self._adapters.use(body.get("model")),
            aclosing(self._frames(await self._server.chat(chat_request(completed)))) as frames,
        ):
            async for frame in frames:
                yield frame

    async def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the server-sent event frames of a completion body (`stream` true)."""
        completed = self._completed(body)
        async with (
            self._adapters.use(body.get("model")),
            aclosing(self._frames(await self._server.completions(completion_request(completed)))) as frames,
        ):
            async for frame in frames:
                yield frame

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Count the prompt tokens of a chat body after the model's chat template, those of its images among them."""
        from deployments.vllm_compat import TokenizeChatRequest, TokenizeResponse

        checked = await check_parts(body, self._model_info.max_images)
        request = TokenizeChatRequest(
            model=self._model_info.model_id, messages=checked["messages"], tools=body.get("tools"), add_generation_prompt=True
        )
        async for item in await self._server.tokenize(request):
            if isinstance(item, TokenizeResponse):
                return int(item.count)
            raise hub_error(item)
        raise ModelUnavailableError("The engine closed without an answer. Try again.")

    async def check_health(self) -> None:
        """Raise when the engine is dead or has stopped producing tokens.

        Raises:
            ModelUnavailableError: No token came for a one-token canary within `CANARY_TIMEOUT_S`.
        """
        await self._server.check_health()
        if time.monotonic() - self._last_progress_s >= SILENCE_LIMIT_S:
            await self._sleep.check_awake(self._send_canary)

    async def _send_canary(self) -> None:
        canary = {"model": self._model_info.model_id, "prompt": "1", "max_tokens": 1, "temperature": 0.0}
        try:
            await asyncio.wait_for(self.complete(canary), CANARY_TIMEOUT_S)
        except TimeoutError as error:
            raise ModelUnavailableError(f"The engine gave no token in {CANARY_TIMEOUT_S:.0f} s: it is frozen.") from error

    async def _start_engine(self, engine: EngineOptions) -> "LLMServer":
        return await start_engine(engine, self._model_info.model_id)

    async def _put_engine_to_sleep(self) -> None:
        from deployments.vllm_compat import put_engine_to_sleep

        await put_engine_to_sleep(self._server)

    async def _wake_engine(self) -> bool:
        from deployments.vllm_compat import wake_engine

        return await wake_engine(self._server)

    async def _warm_up(self) -> None:
        """Answer with each kind of sampling once, so that its kernels are compiled before somebody waits for them."""
        body = {"model": self._model_info.model_id, "prompt": "1", "max_tokens": WARM_UP_TOKENS, "ignore_eos": True}
        kinds: list[dict[str, Any]] = [
            {"temperature": 0.0},
            {"temperature": 0.7, "top_p": 0.9, "top_k": 50},
            {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.1, "logprobs": 1},
        ]
        await asyncio.gather(*(self.complete(body | kind) for kind in kinds))
        content: Any = [warm_up_image(), {"type": "text", "text": "1"}] if self._model_info.max_images else "1"
        chat = {"model": self._model_info.model_id, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        async for _ in self.stream_chat(chat | {"stream": True}):
            pass
        await read_scheduled_tokens(self._server)  # counting begins

    def _completed(self, body: dict[str, Any]) -> dict[str, Any]:
        self._sleep.require_awake()
        return several_greedy(with_room_for_minimum(body, self._defaults), self._defaults)

    async def _first_object(self, items: AsyncGenerator[Any, None]) -> dict[str, Any]:
        from deployments.vllm_compat import EngineDeadError, ErrorResponse

        try:
            async for item in items:
                if isinstance(item, ErrorResponse):
                    raise_if_cancelled()  # vLLM answers "Client disconnected" instead
                    raise hub_error(item)
                self._last_progress_s = time.monotonic()
                answer: dict[str, Any] = item.model_dump(mode="json", exclude_unset=False)
                return answer
        except EngineDeadError as error:
            raise engine_died() from error
        raise ModelUnavailableError("The engine closed without an answer. Try again.")

    async def _frames(self, batches: AsyncGenerator[Any, None]) -> AsyncGenerator[str, None]:
        from deployments.vllm_compat import EngineDeadError, ErrorResponse

        try:
            async for batch in batches:
                if isinstance(batch, ErrorResponse):
                    raise hub_error(batch)
                for item in batch:
                    if isinstance(item, ErrorResponse):
                        raise hub_error(item)
                    self._last_progress_s = time.monotonic()
                    yield item
        except EngineDeadError as error:
            raise engine_died() from error
        finally:
            await batches.aclose()
