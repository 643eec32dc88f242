"""The answers of chat and completions, for the API description.

Engines' answers pass through as they are; these classes say what clients can rely on, not everything vLLM adds.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class AnswerModel(BaseModel):
    model_config = ConfigDict(extra="allow")


class Usage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class FileCitation(AnswerModel):
    """`quote` is the exact text of the source from `start_char` to `end_char`."""

    type: Literal["file_citation"]
    file_id: str
    filename: str
    quote: str
    start_char: int
    end_char: int


class AnswerMessage(AnswerModel):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[dict[str, Any]] | None = None
    annotations: list[FileCitation] | None = None


class ChatChoice(AnswerModel):
    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatCompletion(AnswerModel):
    """OpenAI's `chat.completion`; `retrieval` holds the passages, their scores and the time of each stage."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    retrieval: dict[str, Any] | None = None


class CompletionChoice(AnswerModel):
    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class Completion(AnswerModel):
    """OpenAI's `text_completion`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
