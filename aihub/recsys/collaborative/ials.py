"""Implicit alternating least squares (Hu, Koren and Volinsky 2008; settings of Rendle et al. 2021): two tables of factors.

Every pair of user and item counts: those that occurred towards 1 with their weight, all others towards 0 with a small one.
Regularisation grows with how often a row occurs. Each row is the exact solution of a small linear system; systems are
solved in batches of rows with like numbers of events, on the GPU when there is one.

Exact search for the largest dot products, without touching most of the items.

Items lie in falling order of length. By Cauchy and Schwarz no item of a later block can score more than the query's length
times the block's longest, so the search ends as soon as that is below the worst of the best found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.data.interactions import PairMatrix
from aihub.recsys.results import Cancelled, never_cancelled, raise_if_cancelled

_BATCH_FLOATS = 8_000_000  # of gathered factors and of systems: 32 MB each
_LARGEST_BATCH, _LARGEST_BATCH_OF_FEW = 256, 4096
_SCORED_FLOATS = 500_000  # gathered at a time; more would not stay in the processor's cache
_FEW_EVENTS = 2  # a row with at most one event per so many factors is solved by a system of the size of its events

Factors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of users (users, dim) and of items (items, dim); a score is their dot product."""


@dataclass(frozen=True, slots=True)
class IalsSettings:
    """How to factorise.

    Attributes:
        dim: Numbers per user and item.
        regularisation: Of a row's squared length, times its events and its share of the unobserved pairs.
        unobserved_weight: Of pairs that did not occur, relative to those that did.
        epochs: Sweeps over users and items.
        seed: Of the first factors.
    """

    dim: int = 128
    regularisation: float = 0.007
    unobserved_weight: float = 0.3
    epochs: int = 12
    seed: int = 0


def fit_ials(
    pairs: PairMatrix, settings: IalsSettings, after_epoch: Callable[[int, Factors], bool], cancelled: Cancelled = never_cancelled
) -> Factors:
    """Factorise.

    Args:
        pairs: Weights are taken relative to their mean.
        after_epoch: Called with the number of epochs done and the factors, which change afterwards; True ends the fit.

    Raises:
        TrainingCancelledError: `cancelled` turned True; asked before each batch.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(settings.seed)
    scale = 0.1 / settings.dim**0.5
    users = (torch.randn(pairs.n_users, settings.dim, generator=generator) * scale).to(device)
    items = (torch.randn(pairs.n_items, settings.dim, generator=generator) * scale).to(device)
    by_user, by_item = _batches(pairs, settings.dim), _batches(pairs.transpose(), settings.dim)
    for epoch in range(1, settings.epochs + 1):
        _solve_side(users, items, by_user, settings, cancelled)
        _solve_side(items, users, by_item, settings, cancelled)
        if after_epoch(epoch, (users.cpu().numpy(), items.cpu().numpy())):
            break
    return users.cpu().numpy(), items.cpu().numpy()


def dot_scores(factors: Factors, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.float32]:
    """Scores of `items` (users, k) for `users`, by index."""
    scores = np.empty(items.shape, np.float32)
    step = max(1, _SCORED_FLOATS // max(1, items.shape[1] * factors[0].shape[1]))
    for start in range(0, len(users), step):
        part = slice(start, start + step)
        scores[part] = np.matmul(factors[1][items[part]], factors[0][users[part]][:, :, None])[..., 0]
    return scores


def complete_factors(
    factors: Factors, pairs: PairMatrix, rows: NDArray[np.int64], settings: IalsSettings, cancelled: Cancelled = never_cancelled
) -> Factors:
    """Solve the factors of some users anew from all their pairs; items and other users stay.

    Args:
        factors: Of a fit that knew fewer pairs.
        rows: The users.
    """
    import torch

    users, items = torch.from_numpy(factors[0].copy()), torch.from_numpy(factors[1])
    _solve_side(users, items, _batches(pairs, users.shape[1], rows), settings, cancelled)
    return users.numpy(), factors[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Rows of one side, padded to the longest: `columns` and `weights` have shape (rows, longest); padding weighs 0."""

    rows: NDArray[np.int64]
    counts: NDArray[np.float32]
    columns: NDArray[np.int64]
    weights: NDArray[np.float32]


