"""The score of hybrid search: how likely a chunk answers the question, from its cosine and its share of BM25's most.

A rank says nothing of relevance: the best of a hundred wrong chunks is still first. Both inputs compare across questions, and a
logistic regression puts them on one scale. `python -m benchmarks.relevance_calibration` fits the numbers and prints what they
keep and drop on questions they were not fitted on.
"""

import math
from collections.abc import Mapping, Sequence

BIAS, COSINE, TEXT = -4.84, 8.82, 12.59
"""Where vectors can be trusted for the question's language."""

FOREIGN_BIAS, FOREIGN_TEXT = -5.63, 42.99
"""Where they cannot: words alone speak, and tone marks and syllable pairs spread them over more terms."""


def relevance(cosine: float, text: float, vector_weight: float) -> float:
    """Return the relevance of one chunk, 0 to 1.

    Args:
        cosine: Similarity of the vectors; 0 when they did not find the chunk.
        text: Share of the most BM25 could give for the question; 0 when it did not find the chunk.
        vector_weight: From `query_language.vector_weight`; below 1 the cosine says nothing.
    """
    evidence = BIAS + COSINE * cosine + TEXT * text if vector_weight >= 1 else FOREIGN_BIAS + FOREIGN_TEXT * text
    return 1.0 / (1.0 + math.exp(-evidence))


def descending(keys: Sequence[int], scores: Mapping[int, float]) -> dict[int, float]:
    """Return scores that never rise along a ranking: each key has at least the score of any key after it.

    The ranking is the better order; a threshold then cuts its end and leaves no holes.
    """
    kept: dict[int, float] = {}
    most = 0.0
    for key in reversed(keys):
        most = max(most, scores[key])
        kept[key] = most
    return kept
