"""Text to the token ids an encoder reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from aihub.engines.embedding_inputs import check_inputs
from aihub.errors import ContextLengthError, InvalidRequestError

TokenIds = NDArray[np.int64]

CHARACTERS_PER_TOKEN = 64
"""A text with more characters than this per token of the limit is refused unread; real text has 1 to 8."""


class TextTokenizer:
    """A `tokenizer.json` with the limits of its model. Thread-safe."""

    def __init__(self, path: Path, *, max_tokens: int, vocabulary_size: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        self._vocabulary_size = vocabulary_size
        self._before, self._after = self._special_tokens()

    def encode(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> list[TokenIds]:
        """Return the ids of each input, special tokens included.

        Raises:
            InvalidRequestError: An input is empty, blank, no text, or holds a foreign token id; the message names it.
            ContextLengthError: An input is too long; the message has its length and the limit.
        """
        check_inputs(inputs, self._vocabulary_size)
        texts = [item for item in inputs if isinstance(item, str)]
        if not texts:
            rows = [np.array([*self._before, *ids, *self._after], np.int64) for ids in inputs]
        else:
            self._refuse_huge(texts)
            rows = [np.array(encoding.ids, np.int64) for encoding in self._tokenizer.encode_batch_fast(texts)]
        for index, row in enumerate(rows):
            self._check_length(index, len(row))
        return rows

    def _check_length(self, index: int, length: int) -> None:
        if length > self._max_tokens:
            raise ContextLengthError(
                f"Input {index} has {length} tokens, special tokens included; this model reads at most {self._max_tokens}. "
                "Split it into shorter pieces.",
                param="input",
            )
        if length <= len(self._before) + len(self._after):
            raise InvalidRequestError(f"Input {index} holds no character that the model knows. Leave it out.", param="input")

    def _refuse_huge(self, texts: list[str]) -> None:
        limit = self._max_tokens * CHARACTERS_PER_TOKEN
        for index, text in enumerate(texts):
            if len(text) > limit:
                raise ContextLengthError(
                    f"Input {index} has {len(text)} characters; this model reads at most {self._max_tokens} tokens "
                    f"(and {limit} characters). Split it into shorter pieces.",
                    param="input",
                )

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Return the ids put before and after a text, from a probe."""
        bare: list[int] = self._tokenizer.encode("a", add_special_tokens=False).ids
        full: list[int] = self._tokenizer.encode("a", add_special_tokens=True).ids
        start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
        return full[:start], full[start + len(bare) :]
