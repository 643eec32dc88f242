"""`POST /v1/embeddings` and what every embedder refuses before it computes anything. Source: OpenAI API reference, embeddings."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_TEXT_CHARS
from aihub.core.schemas import LenientModel, ModelName, ResponseModel

MAX_INPUTS = 2048


def check_inputs(inputs: Sequence[str] | Sequence[Sequence[int]], vocabulary_size: int) -> None:
    """Refuse inputs no embedder can take.

    Raises:
        InvalidRequestError: None or over `MAX_INPUTS` inputs, an empty one, lone surrogates, or an id outside the vocabulary.
    """
    if not inputs:
        raise InvalidRequestError("The input is empty. Send at least one text.", param="input")
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequestError(f"{len(inputs)} inputs; at most {MAX_INPUTS} fit one request. Send several.", param="input")
    for index, item in enumerate(inputs):
        if isinstance(item, str):
            _check_text(item, index)
        else:
            _check_token_ids(cast("Sequence[int]", item), index, vocabulary_size)


def _check_text(text: str, index: int) -> None:
    if not text.strip():
        raise InvalidRequestError(f"Input {index} is empty. Leave it out.", param="input")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"Input {index} holds half a surrogate pair, which is no text.", param="input") from error


def _check_token_ids(ids: Sequence[int], index: int, vocabulary_size: int) -> None:
    if not ids:
        raise InvalidRequestError(f"Input {index} is an empty list of tokens. Leave it out.", param="input")
    for token_id in ids:
        if not 0 <= token_id < vocabulary_size:
            raise InvalidRequestError(
                f"Input {index} holds token {token_id}; this model's tokens are 0 to {vocabulary_size - 1}.", param="input"
            )


EmbeddingInput = list[str] | list[list[int]]


def _as_list(value: Any) -> EmbeddingInput:
    """Bring OpenAI's four forms (text, texts, tokens, lists of tokens) to a list with one item per vector."""
    if isinstance(value, str):
        items: list[Any] = [value]
    elif isinstance(value, list) and value and all(type(item) is int for item in value):
        items = [value]
    elif isinstance(value, list):
        items = value
    else:
        raise PydanticCustomError("input_type", "must be a string, a list of strings, or token ids")
    if not 1 <= len(items) <= MAX_INPUTS:
        raise PydanticCustomError("input_count", "must hold 1 to {limit} inputs", {"limit": MAX_INPUTS})
    kind = type(items[0])
    if kind not in {str, list} or any(type(item) is not kind for item in items):
        raise PydanticCustomError("input_type", "must all be strings or all be lists of token ids")
    if kind is list and not all(type(token) is int for item in items for token in item):
        raise PydanticCustomError("input_type", "must hold token ids, which are integers")
    size = sum(map(len, items))
    if size > MAX_TEXT_CHARS:
        raise PydanticCustomError(
            "input_size",
            "hold {size} characters or tokens; at most {limit} fit one request",
            {"size": size, "limit": MAX_TEXT_CHARS},
        )
    return items


_INPUT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


class EmbeddingRequest(LenientModel):
    """Texts or token ids to turn into vectors."""

    model: ModelName
    input: Annotated[EmbeddingInput, PlainValidator(_as_list), WithJsonSchema(_INPUT_SCHEMA)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = None


class EmbeddingObject(ResponseModel):
    """One vector; base64 is of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(ResponseModel):
    """The answer: vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
