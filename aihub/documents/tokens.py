"""Counting tokens as the embedder will."""

import unicodedata
from collections.abc import Sequence

from aihub.errors import ConfigurationError


class TokenCounter:
    """Counts tokens without special tokens, truncation or padding.

    Args:
        tokenizer_path: The embedder's `tokenizer.json`.

    Attributes:
        is_additive: Whether two texts parted by white space have together as many tokens as apart. True of BERT's
            pre-tokenizer, which splits at white space first; false of byte-level and SentencePiece tokenizers,
            where white space is part of tokens.

    Raises:
        ConfigurationError: The file is missing or is no tokenizer.
    """

    def __init__(self, tokenizer_path: str) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(tokenizer_path)
        except Exception as error:
            raise ConfigurationError(f"Cannot read the embedder's tokenizer {tokenizer_path}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.is_additive = type(self._tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def is_separator(character: str) -> bool:
    """Whether every tokenizer takes the character for white space (BERT deletes the other control characters)."""
    return character in " \n\t" or unicodedata.category(character) == "Zs"
