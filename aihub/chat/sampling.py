"""What chat and completion requests have in common: the model, sampling and streaming.

Only fields declared here or in the request classes reach an engine. Unknown fields are ignored, so newer OpenAI clients
work; fields that would reach into the engine are refused by name.
"""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from aihub.core.errors import InvalidRequestError
from aihub.core.limits import (
    MAX_ANSWER_TOKENS,
    MAX_CACHE_TTL_S,
    MAX_CHOICES,
    MAX_LOGIT_BIASES,
    MAX_STOP_CHARS,
    MAX_STOPS,
    AnswerTokens,
    MinP,
    Penalty,
    RepetitionPenalty,
    Temperature,
    TopK,
)
from aihub.core.schemas import ClosedModel, LenientModel, Metadata, ModelName

REFUSED_FIELDS: dict[str, tuple[Any, ...]] = {
    # Field: values that change nothing and are let through.
    **dict.fromkeys(
        ("chat_template", "chat_template_kwargs", "documents", "media_io_kwargs", "mm_processor_kwargs", "mm_payload")
        + ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend")
        + ("guided_whitespace_pattern", "prompt_embeds", "logits_processors", "logprob_token_ids", "allowed_token_ids")
        + ("bad_words", "stop_token_ids", "vllm_xargs", "extra_args", "kv_transfer_params", "ec_transfer_params")
        + ("cache_salt", "request_id", "session_id", "prompt_logprobs", "truncate_prompt_tokens", "truncation_side")
        + ("repetition_detection", "thinking_token_budget", "stream_interval", "watermarking", "lora_request")
        + ("functions", "function_call", "web_search_options", "audio"),
        (None,),
    ),
    "add_generation_prompt": (None, True),
    "add_special_tokens": (None,),
    "best_of": (None, 1),
    "continue_final_message": (None, False),
    "echo": (None, False),
    "include_reasoning": (None, True),
    "include_stop_str_in_output": (None, False),
    "length_penalty": (None, 1.0),
    "priority": (None, 0),
    "return_mm_kwargs": (None, False),
    "return_prompt_text": (None, False),
    "return_token_ids": (None, False),
    "return_token_offsets": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "routed_experts_prompt_start": (None, 0),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "use_beam_search": (None, False),
}

_INSTEAD = {
    "audio": "Only text answers are made.",
    "best_of": "Use `n`.",
    "function_call": "Use `tool_choice`.",
    "functions": "Use `tools`.",
    "guided_json": "Use `response_format`.",
    "prompt_logprobs": "Use `logprobs`.",
    "structured_outputs": "Use `response_format`.",
    "web_search_options": "Use `retrieval` to answer from your own documents.",
}

Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARS)]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}$")]
LogitBias = Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)]
AskedTopP = Annotated[float, Field(ge=0.0, le=1.0, description="0 means greedy, as `temperature` 0.")]


class StreamOptions(LenientModel):
    include_usage: bool = False


class CacheOptions(ClosedModel):
    """Keeps the answer for a time of the client's own."""

    ttl_s: Annotated[int, Field(ge=1, le=MAX_CACHE_TTL_S)] | None = Field(
        default=None, description="Seconds; the hub's own time when left out."
    )


class SamplingRequest(LenientModel):
    """Base of both request classes.

    Raises:
        InvalidRequestError: From validation, for a refused field or fields that contradict each other.
    """

    engine_fields: ClassVar[tuple[str, ...]] = (
        "frequency_penalty",
        "ignore_eos",
        "logit_bias",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_p",
    )

    model: ModelName
    cache: bool | CacheOptions | None = Field(
        default=None,
        description="Whether the same answer may be given again. When left out, to requests with `temperature` 0 or a `seed`.",
    )
    frequency_penalty: Penalty | None = None
    ignore_eos: bool | None = None
    logit_bias: LogitBias | None = None
    max_tokens: AnswerTokens | None = None
    metadata: Metadata | None = Field(default=None, description="Accepted and not stored.")
    min_p: MinP | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_ANSWER_TOKENS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: AskedTopP | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_engine_internals(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for field in data.keys() & REFUSED_FIELDS.keys():
                if not any(data[field] is value or data[field] == value for value in REFUSED_FIELDS[field]):
                    instead = _INSTEAD.get(field, "Leave it out.")
                    raise InvalidRequestError(
                        f"The field '{field}' is not allowed here. {instead}", param=field, code="unsupported_parameter"
                    )
        return data

    @model_validator(mode="after")
    def _options_fit_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("'stream_options' is only allowed with 'stream': true.", param="stream_options")
        if self.min_tokens and self.answer_tokens and self.min_tokens > self.answer_tokens:
            raise InvalidRequestError("'min_tokens' must be at most the number of tokens to answer with.", param="min_tokens")
        return self

    @property
    def answer_tokens(self) -> int | None:
        """Most tokens to answer with, if the client set a limit."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling_body(self) -> dict[str, Any]:
        """Return the engine's part of these fields: what the client set, nothing else."""
        body: dict[str, Any] = {"model": self.model}
        for field in self.engine_fields:
            value = getattr(self, field)
            if value is not None:
                body[field] = value
        if self.top_p == 0:
            # The likeliest token alone; engines take no nucleus of nothing.
            del body["top_p"]
            body["temperature"] = 0.0
        body["stream"] = bool(self.stream)
        if self.wants_usage:
            body["stream_options"] = {"include_usage": True}
        return body
