"""BM25 over the chunks of vector stores, in memory, kept fresh from PostgreSQL file by file and within a budget of bytes.

Okapi BM25 in Lucene's form (Robertson & Zaragoza 2009; idf = ln(1 + (N - n + 0.5) / (n + 0.5))), k1 = 1.2, b = 0.75, summed over
the chunk and the whole file it belongs to, as the words of a question spread over neighbouring chunks. The index is a short list
of immutable blocks that grow geometrically (a log-structured merge tree); removed files are masked and counted no more.
"""

import asyncio
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import NotFoundError
from aihub.documents.search.analysis import QueryTerm
from aihub.documents.search.postings import PostingsBlock, TermMatches, build_block, merge_blocks
from aihub.documents.tables.records import LexicalChanges

K1 = 1.2
B = 0.75
MAX_QUERY_TERMS = 256
"""Of a longer query only the rarest terms are scored."""

_MERGE_FACTOR = 2
_MAX_REMOVED = 0.3  # share of removed chunks above which a block is rewritten


class LexicalIndex:
    """The lexical index of one vector store.

    Searches run on any thread while another thread changes the index: they see the state before or after, never between.
    """

    def __init__(self) -> None:
        self._state: tuple[int, tuple[PostingsBlock, ...]] = (0, ())
        self._lock = threading.Lock()

    @property
    def version(self) -> int:
        """Version of the store this index is at."""
        return self._state[0]

    @property
    def blocks(self) -> tuple[PostingsBlock, ...]:
        """The present state; blocks never change once returned."""
        return self._state[1]

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(block.size_bytes for block in self.blocks)

    def apply(self, changes: LexicalChanges) -> None:
        """Move to `changes.version`; changes that are not newer than the index are ignored."""
        with self._lock:
            version, blocks = self._state
            if changes.version <= version:
                return
            added = {segment.file_id: segment for segment in changes.added}
            gone = added.keys() | set(changes.removed_file_ids)
            remaining = [_without(block, gone) for block in blocks] if gone else list(blocks)
            if any(segment.chunk_ids for segment in added.values()):
                remaining.append(build_block(list(added.values())))
            self._state = (changes.version, tuple(_merged([block for block in remaining if block.live_chunks])))

    def search(
        self, query: Sequence[QueryTerm], limit: int, allowed_files: Collection[str] | None = None
    ) -> list[tuple[int, float]]:
        """As `rank`, over this store alone."""
        return rank(self.blocks, match_query(self.blocks, query), limit, allowed_files)


def match_query(blocks: Sequence[PostingsBlock], query: Sequence[QueryTerm]) -> list[TermMatches]:
    """Find the words of a query; of a very long query only those in the fewest chunks."""
    terms = sorted(query, key=lambda term: sum(block.count(term) for block in blocks) or math.inf)[:MAX_QUERY_TERMS]
    return [TermMatches(term.boost, [block.match(term) for block in blocks]) for term in terms]


def rank(
    blocks: Sequence[PostingsBlock], query: Sequence[TermMatches], limit: int, allowed_files: Collection[str] | None = None
) -> list[tuple[int, float]]:
    """Return (chunk id, score) of the best chunks that hold a word of the query, best first, ties by chunk id.

    Blocks of several stores may be searched together; the statistics are those of all of them. A score is the share of the
    most that BM25 could give for the query, in (0, 1): it compares the chunks of one query, not of two.

    Args:
        blocks: What to search.
        query: From `match_query` on the same blocks.
        limit: Most chunks returned.
        allowed_files: Only chunks of these files are returned; the statistics stay those of all files.
    """
    words = sum(block.live_words for block in blocks)
    chunks = _Level([block.lengths for block in blocks], sum(block.live_chunks for block in blocks), words)
    files = _Level([block.file_lengths for block in blocks], sum(len(block.files) for block in blocks), words)
    most = 0.0
    for term in query:
        most += chunks.add(term)
        by_file = [None if found is None else block.by_file(found) for block, found in zip(blocks, term.matches, strict=True)]
        most += files.add(TermMatches(term.boost, by_file))
    found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    for block, chunk_scores, file_scores in zip(blocks, chunks.scores, files.scores, strict=True):
        rows = np.flatnonzero(chunk_scores)
        if allowed_files is not None:
            rows = rows[_is_in(block, allowed_files)[block.file_of[rows]]]
        found.append((block.chunk_ids[rows], chunk_scores[rows] + file_scores[block.file_of[rows]]))
    return _best(found, limit, most)


