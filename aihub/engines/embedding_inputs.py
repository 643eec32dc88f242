"""What every embedder refuses before it computes anything."""

from collections.abc import Sequence
from typing import cast

from aihub.errors import InvalidRequestError

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
