"""Linear models as a product of two sparse matrices: what customers had, and weights from items to items, a few per item.

A customer's score of an item is the sum of the weights from what they had to it.

EASE (Steck 2019): the linear regression of every item on all others, in closed form.

With the Gram matrix G of items, P = (G + ridge)^-1 has the answer: the weight from i to j is -P[i, j] / P[j, j]. Where a shop
has fewer customers than items, P follows from the smaller system of its customers (Woodbury): no matrix of items by items is
made.

Item neighbours: cosine with shrinkage, and random walks over three steps (RP3beta).

Both win on sparse data where anything with more parameters learns by heart (Dacrema et al. 2019).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.data.interactions import PairMatrix
from aihub.recsys.results import Cancelled, never_cancelled, raise_if_cancelled

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
