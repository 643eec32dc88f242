"""Segments from texts, and BM25 written in plain Python to compare with."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from aihub.documents.search.analysis import QueryTerm, analyse
from aihub.documents.tables.records import LexicalSegment

K1, B = 1.2, 0.75
Name = TypeVar("Name", int, str)
Chunk = Mapping[int, int]
"""Frequency by term id."""


def segment_of(file_id: str, chunks: Sequence[Chunk], first_id: int, language: str = "en") -> LexicalSegment:
    """A file whose chunks hold the given terms; every occurrence counts as a word."""
    ordered = [sorted(chunk.items()) for chunk in chunks]
    return LexicalSegment(
        file_id=file_id,
        version=1,
        chunk_ids=list(range(first_id, first_id + len(chunks))),
        languages=[language] * len(chunks),
        term_ids=[np.array([term for term, _ in chunk], dtype="<i4").tobytes() for chunk in ordered],
        term_freqs=[np.array([count for _, count in chunk], dtype="<u2").tobytes() for chunk in ordered],
        term_totals=[sum(chunk.values()) for chunk in chunks],
    )


def segment_of_texts(file_id: str, texts: Sequence[str], first_id: int) -> LexicalSegment:
    """A file with one analysed chunk per text."""
    analysed = [analyse(text) for text in texts]
    return LexicalSegment(
        file_id=file_id,
        version=1,
        chunk_ids=list(range(first_id, first_id + len(texts))),
        languages=[terms.language for terms in analysed],
        term_ids=[terms.term_ids.tobytes() for terms in analysed],
        term_freqs=[terms.term_freqs.tobytes() for terms in analysed],
        term_totals=[terms.total for terms in analysed],
    )


def reference_scores(files: Mapping[str, Mapping[int, Chunk]], query: Sequence[QueryTerm]) -> dict[int, float]:
    """Chunk BM25 plus file BM25 of every chunk that holds a word of the query, as share of the most there could be."""
    chunks = {chunk_id: Counter(chunk) for file in files.values() for chunk_id, chunk in file.items()}
    whole = {file_id: sum((Counter(chunk) for chunk in file.values()), Counter()) for file_id, file in files.items() if file}
    by_chunk, most_by_chunk = _bm25(chunks, query)
    by_file, most_by_file = _bm25(whole, query)
    most = most_by_chunk + most_by_file
    return {
        chunk_id: (by_chunk[chunk_id] + by_file[file_id]) / most
        for file_id, file in files.items()
        for chunk_id in file
        if by_chunk[chunk_id] > 0
    }


def _bm25(units: Mapping[Name, Counter[int]], query: Sequence[QueryTerm]) -> tuple[dict[Name, float], float]:
    average = sum(sum(unit.values()) for unit in units.values()) / max(1, len(units))
    scores = dict.fromkeys(units, 0.0)
    most = 0.0
    for term in query:
        freqs = {
            name: sum(unit[term_id] * weight for term_id, weight in zip(term.ids, term.weights, strict=True))
            for name, unit in units.items()
        }
        holding = sum(freq > 0 for freq in freqs.values())
        top = term.boost * (K1 + 1) * math.log(1 + (len(units) - holding + 0.5) / (holding + 0.5))
        most += top
        for name, freq in freqs.items():
            norm = K1 * (1 - B + B * sum(units[name].values()) / average) if average else 0.0
            scores[name] += top * freq / (freq + norm) if freq else 0.0
    return scores, most
