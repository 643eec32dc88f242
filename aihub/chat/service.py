"""Chat as the rest of the hub sees it: the service behind the routes, and the engine that pipelines ask.

Providers' engines, Serve handles (`deployments/local_engine.py`) and the fake (`aihub/chat/fake.py`) satisfy `ChatEngine`: one
suite runs on the fake and the providers in `tests/contract`, on vLLM over a handle in `tests/serve/test_engine_contract.py`.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from aihub.core.health import PartHealth
from aihub.core.limits import IMAGE_PIXELS, LOW_DETAIL_PIXELS
from aihub.core.principal import Principal

if TYPE_CHECKING:
    from aihub.chat.completions import CompletionRequest
    from aihub.chat.schemas import ChatCompletionRequest


OWNER = "aihub"
"""Owner of the models of this cluster."""


@dataclass(frozen=True, slots=True)
class ChatModelInfo:
    """What a pipeline must know of a chat model.

    Attributes:
        model_id: The name clients send in `model`.
        context_tokens: Prompt plus answer, in the model's tokens.
        created: Unix seconds.
        special_tokens: Tokens of its vocabulary that steer the model; neutralised in text from outside.
        max_images: Images one request may hold; 0 for a model that reads text only.
    """

    model_id: str
    context_tokens: int
    created: int
    owned_by: str = OWNER
    special_tokens: tuple[str, ...] = ()
    max_images: int = 0


class ChatEngine(Protocol):
    """One chat model that can be asked now.

    `body` is an OpenAI chat completion (or completion) request as plain JSON values, already validated and bounded.
    Streams yield finished server-sent event text: one or more `data: {...}` frames, each ended by a blank line, the last
    `data: [DONE]`. Every method raises `HubError` children only; a stream raises before its first item or ends with an
    error frame. Closing a stream (`aclose`) stops the engine within a second.
    """

    async def model_info(self) -> ChatModelInfo: ...

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]: ...

    def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]: ...

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]: ...

    def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]: ...

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Prompt tokens of a chat body (`messages` and `tools`) after the chat template."""
        ...

    async def health(self) -> PartHealth: ...


@runtime_checkable
class HeldEngine(Protocol):
    """A chat engine, found for one request, that keeps count of its requests."""

    def hold(self) -> AbstractContextManager[None]: ...


def hold(engine: ChatEngine) -> AbstractContextManager[None]:
    """Count a request as in flight at its engine until the context ends, whatever it asks the engine meanwhile, or nothing yet.

    Engines that keep no count are as they are.

    Raises:
        OverloadedError: On entering, when the engine holds as many requests as it may.
    """
    return engine.hold() if isinstance(engine, HeldEngine) else nullcontext()


@runtime_checkable
class ChoosingEngine(Protocol):
    """A chat engine that asks one model of several."""

    async def choose(self, images: int) -> ChatModelInfo:
        """Return the model that a request with so many images goes to."""
        ...


async def model_info_for(engine: ChatEngine, images: int) -> ChatModelInfo:
    """Return the model that a request with so many images goes to; it need not take them."""
    return await (engine.choose(images) if isinstance(engine, ChoosingEngine) else engine.model_info())


class ChatService(Protocol):
    """Answers by a chat model, with or without retrieval.

    Plain calls return OpenAI's response object as JSON values. Streams return finished server-sent event text, the last
    frame being `data: [DONE]`; awaiting `open_*` raises every error that can be known before the first byte, and
    closing the generator (`aclose`) stops the engine.
    """

    async def chat(self, principal: Principal, request: "ChatCompletionRequest") -> dict[str, Any]: ...

    async def open_chat_stream(self, principal: Principal, request: "ChatCompletionRequest") -> AsyncGenerator[str, None]: ...

    async def complete(self, principal: Principal, request: "CompletionRequest") -> dict[str, Any]: ...

    async def open_complete_stream(self, principal: Principal, request: "CompletionRequest") -> AsyncGenerator[str, None]: ...

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """Chat models that the caller may ask, as OpenAI model objects (`id`, `object`, `created`, `owned_by`)."""
        ...


# Tokenizers of 100,000 words and more take about 4 bytes of English and 3.5 of Vietnamese per token; 3 leaves room for names,
# numbers and code. Each message costs its role and separators.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_REPLY = 3

# Vision models make one token of 28 by 28 pixels or more; some add a token per row and a frame of two.
_PIXELS_PER_TOKEN = 28 * 28
_IMAGE_TOKENS = {
    is_low: pixels // _PIXELS_PER_TOKEN + 64 for is_low, pixels in ((False, IMAGE_PIXELS), (True, LOW_DETAIL_PIXELS))
}


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """Return an estimate of a chat body's prompt tokens; with a large vocabulary it errs on the large side.

    A word counts as a token at least, an image as the most that its detail allows, whatever its data.
    """
    messages = body.get("messages") or ()
    total = _TOKENS_PER_REPLY + sum(_TOKENS_PER_MESSAGE + _text_tokens(_text_of(message)) for message in messages)
    total += sum(_IMAGE_TOKENS[image.get("detail") == "low"] for image in images_of(body))
    if tools := body.get("tools"):
        total += _text_tokens(json.dumps(tools, ensure_ascii=False))
    return total


def images_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the images of a chat body in order: objects of `url` and `detail`."""
    return [
        part.get("image_url") or {}
        for message in body.get("messages") or ()
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def text_of(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """Return the text of a message's content in a chat body, its text parts joined with newlines."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _text_of(message: Mapping[str, Any]) -> str:
    text = text_of(message.get("content"))
    calls = message.get("tool_calls")
    return f"{text} {json.dumps(calls, ensure_ascii=False)}" if calls else text


def _text_tokens(text: str) -> int:
    by_size = -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
    return max(by_size, len(text.split()))
