"""Exact search for the largest dot products, without touching most of the items.

Items lie in falling order of length. By Cauchy and Schwarz no item of a later block can score more than the query's length
times the block's longest, so the search ends as soon as that is below the worst of the best found.
"""

import numpy as np
from numpy.typing import NDArray

_FIRST_BLOCK = 4096
_GROWTH = 2


def falling_lengths(items: NDArray[np.float32]) -> NDArray[np.int64]:
    """The order in which rows of factors must lie."""
    return np.argsort(-np.linalg.norm(items, axis=1), kind="stable")


def largest(
    items: NDArray[np.float32], lengths: NDArray[np.float32], query: NDArray[np.float32], n: int, excluded: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the `n` items with the largest dot product.

    Args:
        items: In falling order of length; may be a memory map.
        lengths: Of each item.
        query: One user's factors.
        excluded: Rows that may not be found, ascending.

    Returns:
        Rows and scores, best first; equal scores in order of rows. Fewer than `n` when no more are left.
    """
    query_length = float(np.linalg.norm(query))
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    start, size = 0, max(_FIRST_BLOCK, n)
    while start < len(items):
        if len(scores) == n and query_length * float(lengths[start]) * (1 + 1e-6) < scores[-1]:
            break
        end = min(start + size, len(items))
        found = items[start:end] @ query
        lower, upper = np.searchsorted(excluded, (start, end))
        found[excluded[lower:upper] - start] = -np.inf
        if len(scores) == n:
            near = np.flatnonzero(found > scores[-1])
        else:
            near = np.flatnonzero(found > -np.inf)
        rows, scores = np.concatenate([rows, near + start]), np.concatenate([scores, found[near]])
        rows, scores = _best(rows, scores, n)
        start, size = end, size * _GROWTH
    return rows, scores


def _best(rows: NDArray[np.int64], scores: NDArray[np.float32], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if len(scores) > 4 * n:
        worst = np.partition(scores, len(scores) - n)[len(scores) - n]
        kept = np.flatnonzero(scores >= worst)
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:n]
    return rows[order], scores[order]
