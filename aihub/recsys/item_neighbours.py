"""Item neighbours: cosine with shrinkage, and random walks over three steps (RP3beta).

Both win on sparse data where anything with more parameters learns by heart (Dacrema et al. 2019).
"""

from typing import Any

import numpy as np

from aihub.recsys.interactions import PairMatrix
from aihub.recsys.item_weights import LinearModel, binary_matrix, keep_largest_towards
from aihub.recsys.results import Cancelled, never_cancelled


def fit_cosine(
    pairs: PairMatrix, *, kept: int, shrinkage: float, by_rarity: bool, cancelled: Cancelled = never_cancelled
) -> LinearModel:
    """Weigh items by the cosine of who had them.

    Args:
        kept: Neighbours of each item.
        shrinkage: Added to the product of the lengths: pairs seen together a few times count less.
        by_rarity: Customers with few items count more (inverse frequency, as words in texts).

    """
    had = binary_matrix(pairs)
    if by_rarity:
        counts = np.maximum(np.diff(pairs.indptr), 1)
        had = had.multiply(np.sqrt(np.log1p(pairs.n_items / counts))[:, None]).tocsr().astype(np.float32)
    by_item = had.T.tocsr()
    lengths = np.sqrt(np.asarray(by_item.multiply(by_item).sum(axis=1)).ravel()).astype(np.float32)

    def blocks(rows: Any) -> Any:
        together = (by_item[rows] @ had).tocsr()
        ends = np.repeat(lengths[rows], np.diff(together.indptr))
        together.data /= ends * lengths[together.indices] + np.float32(shrinkage + 1e-6)
        return together

    return LinearModel(binary_matrix(pairs), keep_largest_towards(pairs.n_items, blocks, kept, cancelled))


def fit_walks(pairs: PairMatrix, *, kept: int, alpha: float, beta: float, cancelled: Cancelled = never_cancelled) -> LinearModel:
    """Weigh items by the chance that a walk item - customer - item ends there, divided by popularity (RP3beta).

    Args:
        kept: Neighbours of each item.
        alpha: Power of each step's chance.
        beta: Power of the popularity of the end; 0 leaves popular items ahead.

    """
    from scipy.sparse import diags

    had = binary_matrix(pairs)
    of_users = np.maximum(np.diff(pairs.indptr), 1).astype(np.float32)
    of_items = np.maximum(pairs.item_counts(), 1).astype(np.float32)
    # Both steps have the same power, so one matrix (items, items) of walks is scaled by item on either side.
    by_item = (had.T @ diags(of_users**-alpha)).tocsr()
    start, end = of_items**-alpha, of_items**-beta

    def blocks(rows: Any) -> Any:
        walks = (by_item[rows] @ had).tocsr()
        walks.data *= start[walks.indices] * np.repeat(end[rows], np.diff(walks.indptr))
        return walks

    return LinearModel(binary_matrix(pairs), keep_largest_towards(pairs.n_items, blocks, kept, cancelled))
