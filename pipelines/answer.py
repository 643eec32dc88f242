"""One question, one answer, for callers that are not HTTP clients."""

from dataclasses import dataclass
from typing import Any

from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatService
from aihub.core.errors import InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from pipelines.prompts import Prompts, question_message, source_block


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """An answer in words.

    Attributes:
        finish_reason: `stop`, or `length` when `max_tokens` cut the answer.
    """

    answer: str
    model: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def question_body(
    prompts: Prompts, question: str, context: str | None = None, *, max_tokens: int = 256, temperature: float = 0.2
) -> dict[str, Any]:
    """Return the chat body, without a model, that asks `question`; see `generate_answer`.

    Raises:
        InvalidRequestError: Empty question.
    """
    if not question.strip():
        raise InvalidRequestError("The question is empty.", param="question")
    content = question
    if context is not None and context.strip():
        content = question_message(prompts.for_text(question), question, [source_block(1, "", context)])
    return {
        "messages": [{"role": "user", "content": content}],
        "max_completion_tokens": max_tokens,
        "temperature": temperature,
    }


async def generate_answer(
    chat: ChatService,
    principal: Principal,
    model: str,
    prompts: Prompts,
    question: str,
    context: str | None = None,
    *,
    max_tokens: int = 256,
    temperature: float = 0.2,
) -> GeneratedAnswer:
    """Answer `question`, from `context` alone when it is given.

    Args:
        context: Text the answer must come from; data, so orders and chat markers inside it have no force.

    Raises:
        InvalidRequestError: Empty question, or a number out of bounds.
        ContextLengthError: Question, context and `max_tokens` do not fit the model's context.
    """
    body = question_body(prompts, question, context, max_tokens=max_tokens, temperature=temperature)
    answer = await chat.chat(principal, validate(ChatCompletionRequest, {"model": model} | body))
    choice, usage = answer["choices"][0], answer["usage"]
    return GeneratedAnswer(
        answer=(choice["message"].get("content") or "").strip(),
        model=answer["model"],
        finish_reason=choice["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )
