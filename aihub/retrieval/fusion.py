"""Weighted reciprocal rank fusion."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

RANK_CONSTANT = 60
"""Of Cormack, Clarke & Buettcher 2009: how slowly the value of a rank falls."""


def fuse(rankings: Sequence[tuple[float, Sequence[Key]]], *, rank_constant: int = RANK_CONSTANT) -> list[tuple[Key, float]]:
    """Fuse rankings into one, best first.

    Args:
        rankings: (weight, keys best first) per ranker.
        rank_constant: The constant of the method.

    Returns:
        (key, score) with scores in (0, 1]; 1 is first place in every ranking of positive weight.
    """
    most = sum(weight for weight, _ in rankings) / (rank_constant + 1)
    scores: dict[Key, float] = {}
    for weight, keys in rankings:
        for rank, key in enumerate(keys, start=1):
            scores[key] = scores.get(key, 0.0) + weight / (rank_constant + rank)
    return sorted(((key, score / most) for key, score in scores.items()), key=lambda item: -item[1])