class _Level:
    """BM25 over units of one kind: chunks, or files.

    Args:
        lengths: Words per unit, one array per block.
        count: Live units in all blocks.
        words: Words in them.
    """

    def __init__(self, lengths: list[NDArray[np.float32]], count: int, words: float) -> None:
        per_word = np.float32(K1 * B * count / words if words else 0.0)
        self._count = count
        self._norms = [np.float32(K1 * (1 - B)) + per_word * block for block in lengths]
        self.scores = [np.zeros(len(block), dtype=np.float32) for block in lengths]

    def add(self, term: TermMatches) -> float:
        """Add a word to the scores; return the most it could give to any unit."""
        holding = sum(len(found.rows) for found in term.matches if found is not None)
        most = term.boost * (K1 + 1) * math.log(1 + (self._count - holding + 0.5) / (holding + 0.5))
        for found, norms, scores in zip(term.matches, self._norms, self.scores, strict=True):
            if found is not None:
                scores[found.rows] += np.float32(most) * found.freqs / (found.freqs + norms[found.rows])
        return most


def _best(found: list[tuple[NDArray[np.int64], NDArray[np.float32]]], limit: int, most: float) -> list[tuple[int, float]]:
    if not found or limit < 1:
        return []
    chunk_ids = np.concatenate([ids for ids, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    if len(scores) > limit:
        least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        kept = scores >= least
        chunk_ids, scores = chunk_ids[kept], scores[kept]
    order = np.lexsort((chunk_ids, -scores))[:limit]
    return [(chunk_id, score / most) for chunk_id, score in zip(chunk_ids[order].tolist(), scores[order].tolist(), strict=True)]


def _is_in(block: PostingsBlock, file_ids: Collection[str]) -> NDArray[np.bool_]:
    mask = np.zeros(len(block.file_ids), dtype=np.bool_)
    mask[[block.files[file_id] for file_id in file_ids if file_id in block.files]] = True
    return mask


def _without(block: PostingsBlock, file_ids: Collection[str]) -> PostingsBlock:
    remaining = block.without(file_ids)
    if 0 < remaining.live_chunks < (1 - _MAX_REMOVED) * len(remaining.live):
        return merge_blocks([remaining])
    return remaining


def _merged(blocks: list[PostingsBlock]) -> list[PostingsBlock]:
    """Merge from the newest back while a block is less than twice the newer one, so that block sizes grow geometrically."""
    while len(blocks) > 1 and len(blocks[-2].rows) < _MERGE_FACTOR * len(blocks[-1].rows):
        blocks[-2:] = [merge_blocks(blocks[-2:])]
    return blocks


DEFAULT_BUDGET_BYTES = 2**30
"""About 1.1 million chunks of 250 tokens (88 MB per 100,000)."""


class LexicalFeed(Protocol):
    """`aihub.documents.tables.chunks.ChunkTable`."""

    async def lexical_changes(self, tenant_id: str, store_id: str, after_version: int) -> LexicalChanges: ...


class LexicalIndexCache:
    """One `LexicalIndex` per vector store, least recently searched ones dropped over the budget.

    Every search first asks for the store's version, so a document is found as soon as its file is `completed`, whichever
    replica indexed it.

    Args:
        feed: Where changes come from.
        budget_bytes: Memory of all indexes together. The one being searched stays even when it is larger.
    """

    def __init__(self, feed: LexicalFeed, *, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._feed = feed
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[tuple[str, str], tuple[LexicalIndex, asyncio.Lock]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory held by all indexes."""
        return sum(index.size_bytes for index, _ in self._entries.values())

    async def blocks(self, tenant_id: str, store_id: str) -> tuple[PostingsBlock, ...]:
        """Return the store's postings as of now.

        Raises:
            NotFoundError: No such store.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        key = (tenant_id, store_id)
        index, lock = self._entries.setdefault(key, (LexicalIndex(), asyncio.Lock()))
        self._entries.move_to_end(key)
        async with lock:
            try:
                changes = await self._feed.lexical_changes(tenant_id, store_id, index.version)
            except NotFoundError:
                self._entries.pop(key, None)
                raise
            if changes.version > index.version:
                await asyncio.to_thread(index.apply, changes)
                self._drop_over_budget(keep=key)
        return index.blocks

    def _drop_over_budget(self, keep: tuple[str, str]) -> None:
        total_bytes = self.size_bytes
        for key in [key for key in self._entries if key != keep]:
            if total_bytes <= self._budget_bytes:
                return
            index, _ = self._entries.pop(key)
            total_bytes -= index.size_bytes
