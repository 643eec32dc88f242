"""What to search by when a question is longer than the embedder reads."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aihub.documents.chunking import TokenCounter
from aihub.documents.sentences import sentences
from aihub.embeddings.service import Embedder

SPECIAL_TOKENS = 2
MOST_SENTENCES = 200
_CHARACTERS_PER_TOKEN = 20
"""No text worth searching by has longer tokens; bounds what is given to the tokenizer at once."""

_ASKS = re.compile(r"[?？؟][\"'”’»)\]]*$")


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """The text to search by, and whether it is only a part of what the user wrote."""

    text: str
    is_shortened: bool


class QueryChooser:
    """Chooses the part of a long message that fits the embedder; the answer reports when it did so.

    Long messages are mostly pasted material with the question at one end. Whole sentences are taken while they fit:
    those that ask (`?`) first, then from the end backwards; they stay in their order. A sentence too long by itself
    gives its last words. At most the last 200 sentences are looked at.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._counter: TokenCounter | None = None

    async def choose(self, message: str) -> SearchQuery:
        """Return the message itself where it fits, else the chosen sentences.

        Raises:
            HubError: The embedder cannot be asked for its limit.
        """
        model_info = await self._embedder.model_info()
        limit = model_info.max_tokens - SPECIAL_TOKENS
        if len(message.encode()) <= limit:  # no tokenizer makes more tokens than bytes
            return SearchQuery(message, is_shortened=False)
        if self._counter is None:
            self._counter = await asyncio.to_thread(TokenCounter, model_info.tokenizer_path)
        return await asyncio.to_thread(_choose, message, self._counter, limit)


def _choose(message: str, counter: TokenCounter, limit: int) -> SearchQuery:
    if len(message) <= _CHARACTERS_PER_TOKEN * limit and counter.count([message])[0] <= limit:
        return SearchQuery(message, is_shortened=False)
    texts = [message[start:end] for start, end in sentences(message)][-MOST_SENTENCES:]
    counts = counter.count(texts)
    chosen: list[int] = []
    for position in _by_priority(texts):
        if counts[position] + sum(counts[other] for other in chosen) <= limit:
            chosen.append(position)
    if not chosen:
        return SearchQuery(_last_words(message.rstrip(), counter, limit), is_shortened=True)
    return SearchQuery(" ".join(texts[position] for position in sorted(chosen)), is_shortened=True)


def _by_priority(texts: Sequence[str]) -> Iterator[int]:
    backwards = range(len(texts) - 1, -1, -1)
    asking = [position for position in backwards if _ASKS.search(texts[position])]
    yield from asking
    yield from (position for position in backwards if position not in asking)


def _last_words(text: str, counter: TokenCounter, limit: int) -> str:
    piece = text[-_CHARACTERS_PER_TOKEN * limit :]
    while counter.count([piece])[0] > limit:
        piece = piece[len(piece) // 4 + 1 :]
    return piece.lstrip()
