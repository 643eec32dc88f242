"""EASE (Steck 2019): the linear regression of every item on all others, in closed form.

With the Gram matrix G of items, P = (G + ridge)^-1 has the answer: the weight from i to j is -P[i, j] / P[j, j]. Where a shop
has fewer customers than items, P follows from the smaller system of its customers (Woodbury): no matrix of items by items is
made.
"""

from typing import Any

import numpy as np

from aihub.recsys.interactions import PairMatrix
from aihub.recsys.item_weights import LinearModel, binary_matrix, keep_largest_towards, row_blocks
from aihub.recsys.results import Cancelled, never_cancelled, raise_if_cancelled

LARGEST_SIDE = 6_000
"""Rows of the dense system: the fewer of customers and items. 6,000 take 144 MB in single precision and about ten seconds."""


def fit_ease(pairs: PairMatrix, *, ridge: float, kept: int, cancelled: Cancelled = never_cancelled) -> LinearModel:
    """Fit on whichever side is smaller.

    Args:
        ridge: Added to the diagonal of the Gram matrix.
        kept: Weights towards an item, or of a customer, that are kept: those largest in size.

    Raises:
        TrainingCancelledError: `cancelled` turned True.
    """
    raise_if_cancelled(cancelled)
    if pairs.n_items <= pairs.n_users:
        return _fit_by_items(pairs, ridge, kept, cancelled)
    return _fit_by_customers(pairs, ridge, kept, cancelled)


def _fit_by_items(pairs: PairMatrix, ridge: float, kept: int, cancelled: Cancelled) -> LinearModel:
    had = binary_matrix(pairs)
    inverse = _invert((had.T @ had).toarray(), ridge)
    diagonal = np.diagonal(inverse).copy()

    def blocks(rows: Any) -> Any:
        return inverse[rows] / -diagonal[rows][:, None]

    return LinearModel(had, keep_largest_towards(pairs.n_items, blocks, kept, cancelled))


def _fit_by_customers(pairs: PairMatrix, ridge: float, kept: int, cancelled: Cancelled) -> LinearModel:
    """Weigh customers instead of items: A = 1 - ridge (X X' + ridge)^-1, and a score is (A X)[u, j] / (1 - s[j]).

    There s[j] = x[j]' (X X' + ridge)^-1 x[j] is the item's share in explaining itself. What a customer had explains itself, too;
    that part is taken off by the second half of the product, as by the zero diagonal of the weights of items.
    """
    from scipy.sparse import diags, hstack, vstack

    had = binary_matrix(pairs)
    by_item = had.T.tocsr()
    inverse = _invert((had @ had.T).toarray(), ridge)
    shares = np.concatenate([
        np.asarray(by_item[rows].multiply(by_item[rows] @ inverse).sum(axis=1)).ravel()
        for rows in row_blocks(pairs.n_items, pairs.n_users)
    ]).astype(np.float32)  # fmt: skip
    own = 1.0 - ridge * np.diagonal(inverse)

    def blocks(rows: Any) -> Any:
        return inverse[rows] * np.float32(-ridge)

    others = keep_largest_towards(pairs.n_users, blocks, kept, cancelled).T
    rest = 1.0 - shares
    left = hstack([others + diags(own), had]).tocsr()
    right = vstack([had @ diags(1.0 / rest), diags(-shares / rest)]).tocsr()
    return LinearModel(left.astype(np.float32), right.astype(np.float32))


def _invert(gram: Any, ridge: float) -> Any:
    import torch

    system = torch.from_numpy(gram)
    system.diagonal().add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(system)).numpy()
