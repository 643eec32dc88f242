"""Ollama's requests and answers, made from and into OpenAI's."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aihub.chat.service import images_of, text_of
from aihub.core.errors import InvalidRequestError

# OpenAI's (or vLLM's) name of a sampling field, and Ollama's.
_OPTIONS = {
    "frequency_penalty": "frequency_penalty",
    "max_completion_tokens": "num_predict",
    "max_tokens": "num_predict",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}
_THINK: dict[str, Any] = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
# Fields that change what an answer is; leaving them out would answer another question.
_UNSUPPORTED = ("logit_bias", "logprobs", "top_logprobs")


def chat_request(body: Mapping[str, Any], model: str, context_tokens: int) -> dict[str, Any]:
    """Return the body of `/api/chat`.

    Raises:
        InvalidRequestError: It asks for something Ollama has no way to do; `param` names it.
    """
    request = _request(body, model, context_tokens) | {"messages": _messages(body["messages"])}
    choice = body.get("tool_choice", "auto")
    if body.get("tools") and choice != "none":
        if choice != "auto":
            raise InvalidRequestError(
                "Ollama cannot be made to call a tool; send 'tool_choice': 'auto'.",
                param="tool_choice",
                code="unsupported_parameter",
            )
        request["tools"] = body["tools"]
    if body.get("reasoning_effort"):
        request["think"] = _THINK[body["reasoning_effort"]]
    return request


def generate_requests(body: Mapping[str, Any], model: str, context_tokens: int) -> list[dict[str, Any]]:
    """Return the bodies of `/api/generate`, one per prompt and choice; raw, so that no template is applied.

    Raises:
        InvalidRequestError: A prompt of token ids, or a field Ollama has no way to do.
    """
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequestError("Ollama takes text, not token ids; send a string.", param="prompt")
    request = _request(body, model, context_tokens) | {"raw": True}
    return [request | {"prompt": prompt} for prompt in prompts for _ in range(int(body.get("n") or 1))]


def _request(body: Mapping[str, Any], model: str, context_tokens: int) -> dict[str, Any]:
    for field in _UNSUPPORTED:
        if body.get(field):
            raise InvalidRequestError(
                f"Ollama does not offer '{field}' here; leave it out.", param=field, code="unsupported_parameter"
            )
    options: dict[str, Any] = {native: body[field] for field, native in _OPTIONS.items() if body.get(field) is not None}
    stop = body.get("stop")
    if stop:
        options["stop"] = [stop] if isinstance(stop, str) else list(stop)
    options["num_ctx"] = context_tokens
    # By default Ollama drops the oldest words of a prompt that is too long, and says nothing.
    request: dict[str, Any] = {"model": model, "options": options, "truncate": False, "shift": False}
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        request["format"] = "json"
    elif wanted.get("type") == "json_schema":
        request["format"] = wanted["json_schema"]["schema"]
    return request


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    result = []
    for message in messages:
        native: dict[str, Any] = {"role": message["role"], "content": text_of(message.get("content"))}
        if images := images_of({"messages": [message]}):
            # Bare base64; where in the text an image stood has no place there.
            native["images"] = [image["url"].partition(",")[2] for image in images]
        if calls := message.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls}
            native["tool_calls"] = [
                {
                    "id": call["id"],
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": json.loads(call["function"]["arguments"] or "{}"),
                    },
                }
                for call in calls
            ]
        if message["role"] == "tool":
            native["tool_name"] = names.get(message["tool_call_id"], "")
            native["tool_call_id"] = message["tool_call_id"]
        result.append(native)
    return result


class Answer:
    """One answer in OpenAI's shape, put together from native ones: one per choice.

    Args:
        kind: OpenAI's `object`.
        model_id: The name the client gets.
    """

    def __init__(self, kind: str, model_id: str) -> None:
        self._is_text = kind == "text_completion"
        self._head = {
            "id": f"{'cmpl' if self._is_text else 'chatcmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model_id,
        }
        self._begun: set[int] = set()
        self._calls: dict[int, int] = {}
        self._prompt_tokens = 0
        self._answer_tokens = 0

    def whole(self, natives: Sequence[dict[str, Any]], origin: dict[str, str]) -> dict[str, Any]:
        """Return the answer with one choice per native one."""
        choices = [self._choice(native, index) for index, native in enumerate(natives)]
        return self._head | {"choices": choices, "usage": self._usage(), "aihub": origin}

    def chunks(self, native: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
        """Yield OpenAI's chunks of one native one."""
        finish = self._finish_reason(native, has_calls=False) if native["done"] else None
        if self._is_text:
            self._count(native)
            yield self._chunk({"index": index, "text": native.get("response") or "", "logprobs": None, "finish_reason": finish})
            return
        message = native["message"]
        if index not in self._begun:
            self._begun.add(index)
            yield self._chunk(_delta(index, {"role": "assistant", "content": ""}))
        if delta := _spoken(message):
            yield self._chunk(_delta(index, delta))
        for call in _tool_calls(message):
            position = self._calls.get(index, 0)
            self._calls[index] = position + 1
            yield self._chunk(_delta(index, {"tool_calls": [{"index": position, **call}]}))
        if finish:
            self._count(native)
            finish = "tool_calls" if self._calls.get(index) else finish
            yield self._chunk(_delta(index, {}) | {"finish_reason": finish})

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk that ends a stream whose client asked for usage."""
        return self._head | {"choices": [], "usage": self._usage()}

    def _choice(self, native: dict[str, Any], index: int) -> dict[str, Any]:
        self._count(native)
        if self._is_text:
            finish = self._finish_reason(native, has_calls=False)
            return {"index": index, "text": native.get("response") or "", "logprobs": None, "finish_reason": finish}
        calls = _tool_calls(native["message"])
        message: dict[str, Any] = {"role": "assistant", "content": None} | _spoken(native["message"])
        if calls:
            message["tool_calls"] = calls
        elif message["content"] is None:
            message["content"] = ""
        finish = self._finish_reason(native, has_calls=bool(calls))
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._head | {"choices": [choice]}

    def _count(self, native: dict[str, Any]) -> None:
        # Every choice has read the same prompt (or one of its own, in a completion of several).
        prompt = int(native.get("prompt_eval_count") or 0)
        self._prompt_tokens = self._prompt_tokens + prompt if self._is_text else max(self._prompt_tokens, prompt)
        if native.get("done"):
            self._answer_tokens += int(native.get("eval_count") or 0)

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._answer_tokens,
            "total_tokens": self._prompt_tokens + self._answer_tokens,
        }

    @staticmethod
    def _finish_reason(native: dict[str, Any], *, has_calls: bool) -> str:
        if has_calls:
            return "tool_calls"
        return "length" if native.get("done_reason") == "length" else "stop"


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _spoken(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text and the thinking of a native message, under OpenAI's and vLLM's names."""
    spoken = {}
    if message.get("content"):
        spoken["content"] = message["content"]
    if message.get("thinking"):
        spoken["reasoning_content"] = message["thinking"]
    return spoken


def _tool_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        name = str(function.get("name") or "")
        calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": {"name": name, "arguments": text}})
    return calls
