"""The LLM deployment: Ray Serve LLM's `LLMServer` (vLLM) with plain-dict methods, typed errors and a freeze watchdog."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import ValidationError

from aihub.engines.base import ChatModelCard, PartHealth
from aihub.errors import ContextLengthError, HubError, InvalidRequestError, ModelUnavailableError, NotFoundError
from deployments.vllm_adapter import (
    ChatCompletionRequest,
    CompletionRequest,
    EngineDeadError,
    ErrorResponse,
    LLMServer,
    TokenizeChatRequest,
    TokenizeResponse,
    reset_prefix_cache,
    restore_tokenization,
    unfinished_requests,
)

logger = logging.getLogger("ray.serve")

_SUFFIX = re.compile(r"\s*\(parameter=[^)]*\)\s*$")

SILENCE_LIMIT_S = 30.0
CANARY_TIMEOUT_S = 20.0


class LLMDeployment(LLMServer):  # type: ignore[misc]  # LLMServer is untyped
    """One replica of one local model.

    Requests and answers cross the Serve border as plain JSON values and text frames, so that callers need neither vLLM
    nor its types. `check_health` asks the engine for one token when it has been silent for `SILENCE_LIMIT_S`: a dead
    engine raises at once, a frozen one after `CANARY_TIMEOUT_S`, and Serve replaces the replica.

    Args:
        llm_config: Ray Serve LLM's.
        card: What the model is called and takes.
        defaults: Sampling fields for requests that do not set them.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, llm_config: Any, *, card: ChatModelCard, defaults: dict[str, Any], **bind_kwargs: Any
    ) -> None:
        self._card = card
        self._defaults = defaults
        self._last_progress_s = time.monotonic()
        await super().__init__(llm_config, **bind_kwargs)
        restore_tokenization(self)

    async def card(self) -> ChatModelCard:
        return self._card

    async def health(self) -> PartHealth:
        """Say whether the engine process lives; Serve's own probe does the deeper check."""
        try:
            await super().check_health()
        except Exception as error:  # noqa: BLE001  # vLLM raises several unrelated types here; each means "dead"
            return PartHealth("down", f"the vLLM engine does not answer: {type(error).__name__}")
        return PartHealth("ok")

    async def active_requests(self) -> int:
        """Requests the vLLM engine holds now, waiting ones included."""
        return unfinished_requests(self)

    async def process_ids(self) -> list[int]:
        """Return the process that holds this model; its children belong to it."""
        return [os.getpid()]

    async def set_generation_defaults(self, defaults: dict[str, Any]) -> None:
        """Use other defaults from the next request on."""
        self._defaults = defaults

    async def clear_cache(self) -> bool:
        """Forget cached prompt prefixes; False when requests in flight still hold some."""
        return await reset_prefix_cache(self)

    async def chat_once(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a chat body (`stream` false) with OpenAI's `chat.completion` object."""
        return await self._first_object(await self.chat(_parse(ChatCompletionRequest, self._completed(body))))

    async def complete_once(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a completion body (`stream` false) with OpenAI's `text_completion` object."""
        return await self._first_object(await self.completions(_parse(CompletionRequest, self._completed(body))))

    async def chat_stream(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the server-sent event frames of a chat body (`stream` true)."""
        async for frame in self._frames(await self.chat(_parse(ChatCompletionRequest, self._completed(body)))):
            yield frame

    async def complete_stream(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the server-sent event frames of a completion body (`stream` true)."""
        async for frame in self._frames(await self.completions(_parse(CompletionRequest, self._completed(body)))):
            yield frame

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Count the prompt tokens of a chat body after the model's chat template."""
        request = TokenizeChatRequest(
            model=self._card.model_id, messages=body["messages"], tools=body.get("tools"), add_generation_prompt=True
        )
        async for item in await self.tokenize(request):
            if isinstance(item, TokenizeResponse):
                return int(item.count)
            raise _to_hub_error(item)
        raise ModelUnavailableError("The engine closed without an answer. Try again.")

    async def check_health(self) -> None:
        """Raise when the engine is dead or has stopped producing tokens.

        Raises:
            ModelUnavailableError: No token came for a one-token canary within `CANARY_TIMEOUT_S`.
        """
        await super().check_health()
        if time.monotonic() - self._last_progress_s < SILENCE_LIMIT_S:
            return
        canary = {"model": self._card.model_id, "prompt": "1", "max_tokens": 1, "temperature": 0.0}
        try:
            await asyncio.wait_for(self.complete_once(canary), CANARY_TIMEOUT_S)
        except TimeoutError as error:
            raise ModelUnavailableError(
                f"The engine gave no token in {CANARY_TIMEOUT_S:.0f} s and is taken as frozen."
            ) from error

    def _completed(self, body: dict[str, Any]) -> dict[str, Any]:
        missing = {name: value for name, value in self._defaults.items() if body.get(name) is None}
        if body.get("max_completion_tokens") is not None:
            missing.pop("max_tokens", None)
        return body | missing

    async def _first_object(self, items: AsyncGenerator[Any, None]) -> dict[str, Any]:
        try:
            async for item in items:
                if isinstance(item, ErrorResponse):
                    raise _to_hub_error(item)
                self._last_progress_s = time.monotonic()
                answer: dict[str, Any] = item.model_dump(mode="json", exclude_unset=False)
                return answer
        except EngineDeadError as error:
            raise _engine_died() from error
        raise ModelUnavailableError("The engine closed without an answer. Try again.")

    async def _frames(self, batches: AsyncGenerator[Any, None]) -> AsyncGenerator[str, None]:
        try:
            async for batch in batches:
                if isinstance(batch, ErrorResponse):
                    raise _to_hub_error(batch)
                for item in batch:
                    if isinstance(item, ErrorResponse):
                        raise _to_hub_error(item)
                    self._last_progress_s = time.monotonic()
                    yield item
        except EngineDeadError as error:
            raise _engine_died() from error
        finally:
            await batches.aclose()


def _engine_died() -> ModelUnavailableError:
    return ModelUnavailableError("The model's engine has died; a new one is started. Retry in a minute.", retry_after_s=30)


def _parse(request_type: Any, body: dict[str, Any]) -> Any:
    try:
        return request_type.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequestError(f"The model cannot take this request: {first['msg']}.", param=param) from error


def _to_hub_error(response: Any) -> HubError:
    """Turn vLLM's error value into the hub's error tree by its status code."""
    info = response.error
    # The hub sends `max_completion_tokens` whatever the client called it, and vLLM's suffix repeats the sentence before it.
    message = _SUFFIX.sub("", str(info.message)).replace("max_completion_tokens", "max_tokens")
    param = getattr(info, "param", None)
    param = "max_tokens" if param == "max_completion_tokens" else "messages" if param == "input_tokens" else param
    status = int(info.code or 500)
    if status == 404:
        return NotFoundError(message, code="model_not_found", param="model")
    if 400 <= status < 500:
        too_long = any(words in message for words in ("maximum context length", "max_model_len", "maximum model length"))
        return (ContextLengthError if too_long else InvalidRequestError)(message, param=param)
    logger.error("vLLM answered %s: %s", status, message)
    return ModelUnavailableError("The model could not answer. Try again in a few seconds.")