def _batches(pairs: PairMatrix, dim: int, rows: NDArray[np.int64] | None = None) -> Callable[[], Any]:
    """Cut the rows (all when None) into batches by number of events; built again at each sweep, since padded they would fill
    memory.
    """
    counts = np.diff(pairs.indptr)
    order = np.arange(pairs.n_users) if rows is None else rows
    order = order[np.argsort(counts[order], kind="stable")]
    relative = pairs.weights / max(float(pairs.weights.mean()), 1e-12) if len(pairs.weights) else pairs.weights

    def batches() -> Any:
        end = len(order)
        while end > 0:
            longest = max(1, int(counts[order[end - 1]]))
            largest = _LARGEST_BATCH_OF_FEW if longest * _FEW_EVENTS <= dim else _LARGEST_BATCH
            size = max(
                1,
                min(
                    largest,
                    _BATCH_FLOATS // (longest * dim),
                    _BATCH_FLOATS // (dim * dim) if largest == _LARGEST_BATCH else end,
                    end,
                ),
            )
            rows = order[end - size : end]
            inside = np.arange(longest) < counts[rows][:, None]
            places = np.where(inside, pairs.indptr[rows][:, None] + np.arange(longest), 0)
            yield _Batch(
                rows,
                counts[rows].astype(np.float32),
                np.where(inside, pairs.items[places], 0).astype(np.int64),
                np.where(inside, relative[places], 0).astype(np.float32),
            )
            end -= size

    return batches


def _solve_side(out: Any, fixed: Any, batches: Callable[[], Any], settings: IalsSettings, cancelled: Cancelled) -> None:
    import torch

    unobserved = settings.unobserved_weight * len(fixed)
    values, vectors = torch.linalg.eigh((settings.unobserved_weight * (fixed.T @ fixed)).double())
    values, vectors = values.clamp(min=0).to(fixed.dtype), vectors.to(fixed.dtype)
    gram = settings.unobserved_weight * (fixed.T @ fixed)
    rotated = fixed @ vectors
    for batch in batches():
        raise_if_cancelled(cancelled)
        columns, weights, counts = (
            torch.from_numpy(part).to(out.device) for part in (batch.columns, batch.weights, batch.counts)
        )
        # The small constant keeps a row without events, and one whose weights are all tiny, solvable.
        ridges = (settings.regularisation * (counts + unobserved) + 1e-6)[:, None]
        if columns.shape[1] * _FEW_EVENTS <= fixed.shape[1]:
            solved = _solve_few(rotated[columns], weights, values + ridges) @ vectors.T
        else:
            gathered = fixed[columns]
            weighted = gathered * weights[..., None]
            systems = torch.baddbmm(gram.expand(len(columns), -1, -1), gathered.mT, weighted)
            systems.diagonal(dim1=1, dim2=2).add_(ridges)
            solved = torch.cholesky_solve(weighted.sum(1)[..., None], torch.linalg.cholesky(systems))[..., 0]
        out[torch.from_numpy(batch.rows).to(out.device)] = solved


def _solve_few(rotated: Any, weights: Any, diagonal: Any) -> Any:
    """Solve rows with fewer events than factors by systems of the size of their events (Woodbury).

    Args:
        rotated: (rows, events, dim), gathered factors in the basis in which all unobserved pairs make a diagonal matrix.
        weights: (rows, events); padding weighs 0.
        diagonal: (rows, dim), of that matrix with the regularisation.

    Returns:
        (rows, dim), in the same basis.
    """
    import torch

    is_event = weights > 0
    rotated = rotated * is_event[..., None]
    scaled = rotated / diagonal[:, None, :]
    systems = rotated @ scaled.mT
    systems.diagonal(dim1=1, dim2=2).add_(torch.where(is_event, 1.0 / weights.clamp(min=1e-12), 1.0))
    ones = is_event.to(rotated.dtype)[..., None]
    found = torch.cholesky_solve(ones, torch.linalg.cholesky(systems))
    return (scaled.mT @ found)[..., 0]


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
