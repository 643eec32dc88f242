"""`POST /v1/generate`: one prompt, one text, as the local LLM service before the hub offered it."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from aihub.schemas.answers import AnswerModel, Usage
from aihub.schemas.chat import ChatCompletionRequest
from aihub.schemas.common import ClosedModel, ModelName
from aihub.schemas.sampling import AnswerTokens, AskedTopP, Temperature
from aihub.schemas.validation import validate
from aihub.security.limits import MAX_TEXT_CHARS


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
