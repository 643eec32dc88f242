"""A chat engine without a model: deterministic answers in exactly the shapes vLLM sends. For tests and local runs."""

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aihub.chat.service import ChatModelInfo, images_of, text_of
from aihub.core.errors import ContextLengthError, HubError, InvalidRequestError
from aihub.core.health import PartHealth

_TOKEN = re.compile(r"\s*\S+|\s+")
_KEPT_BODIES = 100
_CREATED = 1_700_000_000

IMAGE_TOKENS = 10


def echo(prompt: str) -> str:
    """The default answer: the last words the user said."""
    return f"You said: {prompt}"


class FakeChatEngine:
    """Satisfies `ChatEngine`; a token is one word with the space before it.

    Args:
        answer: Makes the text of an answer from the last user message (or the prompt).
        first_token_s: Delay before the first token.
        token_s: Delay before each further token.
        special_tokens: What the model info names as the model's own.
        max_images: Images one request may hold; each costs `IMAGE_TOKENS`.

    Attributes:
        active: Requests being answered now; back to 0 when every client has got its answer or left.
        bodies: The bodies received, newest last.
        error: Raised by every call while set.
        part_health: What `health` says.
    """

    def __init__(
        self,
        model_id: str = "fake-chat",
        *,
        context_tokens: int = 4096,
        answer: Callable[[str], str] = echo,
        first_token_s: float = 0.0,
        token_s: float = 0.0,
        special_tokens: tuple[str, ...] = (),
        max_images: int = 0,
    ) -> None:
        self._model_info = ChatModelInfo(
            model_id=model_id,
            context_tokens=context_tokens,
            created=_CREATED,
            special_tokens=special_tokens,
            max_images=max_images,
        )
        self._answer = answer
        self._first_token_s = first_token_s
        self._token_s = token_s
        self._requests = 0
        self.active = 0
        self.bodies: deque[dict[str, Any]] = deque(maxlen=_KEPT_BODIES)
        self.error: HubError | None = None
        self.part_health = PartHealth("ok")

    async def model_info(self) -> ChatModelInfo:
        return self._model_info

    async def health(self) -> PartHealth:
        return self.part_health

    async def count_tokens(self, body: dict[str, Any]) -> int:
        return sum(len(_tokens(text_of(message["content"]))) for message in body["messages"]) + _image_tokens(body)

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._request(body) as run:
            await run.wait_for_all()
            choices = [run.chat_choice(index) for index in range(run.choices)]
            return run.envelope("chat.completion") | {"choices": choices, "usage": run.usage()}

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._request(body) as run:
            await run.wait_for_all()
            choices = [run.text_choice(index) for index in range(run.choices)]
            return run.envelope("text_completion") | {"choices": choices, "usage": run.usage()}

    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        with self._request(body) as run:
            async for choice in run.chat_deltas():
                yield run.frame("chat.completion.chunk", [choice])
            for frame in run.ending("chat.completion.chunk"):
                yield frame

    async def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        with self._request(body) as run:
            async for index, token in run.ticks():
                yield run.frame("text_completion", [run.text_choice(index, token)])
            for frame in run.ending("text_completion"):
                yield frame

    @contextmanager
    def _request(self, body: dict[str, Any]) -> Iterator["_Run"]:
        if self.error is not None:
            raise self.error
        self.bodies.append(body)
        self._requests += 1
        run = _Run(body, self._requests, self._answer, self._model_info, (self._first_token_s, self._token_s))
        self.active += 1
        try:
            yield run
        finally:
            self.active -= 1


