"""Immutable blocks of an inverted index, in numpy arrays.

A block holds whole files: the chunks of a file are neighbours. Removing files gives a new block that shares every array but
the mask of live chunks; merging blocks leaves the removed chunks out.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.documents.search.analysis import QueryTerm
from aihub.documents.tables.records import LexicalSegment

_DENSE = 16  # one row in so many: counting in an array of all rows is faster than sorting from there (measured at 100,000)
_BYTES_PER_FILE = 250  # a file id as a Python string, in a tuple and in a dict


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Where one query term occurs in a block; the arrays run in parallel.

    Attributes:
        rows: int32, ascending and distinct: positions of chunks (or of files) in the block.
        freqs: float32, occurrences, weighted by spelling.
    """

    rows: NDArray[np.int32]
    freqs: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TermMatches:
    """Where one word of a query occurs in several blocks.

    Attributes:
        boost: Factor of the word's score.
        matches: One per block; None where the word is not.
    """

    boost: float
    matches: list[Matches | None]


@dataclass(frozen=True, eq=False)
class PostingsBlock:
    """Chunks and the terms they hold. "Row" is the position of a chunk in the block.

    Attributes:
        chunk_ids: int64, shape (chunks,).
        lengths: float32, shape (chunks,), words.
        languages: Those that occur.
        language_of: int16, shape (chunks,): position in `languages`.
        file_of: int32, shape (chunks,), ascending: position in `file_ids`.
        file_ids: One per file.
        terms: int32, shape (terms,), ascending.
        offsets: int64, shape (terms + 1,): postings of terms[i] are rows[offsets[i]:offsets[i + 1]].
        rows: int32, shape (postings,), ascending within a term.
        freqs: uint16, shape (postings,).
        live: bool, shape (chunks,): False for chunks of removed files.
    """

    chunk_ids: NDArray[np.int64]
    lengths: NDArray[np.float32]
    languages: tuple[str, ...]
    language_of: NDArray[np.int16]
    file_of: NDArray[np.int32]
    file_ids: tuple[str, ...]
    terms: NDArray[np.int32]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    freqs: NDArray[np.uint16]
    live: NDArray[np.bool_]

    @cached_property
    def files(self) -> dict[str, int]:
        """Position of each live file. A file without chunks is in none."""
        live = np.unique(self.file_of[self.live]).tolist()
        return {self.file_ids[file]: file for file in live}

    @cached_property
    def file_lengths(self) -> NDArray[np.float32]:
        """Words per file, shape (files,)."""
        return np.bincount(self.file_of, weights=self.lengths, minlength=len(self.file_ids)).astype(np.float32)

    @cached_property
    def live_chunks(self) -> int:
        """Chunks that were not removed."""
        return int(np.count_nonzero(self.live))

    @cached_property
    def live_words(self) -> float:
        """Words in them."""
        return float(self.lengths[self.live].sum(dtype=np.float64))

    @cached_property
    def language_counts(self) -> Counter[str]:
        """Live chunks per language."""
        return self.languages_at(np.flatnonzero(self.live))

    @cached_property
    def size_bytes(self) -> int:
        """Memory held, near enough for a budget."""
        per_chunk = self.chunk_ids, self.lengths, self.language_of, self.file_of, self.live
        per_posting = self.terms, self.offsets, self.rows, self.freqs
        return sum(array.nbytes for array in (*per_chunk, *per_posting)) + _BYTES_PER_FILE * len(self.file_ids)

    def without(self, file_ids: Collection[str]) -> "PostingsBlock":
        """Return the block with the chunks of these files marked as removed; files it does not hold are ignored."""
        gone = [self.files[file_id] for file_id in file_ids if file_id in self.files]
        return replace(self, live=self.live & ~np.isin(self.file_of, gone)) if gone else self

    def match(self, term: QueryTerm) -> Matches | None:
        """Return the live chunks that hold any spelling of `term`, or None when there is none."""
        found = [
            (self.rows[start:end], self.freqs[start:end] * np.float32(weight))
            for (start, end), weight in zip(map(self._range, term.ids), term.weights, strict=True)
            if start < end
        ]
        if not found:
            return None
        matches = _sum_by_row(found, len(self.live)) if len(found) > 1 else Matches(*found[0])
        if self.live_chunks < len(self.live):
            kept = self.live[matches.rows]
            matches = Matches(matches.rows[kept], matches.freqs[kept])
        return matches if len(matches.rows) else None

    def languages_at(self, rows: NDArray[np.integer[Any]]) -> Counter[str]:
        """Return how many of these chunks are in each language."""
        counts = np.bincount(self.language_of[rows], minlength=len(self.languages))
        return Counter(dict(zip(self.languages, counts.tolist(), strict=True)))

    def count(self, term: QueryTerm) -> int:
        """Return about how many chunks hold `term`, removed ones and repeated spellings included: a guess at no cost."""
        return sum(end - start for start, end in map(self._range, term.ids))

    def by_file(self, matches: Matches) -> Matches:
        """Sum the matches of chunks over the files they are in."""
        return _sum_by_row([(self.file_of[matches.rows], matches.freqs)], len(self.file_ids))

    def _range(self, term_id: int) -> tuple[int, int]:
        index = int(np.searchsorted(self.terms, np.int32(term_id)))
        if index == len(self.terms) or self.terms[index] != term_id:
            return 0, 0
        return int(self.offsets[index]), int(self.offsets[index + 1])


