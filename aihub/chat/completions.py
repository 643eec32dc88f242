"""`POST /v1/completions` and `POST /v1/generate`: raw prompts, as text or token ids; one prompt, one text.

No chat template is applied and none is protected.
Source: OpenAI API reference, completions (legacy); vLLM 0.32 for what is possible.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from aihub.chat.sampling import AskedTopP, SamplingRequest
from aihub.chat.schemas import AnswerModel, ChatCompletionRequest, Usage
from aihub.chat.tools import ResponseFormat, check_response_format
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_COMPLETION_LOGPROBS, MAX_PROMPT_TOKENS, MAX_PROMPTS, MAX_TEXT_CHARS, AnswerTokens, Temperature
from aihub.core.schemas import ClosedModel, ModelName, validate

OPENAI_DEFAULT_MAX_TOKENS = 16

Prompt = str | list[str] | list[int] | list[list[int]]


def _check_prompt(value: Any) -> Any:
    if isinstance(value, str):
        prompts: list[Any] = [value]
    elif isinstance(value, list) and value and all(type(item) is int for item in value):
        prompts = [value]
    elif isinstance(value, list):
        prompts = value
    else:
        raise PydanticCustomError("prompt_type", "must be a string, a list of strings, or token ids")
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise PydanticCustomError("prompt_count", "must hold 1 to {limit} prompts", {"limit": MAX_PROMPTS})
    kind = type(prompts[0])
    for index, prompt in enumerate(prompts):
        if type(prompt) is not kind or kind not in (str, list):
            raise PydanticCustomError("prompt_type", "must all be strings or all be lists of token ids", {"below": str(index)})
        if not prompt:
            raise PydanticCustomError("prompt_empty", "must not be empty", {"below": str(index)})
        if kind is list and not all(type(token) is int and 0 <= token < 2**31 for token in prompt):
            raise PydanticCustomError("prompt_token", "must hold token ids, integers from 0", {"below": str(index)})
    _check_size(prompts, is_text=kind is str)
    return value


def _check_size(prompts: list[Any], *, is_text: bool) -> None:
    limit, unit = (MAX_TEXT_CHARS, "characters") if is_text else (MAX_PROMPT_TOKENS, "tokens")
    size = sum(map(len, prompts))
    if size > limit:
        details = {"size": size, "unit": unit, "limit": limit}
        raise PydanticCustomError("context_length_exceeded", "hold {size} {unit}; at most {limit} are allowed", details)


class CompletionRequest(SamplingRequest):
    """A completion request, strict in types and bounded in every number.

    Raises:
        InvalidRequestError: From validation, for fields that contradict each other or that no engine offers.
    """

    engine_fields: ClassVar[tuple[str, ...]] = (*SamplingRequest.engine_fields, "logprobs")

    prompt: Annotated[
        Prompt,
        PlainValidator(_check_prompt),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "maxItems": MAX_PROMPTS},
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "maxItems": MAX_PROMPTS},
                ]
            }
        ),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    suffix: str | None = Field(default=None, description="Not supported by the engine; only an empty one is accepted.")

    @model_validator(mode="after")
    def _engine_can_do_it(self) -> Self:
        if self.suffix:
            raise InvalidRequestError("'suffix' is not supported; leave it out.", param="suffix", code="unsupported_parameter")
        check_response_format(self.response_format)
        return self

    def to_engine_body(self) -> dict[str, Any]:
        """Return the plain JSON body for a `ChatEngine`'s `complete`: whitelisted fields only."""
        body = self.sampling_body()
        body["prompt"] = self.prompt
        body["max_tokens"] = self.max_tokens if self.max_tokens is not None else OPENAI_DEFAULT_MAX_TOKENS
        if self.response_format is not None:
            body["response_format"] = self.response_format.model_dump(exclude_none=True)
        return body


class GenerateRequest(ClosedModel):
    """The prompt is sent as one user message, so that the model's chat template applies; raw text goes to `/v1/completions`."""

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
    max_tokens: AnswerTokens = 256
    temperature: Temperature | None = None
    top_p: AskedTopP | None = None
    do_sample: bool = Field(default=True, description="false answers with the likeliest words: temperature 0.")
    model: ModelName = Field(default="auto", description="Model id; `auto` lets the hub choose.")
    stream: bool = Field(default=False, description="Answer with server-sent events of OpenAI's `chat.completion.chunk`.")

    def to_chat_request(self) -> ChatCompletionRequest:
        """Return the same request in OpenAI's form."""
        values: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_completion_tokens": self.max_tokens,
            "temperature": self.temperature if self.do_sample else 0.0,
            "top_p": self.top_p if self.do_sample else None,
            "stream": self.stream,
        }
        if self.stream:
            values["stream_options"] = {"include_usage": True}
        return validate(ChatCompletionRequest, values)


class GenerateAnswer(AnswerModel):
    """`aihub` names the provider where one answered."""

    success: Literal[True] = True
    text: str
    model: str
    finish_reason: str | None
    usage: Usage
    aihub: dict[str, Any] | None = None