class _Run:
    """One request: its tokens and the pieces of its answer."""

    def __init__(
        self,
        body: dict[str, Any],
        number: int,
        answer: Callable[[str], str],
        model_info: ChatModelInfo,
        delays_s: tuple[float, float],
    ) -> None:
        self._first_token_s, self._token_s = delays_s
        self._model_info = model_info
        self._body = body
        self._number = number
        self._prompt_tokens = len(_tokens(_all_text(body))) + _image_tokens(body)
        _require_few_images(body, model_info)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if self._prompt_tokens + (limit or 1) > model_info.context_tokens:
            raise ContextLengthError(
                f"This model's maximum context length is {model_info.context_tokens} tokens; the request needs "
                f"{self._prompt_tokens + (limit or 1)}. Shorten the messages or ask for fewer tokens.",
                param="messages" if "messages" in body else "prompt",
            )
        self.choices = int(body.get("n") or 1)
        self.tool_name = _forced_tool(body)
        text = _before_stop(answer(_last_text(body)), body.get("stop"))
        tokens = _tokens(text)
        limit = min(limit or model_info.context_tokens, model_info.context_tokens - self._prompt_tokens)
        self._is_cut = len(tokens) > limit
        self._answer_tokens = tokens[:limit]
        self._text = "".join(self._answer_tokens)

    async def wait_for_all(self) -> None:
        await asyncio.sleep(self._first_token_s + self._token_s * max(len(self._answer_tokens) - 1, 0))

    async def ticks(self) -> AsyncGenerator[tuple[int, str], None]:
        """Yield (choice, token) at the engine's pace."""
        for position, token in enumerate(self._answer_tokens):
            await asyncio.sleep(self._token_s if position else self._first_token_s)
            for index in range(self.choices):
                yield index, token

    async def chat_deltas(self) -> AsyncGenerator[dict[str, Any], None]:
        begun: set[int] = set()
        async for index, token in self.ticks():
            if index not in begun:
                begun.add(index)
                yield _delta(index, {"role": "assistant", "content": ""})
                if self.tool_name:
                    yield _delta(index, {"tool_calls": [{"index": 0, **self._tool_call()}]})
            if not self.tool_name:
                yield _delta(index, {"content": token})
        for index in range(self.choices):
            yield _delta(index, {"content": ""}) | {"finish_reason": self._finish_reason()}

    def ending(self, kind: str) -> Iterator[str]:
        if kind == "text_completion":
            closing = [self.text_choice(index, "") | {"finish_reason": self._finish_reason()} for index in range(self.choices)]
            yield self.frame(kind, closing)
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield self.frame(kind, [], usage=self.usage())
        yield "data: [DONE]\n\n"

    def frame(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> str:
        chunk = self.envelope(kind) | {"choices": choices} | more
        return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def envelope(self, kind: str) -> dict[str, Any]:
        prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
        return {
            "id": f"{prefix}-{self._number:08d}",
            "object": kind,
            "created": int(time.time()),
            "model": self._model_info.model_id,
        }

    def chat_choice(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self._text}
        if self.tool_name:
            message = {"role": "assistant", "content": None, "tool_calls": [self._tool_call()]}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}

    def text_choice(self, index: int, token: str | None = None) -> dict[str, Any]:
        is_whole = token is None
        reason = self._finish_reason() if is_whole else None
        return {"index": index, "text": self._text if is_whole else token, "logprobs": None, "finish_reason": reason}

    def usage(self) -> dict[str, int]:
        answered = len(self._answer_tokens) * self.choices
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + answered, "completion_tokens": answered}

    def _tool_call(self) -> dict[str, Any]:
        return {"id": f"call_{self._number}", "type": "function", "function": {"name": self.tool_name, "arguments": "{}"}}

    def _finish_reason(self) -> str:
        if self.tool_name:
            return "tool_calls"
        return "length" if self._is_cut else "stop"


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _all_text(body: dict[str, Any]) -> str:
    if "messages" in body:
        return " ".join(text_of(message["content"]) for message in body["messages"])
    return _prompt_text(body["prompt"])


def _last_text(body: dict[str, Any]) -> str:
    if "messages" in body:
        return next((text_of(message["content"]) for message in reversed(body["messages"]) if message["role"] != "system"), "")
    return _prompt_text(body["prompt"])


def _image_tokens(body: dict[str, Any]) -> int:
    return IMAGE_TOKENS * len(images_of(body))


def _require_few_images(body: dict[str, Any], model_info: ChatModelInfo) -> None:
    count = len(images_of(body))
    if count > model_info.max_images:
        raise InvalidRequestError(
            f"The model {model_info.model_id} reads at most {model_info.max_images} images, not {count}.", param="messages"
        )


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, list):
        return " ".join(_prompt_text(item) for item in prompt)
    return str(prompt)


def _before_stop(text: str, stop: str | list[str] | None) -> str:
    for word in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(word, 1)[0]
    return text


def _forced_tool(body: dict[str, Any]) -> str | None:
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return str(body["tools"][0]["function"]["name"]) if choice == "required" else None
