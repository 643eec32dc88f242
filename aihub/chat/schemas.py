"""`POST /v1/chat/completions`: the request with the hub's own `retrieval`, the body an engine gets of it, and the answers.

Source: OpenAI API reference, chat completions; vLLM 0.32 for the sampling extras. Engines' answers pass through as they are; the
classes say what clients can rely on, not everything vLLM adds.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aihub.chat.content import engine_message
from aihub.chat.markers import neutralise_values
from aihub.chat.messages import Message, UserMessage, check_order
from aihub.chat.parts import MEDIA_TYPES
from aihub.chat.sampling import SamplingRequest
from aihub.chat.tools import AnyTool, HubTool, ResponseFormat, ToolChoice, check_response_format, check_tools
from aihub.core.errors import InvalidRequestError
from aihub.core.filters import Filters
from aihub.core.limits import (
    MAX_MEDIA_PARTS,
    MAX_MESSAGES,
    MAX_RETRIEVED_CHUNKS,
    MAX_STORES_PER_QUESTION,
    MAX_TEXT_CHARS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    AnswerTokens,
)
from aihub.core.schemas import ClosedModel, LenientModel, Metadata, ObjectId


class AnswerModel(BaseModel):
    model_config = ConfigDict(extra="allow")


class Usage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class FileCitation(AnswerModel):
    """`quote` is the exact text of the source from `start_char` to `end_char`.

    Of audio and video files it is also what is said from `start_s` to `end_s`, in seconds; other citations lack both fields.
    """

    type: Literal["file_citation"]
    file_id: str
    filename: str
    quote: str
    start_char: int
    end_char: int
    start_s: float | None = None
    end_s: float | None = None


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
    """OpenAI's `chat.completion`; `retrieval` holds the passages, their scores and the time of each stage.

    `conversation_id` names the conversation that the answer is kept in.
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    retrieval: dict[str, Any] | None = None
    conversation_id: str | None = None


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


class RetrievalOptions(ClosedModel):
    """Where to look for sources before answering.

    Attributes:
        top_k: Chunks to put before the model, best first.
        mode: `vector` by meaning, `text` by words, `hybrid` both.
        score_threshold: Chunks that score less are not put before the model; without it, in `hybrid`, the hub's own.
        filters: OpenAI attribute filters over the files' attributes.
    """

    vector_store_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=MAX_STORES_PER_QUESTION)]
    top_k: Annotated[int, Field(ge=1, le=MAX_RETRIEVED_CHUNKS)] = 5
    mode: Literal["hybrid", "vector", "text"] = "hybrid"
    score_threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    filters: Filters | None = None


class ConversationReference(LenientModel):
    """A conversation as OpenAI's clients may name it."""

    id: ObjectId


