"""Reciprocal rank fusion of BM25, vectors and a blend of their scores; and the score that a hybrid hit gets.

Ranks (Cormack, Clarke & Buettcher 2009) forget how far apart neighbours are, so a weighted mean of both scores, each on a scale
that holds for any query and embedder, votes twice: it is worth up to two points of nDCG@10 (`make bench-retrieval`), and ranks
guard against a misleading score. A rank says nothing of relevance: a logistic regression makes the hit's score of its cosine and
its share of BM25's most (docs/adr/0023-score-of-hybrid-search.md; fitted by `benchmarks/relevance_calibration.py`).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Scored = Sequence[tuple[Key, float]]
"""Keys with scores, best first."""

RANK_CONSTANT = 5
"""How slowly the value of a rank falls. On the train queries of scifact: 60 gives .710, 20 .718, 10 .723, 5 .725, 3 .726."""

BLEND_VOTES = 2.0
"""Weight of the blend's ranking, BM25's being 1."""

TEXT_SHARE = 0.35
"""BM25's part in the blend; .3 and .4 differ by less than .003 on each set."""


def fuse(text: Scored[Key], vectors: Scored[Key], *, vector_weight: float = 1.0) -> list[tuple[Key, float]]:
    """Fuse two rankings into one, best first.

    Args:
        text: Scores in any unit, 0 being no match.
        vectors: Cosine similarities.
        vector_weight: Weight of the vector ranking, and of the cosine in the blend, BM25's being 1.

    Returns:
        (key, score) with scores in (0, 1]; 1 is first place in every ranking.
    """
    blended = _blend(dict(text), dict(vectors), vector_weight)
    rankings = [(1.0, text), (vector_weight, vectors), (BLEND_VOTES, blended)]
    best = sum(weight for weight, _ in rankings) / (RANK_CONSTANT + 1)
    scores: dict[Key, float] = {}
    for weight, ranking in rankings:
        for rank, (key, _) in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0.0) + weight / (RANK_CONSTANT + rank)
    return sorted(((key, score / best) for key, score in scores.items()), key=lambda item: -item[1])


def _blend(text: dict[Key, float], vectors: dict[Key, float], vector_weight: float) -> Scored[Key]:
    """Rank by the weighted mean of both scores.

    BM25 as a share of its best; cosine as the way it has come from the last one found to 1, since what an embedder gives to
    unrelated texts differs from model to model. What a ranking did not find has 0 there.
    """
    most = max(text.values(), default=0.0) or 1.0
    least = min(vectors.values(), default=0.0)
    room = max(1.0 - least, 1e-9)
    vector_share = vector_weight * (1 - TEXT_SHARE)
    scores = {
        key: TEXT_SHARE * text.get(key, 0.0) / most + vector_share * (vectors.get(key, least) - least) / room
        for key in text | vectors
    }
    return sorted(scores.items(), key=lambda item: -item[1])


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