def build_block(segments: Sequence[LexicalSegment]) -> PostingsBlock:
    """Build a block from what storage keeps of some files, all of them different."""
    sizes = [len(segment.chunk_ids) for segment in segments]
    packed_ids = list(chain.from_iterable(segment.term_ids for segment in segments))
    rows = np.repeat(np.arange(sum(sizes), dtype=np.int32), [len(packed) // 4 for packed in packed_ids])
    terms = np.frombuffer(b"".join(packed_ids), dtype="<i4").astype(np.int32, copy=False)
    packed_freqs = b"".join(chain.from_iterable(segment.term_freqs for segment in segments))
    freqs = np.frombuffer(packed_freqs, dtype="<u2").astype(np.uint16, copy=False)
    named = list(chain.from_iterable(segment.languages for segment in segments))
    languages = tuple(sorted(set(named)))
    chunk_ids = np.fromiter(chain.from_iterable(segment.chunk_ids for segment in segments), dtype=np.int64, count=sum(sizes))
    return _assemble(
        chunk_ids=chunk_ids,
        lengths=np.fromiter(chain.from_iterable(s.term_totals for s in segments), dtype=np.float32, count=sum(sizes)),
        languages=languages,
        language_of=np.fromiter(map(languages.index, named), dtype=np.int16, count=sum(sizes)),
        file_of=np.repeat(np.arange(len(segments), dtype=np.int32), sizes),
        file_ids=tuple(segment.file_id for segment in segments),
        postings=(terms, rows, freqs),
    )


def merge_blocks(blocks: Sequence[PostingsBlock]) -> PostingsBlock:
    """Return one block with the live chunks of all, in order."""
    postings: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16]]] = []
    files_of: list[NDArray[np.int32]] = []
    file_ids: list[str] = []
    languages = tuple(sorted({language for block in blocks for language in block.languages}))
    languages_of: list[NDArray[np.int16]] = []
    first_row = 0
    for block in blocks:
        new_rows = (np.cumsum(block.live) - 1 + first_row).astype(np.int32)
        kept = block.live[block.rows]
        terms = np.repeat(block.terms, np.diff(block.offsets))
        postings.append((terms[kept], new_rows[block.rows[kept]], block.freqs[kept]))
        files, file_of = np.unique(block.file_of[block.live], return_inverse=True)
        files_of.append((file_of + len(file_ids)).astype(np.int32))
        file_ids += [block.file_ids[file] for file in files.tolist()]
        renumbered = np.array([languages.index(language) for language in block.languages], dtype=np.int16)
        languages_of.append(renumbered[block.language_of[block.live]])
        first_row += block.live_chunks
    return _assemble(
        chunk_ids=np.concatenate([block.chunk_ids[block.live] for block in blocks]),
        lengths=np.concatenate([block.lengths[block.live] for block in blocks]),
        languages=languages,
        language_of=np.concatenate(languages_of),
        file_of=np.concatenate(files_of),
        file_ids=tuple(file_ids),
        postings=(
            np.concatenate([terms for terms, _, _ in postings]),
            np.concatenate([rows for _, rows, _ in postings]),
            np.concatenate([freqs for _, _, freqs in postings]),
        ),
    )


def _assemble(
    *,
    chunk_ids: NDArray[np.int64],
    lengths: NDArray[np.float32],
    languages: tuple[str, ...],
    language_of: NDArray[np.int16],
    file_of: NDArray[np.int32],
    file_ids: tuple[str, ...],
    postings: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16]],
) -> PostingsBlock:
    """Group postings (term, row, frequency) by term; rows come ascending, so a stable sort keeps them so."""
    terms, rows, freqs = postings
    order = np.argsort(terms, kind="stable")
    terms = terms[order]
    starts = _run_starts(terms)
    return PostingsBlock(
        chunk_ids=chunk_ids,
        lengths=lengths,
        languages=languages,
        language_of=language_of,
        file_of=file_of,
        file_ids=file_ids,
        terms=terms[starts],
        offsets=np.append(starts, len(terms)).astype(np.int64),
        rows=rows[order],
        freqs=freqs[order],
        live=np.ones(len(chunk_ids), dtype=np.bool_),
    )


def _sum_by_row(parts: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]], row_count: int) -> Matches:
    """Add up frequencies that fall on the same row; without sorting where the rows are many."""
    rows = np.concatenate([rows for rows, _ in parts]) if len(parts) > 1 else parts[0][0]
    freqs = np.concatenate([freqs for _, freqs in parts]) if len(parts) > 1 else parts[0][1]
    if len(rows) * _DENSE < row_count:
        order = np.argsort(rows, kind="stable")
        rows, freqs = rows[order], freqs[order]
        starts = _run_starts(rows)
        return Matches(rows[starts], np.add.reduceat(freqs, starts))
    sums = np.bincount(rows, weights=freqs, minlength=row_count).astype(np.float32)
    found = np.flatnonzero(sums).astype(np.int32)
    return Matches(found, sums[found])


def _run_starts(values: NDArray[np.int32]) -> NDArray[np.intp]:
    """Where a sorted array changes its value, 0 included."""
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))) if len(values) else np.empty(0, dtype=np.intp)
