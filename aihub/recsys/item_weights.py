"""Linear models as a product of two sparse matrices: what customers had, and weights from items to items, a few per item.

A customer's score of an item is the sum of the weights from what they had to it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.interactions import PairMatrix
from aihub.recsys.results import Cancelled, raise_if_cancelled

_DENSE_SHARE = 0.05  # of a sparse block: beyond it sorting what is there takes longer than parting whole rows

BLOCK_FLOATS = 16_000_000
"""Of the rows worked on at a time: 64 MB."""

Blocks = Callable[[NDArray[np.int64]], Any]
"""Weights towards some items (the rows asked for) from all, shape (rows, items): a numpy array or a scipy CSR matrix, float32."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """Scores are `left @ right`.

    Attributes:
        left: scipy CSR matrix (users, inner), float32; what users had, where inner are the items.
        right: scipy CSR matrix (inner, items), float32.
    """

    left: Any
    right: Any

    def rough_scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores (users, items) of all items."""
        scores: NDArray[np.float32] = (self.left[users] @ self.right).toarray()
        return scores

    def score(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.float32]:
        """Score `items` (users, k) for `users`."""
        scores = np.empty(items.shape, np.float32)
        for rows in row_blocks(len(users), self.right.shape[1]):
            scores[rows] = np.take_along_axis(self.rough_scores(users[rows]), items[rows], axis=1)
        return scores


def binary_matrix(pairs: PairMatrix) -> Any:
    """Return the pairs as a scipy CSR matrix (users, items) of ones, float32."""
    from scipy.sparse import csr_matrix

    ones = np.ones(len(pairs.items), np.float32)
    return csr_matrix((ones, pairs.items, pairs.indptr), shape=(pairs.n_users, pairs.n_items))


def keep_largest_towards(n_items: int, blocks: Blocks, neighbours: int, cancelled: Cancelled) -> Any:
    """Keep for each item the `neighbours` weights towards it that are largest in size, none from itself.

    Returns:
        scipy CSR matrix (items, items), float32: row i has the weights from item i.

    Raises:
        TrainingCancelledError: `cancelled` turned True; asked before each block.
    """
    from scipy.sparse import csr_matrix, vstack

    parts = [csr_matrix((0, n_items), dtype=np.float32)]
    for rows in row_blocks(n_items, n_items):
        raise_if_cancelled(cancelled)
        towards = blocks(rows)
        if not isinstance(towards, np.ndarray) and towards.nnz > _DENSE_SHARE * len(rows) * n_items:
            towards = towards.toarray()
        keep = _largest_dense if isinstance(towards, np.ndarray) else _largest
        parts.append(keep(towards, rows, neighbours))
    weights = vstack(parts).T.tocsr()
    weights.sort_indices()
    return weights.astype(np.float32)


def _largest(towards: Any, rows: NDArray[np.int64], neighbours: int) -> Any:
    from scipy.sparse import csr_matrix

    counts = np.diff(towards.indptr)
    owners = np.repeat(np.arange(len(rows)), counts)
    size = np.where(towards.indices == rows[owners], 0.0, np.abs(towards.data))
    order = np.lexsort((-size, owners))
    place = np.arange(len(owners)) - towards.indptr[:-1][owners]
    kept = np.sort(order[(place < neighbours) & (size[order] > 0)])
    indptr = np.r_[0, np.cumsum(np.bincount(owners[kept], minlength=len(rows)))]
    return csr_matrix((towards.data[kept], towards.indices[kept], indptr), shape=towards.shape)


def _largest_dense(towards: NDArray[np.float32], rows: NDArray[np.int64], neighbours: int) -> Any:
    from scipy.sparse import csr_matrix

    towards[np.arange(len(rows)), rows] = 0.0
    kept = min(neighbours, towards.shape[1])
    columns = np.argpartition(-np.abs(towards), kept - 1, axis=1)[:, :kept]
    weights = np.take_along_axis(towards, columns, axis=1)
    part = csr_matrix((weights.ravel(), columns.ravel(), np.arange(len(rows) + 1) * kept), shape=towards.shape)
    part.eliminate_zeros()
    return part


def row_blocks(rows: int, width: int) -> Iterator[NDArray[np.int64]]:
    """Cut rows of a dense matrix so that a block stays below `BLOCK_FLOATS`."""
    size = max(1, BLOCK_FLOATS // max(1, width))
    for start in range(0, rows, size):
        yield np.arange(start, min(rows, start + size))