class ChatCompletionRequest(SamplingRequest):
    """A chat request, strict in types and bounded in every number.

    Raises:
        InvalidRequestError: From validation, for fields that contradict each other; `param` names the place.
    """

    engine_fields: ClassVar[tuple[str, ...]] = (
        *SamplingRequest.engine_fields,
        "logprobs",
        "parallel_tool_calls",
        "reasoning_effort",
        "top_logprobs",
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    conversation: ObjectId | ConversationReference | None = Field(default=None, description="OpenAI's name of `conversation_id`.")
    conversation_id: ObjectId | None = Field(
        default=None, description="A stored conversation that goes on: its messages stand before those of the request."
    )
    logprobs: bool | None = None
    max_completion_tokens: AnswerTokens | None = None
    metadata: Metadata | None = Field(default=None, description="Kept with the conversation that `store` begins, else ignored.")
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    response_format: ResponseFormat | None = None
    retrieval: RetrievalOptions | None = None
    store: bool | None = Field(default=None, description="true begins a stored conversation where none is named.")
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_media(cls, data: Any) -> Any:
        """Count before each part is looked at: thousands of them would take a second."""
        count = _count_media(data.get("messages")) if isinstance(data, dict) else 0
        if count > MAX_MEDIA_PARTS:
            raise InvalidRequestError(
                f"The messages hold {count} images, recordings, videos and files; at most {MAX_MEDIA_PARTS} are allowed.",
                param="messages",
                code="too_many_parts",
            )
        return data

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        self.require_bounded_text()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("'top_logprobs' is only allowed with 'logprobs': true.", param="top_logprobs")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequestError(
                "'max_tokens' and 'max_completion_tokens' differ; send only 'max_completion_tokens'.", param="max_tokens"
            )
        check_tools(self.tools or (), self.tool_choice)
        check_response_format(self.response_format)
        self._check_conversation()
        if self.continued_id is None:
            check_order(self.messages)  # else they go on from what is stored, and are checked behind it
        return self

    def _check_conversation(self) -> None:
        if self.conversation_id not in {None, self._named_conversation or self.conversation_id}:
            raise InvalidRequestError(
                "'conversation' and 'conversation_id' name different conversations; send one of them.", param="conversation"
            )
        if self.continued_id is not None and self.store is False:
            raise InvalidRequestError(
                "What is said in a conversation is stored: leave 'store' out, or send the messages without 'conversation_id'.",
                param="store",
            )
        if self.continued_id is not None and self.metadata:
            raise InvalidRequestError(
                f"'metadata' belongs to the conversation: change them by POST /v1/conversations/{self.continued_id}.",
                param="metadata",
            )
        if self.is_stored and (self.n or 1) > 1:
            raise InvalidRequestError(
                "A conversation goes on with one answer: leave 'n' out, or ask without 'conversation_id' and 'store'.",
                param="n",
                code="unsupported_parameter",
            )

    @property
    def continued_id(self) -> str | None:
        """Id of the stored conversation that goes on, if one does."""
        return self.conversation_id or self._named_conversation

    @property
    def _named_conversation(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationReference) else self.conversation

    @property
    def is_stored(self) -> bool:
        """Whether question and answer are kept in a conversation."""
        return self.continued_id is not None or bool(self.store)

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def has_media(self) -> bool:
        """Whether parts are still to be read before an engine can be asked."""
        return any(isinstance(message, UserMessage) and message.media for message in self.messages)

    @property
    def hub_tools(self) -> list[HubTool]:
        """Tools that the hub runs itself."""
        return [tool for tool in self.tools or () if isinstance(tool, HubTool)]

    @property
    def text_chars(self) -> int:
        """Characters of all messages."""
        return sum(len(message.content or "") for message in self.messages)

    def require_bounded_text(self) -> None:
        """Refuse more text than one request may hold.

        Raises:
            InvalidRequestError: It does (`context_length_exceeded`).
        """
        chars = self.text_chars
        if chars > MAX_TEXT_CHARS:
            raise InvalidRequestError(
                f"The messages hold {chars} characters; at most {MAX_TEXT_CHARS} are allowed. Send less text.",
                param="messages",
                code="context_length_exceeded",
            )

    def to_engine_body(self, special_tokens: Iterable[str] = ()) -> dict[str, Any]:
        """Return the plain JSON body for a `ChatEngine`: whitelisted fields only, chat-template markers neutralised.

        Args:
            special_tokens: The served model's special tokens, neutralised in addition to the well-known families.

        Raises:
            ValueError: Media are still to be read (`has_media`), or tools are the hub's own (`hub_tools`).
        """
        if self.hub_tools:
            raise ValueError("the hub's own tools are made functions before an engine is asked")
        if self.has_media:
            raise ValueError("the media of a request are read before an engine is asked")
        tokens = tuple(special_tokens)
        body = self.sampling_body()
        body["messages"] = [engine_message(message, tokens) for message in self.messages]
        if self.answer_tokens is not None:
            body["max_completion_tokens"] = self.answer_tokens
        if self.response_format is not None:
            body["response_format"] = self.response_format.model_dump(exclude_none=True)
        if self.tools:
            tools = [tool.model_dump(exclude_none=True) for tool in self.tools]
            body["tools"] = neutralise_values(tools, tokens)
            choice = self.tool_choice if self.tool_choice is not None else "auto"
            if choice not in {"auto", "none"}:
                # A forced call must be one: vLLM holds the model to the schema of strict functions only.
                for tool in body["tools"]:
                    tool["function"].setdefault("strict", True)
            body["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
        else:
            body.pop("parallel_tool_calls", None)
        return body


def _count_media(messages: Any) -> int:
    contents = [message.get("content") for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return sum(isinstance(part.get("type"), str) and part["type"] in MEDIA_TYPES for part in parts)
