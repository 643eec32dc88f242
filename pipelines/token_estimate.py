"""How many tokens a request may come to, before anybody has read it."""

from dataclasses import dataclass
from typing import Any

from aihub.chat.completions import OPENAI_DEFAULT_MAX_TOKENS, CompletionRequest
from aihub.chat.messages import AssistantMessage, UserMessage
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import estimate_tokens

_CHUNK_TOKENS = 800
"""Of a passage, as files are cut by default."""


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Tokens of one request.

    Attributes:
        prompt: What it sends, as a large vocabulary takes it; without what a chat template adds of its own.
        stated: The prompt and the answer that it asks for; without a wish for its length, the prompt alone.
        most: With passages, media, and an answer of the hub's usual length, as far as the request does not say.
    """

    prompt: int
    stated: int
    most: int


def estimate(request: ChatCompletionRequest | CompletionRequest, *, usual_answer: int) -> TokenEstimate:
    """Estimate a request.

    Args:
        usual_answer: Most tokens of an answer whose length a chat request does not limit.
    """
    choices = request.n or 1
    if isinstance(request, CompletionRequest):
        prompts = _prompts(request)
        answers = choices * len(prompts) * (request.max_tokens or OPENAI_DEFAULT_MAX_TOKENS)
        prompt = sum(map(_prompt_tokens, prompts))
        return TokenEstimate(prompt, prompt + answers, prompt + answers)
    prompt = estimate_tokens(_body(request))
    sources = request.retrieval.top_k * _CHUNK_TOKENS if request.retrieval is not None else 0
    media = estimate_tokens({"messages": [{"content": [_IMAGE] * _count_media(request)}]}) if request.has_media else 0
    stated = prompt + choices * (request.answer_tokens or 0)
    unstated = 0 if request.answer_tokens else choices * usual_answer
    return TokenEstimate(prompt, stated, stated + sources + media + unstated)


_IMAGE = {"type": "image_url", "image_url": {}}


def _body(request: ChatCompletionRequest) -> dict[str, Any]:
    """Return what `estimate_tokens` reads of an engine's body, without making one."""
    body: dict[str, Any] = {"messages": [{"content": message.content or "", **_calls(message)} for message in request.messages]}
    if request.tools:
        body["tools"] = [tool.model_dump(exclude_none=True) for tool in request.tools]
    return body


def _calls(message: object) -> dict[str, Any]:
    if isinstance(message, AssistantMessage) and message.tool_calls:
        return {"tool_calls": [call.model_dump() for call in message.tool_calls]}
    return {}


def _count_media(request: ChatCompletionRequest) -> int:
    return sum(len(message.media) for message in request.messages if isinstance(message, UserMessage))


def _prompts(request: CompletionRequest) -> list[str] | list[list[int]]:
    prompt: Any = request.prompt
    is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
    prompts: list[str] | list[list[int]] = [prompt] if is_one else prompt
    return prompts


def _prompt_tokens(prompt: str | list[int]) -> int:
    return estimate_tokens({"messages": [{"content": prompt}]}) if isinstance(prompt, str) else len(prompt)
