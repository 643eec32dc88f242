"""Chunk texts to vectors, whatever their length.

A chunk longer than the embedder reads is cut into windows at token borders and gets the normalised mean of their vectors,
so that no word of it is left out. Chunks of equal length travel together, which keeps padding small.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aihub.embeddings.service import EmbedderInfo, Embeddings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_TEXTS = 32
COUNT_MARGIN = 16


@dataclass(frozen=True)
class WindowCutter:
    """Cuts text into pieces the embedder can read.

    Args:
        tokenizer_path: `tokenizer.json` of the embedder.
        max_tokens: Longest piece, special tokens included.
    """

    tokenizer_path: str
    max_tokens: int

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(self.tokenizer_path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def cut(self, text: str) -> list[str]:
        """Return consecutive pieces of `text` that each fit; halves until they do, so pieces are of similar length."""
        encoding = self._tokenizer.encode(text)
        if len(encoding.ids) <= self.max_tokens or len(text) <= 1:
            return [text]
        starts = [start for start, end in encoding.offsets if end > start]
        middle = starts[len(starts) // 2] if starts else 0
        if not 0 < middle < len(text):
            middle = len(text) // 2
        return self.cut(text[:middle]) + self.cut(text[middle:])


class ChunkVectors:
    """Embeds chunks of any length in small batches, so that questions asked meanwhile are not held up.

    Args:
        embed: `Embedder.embed`, or a wrapper that retries it.
        model_info: The embedder's model info.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Awaitable[Embeddings]], model_info: EmbedderInfo) -> None:
        self._embed = embed
        self._dimensions = model_info.dimensions
        self._max_tokens = model_info.max_tokens
        self._cutter = WindowCutter(model_info.tokenizer_path, model_info.max_tokens)

    async def of(self, texts: Sequence[str], token_counts: Sequence[int]) -> NDArray[np.float32]:
        """Return one vector of norm 1 per text, shape (len(texts), dimensions).

        Args:
            texts: Not empty each.
            token_counts: Tokens per text in the embedder's tokens, special ones excluded.

        Raises:
            HubError: Whatever the embedder raises.
        """
        pieces, owners = await asyncio.to_thread(self._pieces, texts, token_counts)
        sums = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
        for start in range(0, len(order), BATCH_TEXTS):
            batch = order[start : start + BATCH_TEXTS]
            embeddings = await self._embed([pieces[i] for i in batch])
            np.add.at(sums, [owners[i] for i in batch], embeddings.vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        normalised: NDArray[np.float32] = sums / np.maximum(norms, np.finfo(np.float32).tiny)
        return normalised

    def _pieces(self, texts: Sequence[str], token_counts: Sequence[int]) -> tuple[list[str], list[int]]:
        pieces: list[str] = []
        owners: list[int] = []
        for index, (text, count) in enumerate(zip(texts, token_counts, strict=True)):
            # Counted inside its document, a chunk can differ by some tokens from the same text alone.
            parts = [text] if count + COUNT_MARGIN <= self._max_tokens else self._cutter.cut(text)
            pieces += parts
            owners += [index] * len(parts)
        return pieces, owners
