"""Models behind OpenAI's API: OpenAI itself, and servers that speak like it (vLLM, llama.cpp, LM Studio, GitHub Models, ...).

Source: OpenAI API reference, chat completions and completions.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from aihub.chat.providers.connection import DONE, ProviderConnection, data_frame, error_frame, read_events
from aihub.chat.providers.failures import ProviderError
from aihub.chat.service import ChatModelInfo, estimate_tokens
from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.health import PartHealth
from aihub.core.request_record import get_record

_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where servers of this API differ.

    Attributes:
        left_out: Sampling fields the server refuses as unknown; they are hints, and are left out.
        limit_field: Name of the answer's token limit in a chat body.
        completes_by_chat: Whether the models only chat: a completion then asks its prompt as a user message.
        tells_usage: Whether each stream may be asked for its usage; elsewhere only one whose client asks for it.
    """

    left_out: frozenset[str] = frozenset()
    limit_field: str = "max_completion_tokens"
    completes_by_chat: bool = False
    tells_usage: bool = False


OPENAI = Dialect(
    left_out=frozenset({"ignore_eos", "min_p", "min_tokens", "repetition_penalty", "top_k"}),
    completes_by_chat=True,
    tells_usage=True,
)
GITHUB = replace(OPENAI, limit_field="max_tokens")
COMPATIBLE = Dialect(limit_field="max_tokens")


class OpenAICompatibleEngine:
    """One model of one such server; satisfies `ChatEngine`.

    Args:
        model: The name the provider knows it by; answers carry the model info's.
    """

    def __init__(
        self, connection: ProviderConnection, model: str, model_info: ChatModelInfo, dialect: Dialect = COMPATIBLE
    ) -> None:
        self._connection = connection
        self._model = model
        self._model_info = model_info
        self._dialect = dialect

    async def model_info(self) -> ChatModelInfo:
        return self._model_info

    async def health(self) -> PartHealth:
        return self._connection.health

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Estimate on the large side; see `estimate_tokens`."""
        return estimate_tokens(body)

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._connection.ask("/chat/completions", self._chat_body(body, stream=False), self._check_chat)
        return self._named(answer, "chat.completion")

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._dialect.completes_by_chat:
            return _completion_of(await self.chat(_chat_of(body)))
        answer = await self._connection.ask("/completions", self._body(body, stream=False), self._check_completion)
        return self._named(answer, "text_completion")

    def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._frames("/chat/completions", self._chat_body(body, stream=True), "chat.completion.chunk")

    async def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        if self._dialect.completes_by_chat:
            chat = self._chat_body(_chat_of(body), stream=True)
            frames = self._frames("/chat/completions", chat, "text_completion")
        else:
            frames = self._frames("/completions", self._body(body, stream=True), "text_completion")
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    def _chat_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        sent = self._body(body, stream=stream)
        limit = sent.pop("max_completion_tokens", None)
        if limit is not None:
            sent[self._dialect.limit_field] = limit
        return sent

    def _body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        sent = {key: value for key, value in body.items() if key not in self._dialect.left_out}
        return sent | {"model": self._model, "stream": stream}

    async def _frames(self, path: str, body: dict[str, Any], kind: str) -> AsyncGenerator[str, None]:
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        has_begun = False
        if self._dialect.tells_usage:
            body = body | {"stream_options": {"include_usage": True}}
        chunks = self._connection.stream(path, body, read_events)
        async with aclosing(chunks):
            try:
                async for chunk in chunks:
                    if isinstance(usage := chunk.get("usage"), dict):
                        get_record().note_usage(usage)
                    if not _is_told(chunk, wants_usage=wants_usage):
                        continue
                    named = self._named(chunk, kind) if not has_begun else chunk | self._head(kind)
                    yield data_frame(_text_chunk(named) if kind == "text_completion" else named)
                    has_begun = True
            except HubError as error:
                if not has_begun:
                    raise
                yield error_frame(error)
                return
        if not has_begun:
            raise ProviderError(f"The provider {self._connection.provider!r} streamed nothing. Try again.")
        yield DONE

    def _head(self, kind: str) -> dict[str, Any]:
        return {"object": kind, "model": self._model_info.model_id}

    def _named(self, answer: dict[str, Any], kind: str) -> dict[str, Any]:
        """Return the answer under the hub's name for the model, with the provider's beside it."""
        origin = {"provider": self._connection.provider, "model": str(answer.get("model") or self._model)}
        return answer | self._head(kind) | {"aihub": origin}

    def _check_chat(self, answer: dict[str, Any]) -> None:
        self._check(answer, "message", dict)

    def _check_completion(self, answer: dict[str, Any]) -> None:
        self._check(answer, "text", str)

    def _check(self, answer: dict[str, Any], field: str, kind: type) -> None:
        choices = answer.get("choices")
        is_answer = isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices)
        if not is_answer or not all(isinstance(choice.get(field), kind) for choice in answer["choices"]):
            raise ProviderError(f"The provider {self._connection.provider!r} sent JSON that is no answer of OpenAI's API.")
        if not isinstance(answer.get("usage"), dict):
            answer["usage"] = dict(_NO_USAGE)


def _is_told(chunk: dict[str, Any], *, wants_usage: bool) -> bool:
    """Whether the client gets a chunk; usage nobody asked for is taken out of it."""
    if not isinstance(chunk.get("choices"), list):
        return False
    if wants_usage and chunk.get("usage"):
        return True
    chunk.pop("usage", None)
    # Some servers begin with a chunk that has no choices, which here means the end.
    return bool(chunk["choices"])


def _chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the chat body that asks for a completion of one text prompt.

    Raises:
        InvalidRequestError: Several prompts, or token ids.
    """
    prompt = body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequestError("This model takes one prompt of text per request; send one string.", param="prompt")
    if body.get("logprobs") is not None:
        raise InvalidRequestError(
            "This model gives 'logprobs' in chat only; use /v1/chat/completions.", param="logprobs", code="unsupported_parameter"
        )
    chat = {key: value for key, value in body.items() if key not in {"prompt", "max_tokens", "logprobs"}}
    if body.get("max_tokens") is not None:
        chat["max_completion_tokens"] = body["max_tokens"]
    return chat | {"messages": [{"role": "user", "content": prompt}]}


def _completion_of(answer: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {
            "index": choice.get("index", 0),
            "text": choice["message"].get("content") or "",
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in answer["choices"]
    ]
    return answer | {"object": "text_completion", "choices": choices}


def _text_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk of a completion, also when it is one of a chat."""
    choices = [
        {
            "index": choice.get("index", 0),
            "text": choice["delta"].get("content") or "",
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
        }
        if isinstance(choice.get("delta"), dict)
        else choice
        for choice in chunk["choices"]
    ]
    return chunk | {"choices": choices}
