"""Which size and which weights a store's matrix factors get."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aihub.recsys.ials import Factors, IalsSettings, dot_scores, fit_ials
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.neumf_fit import ScorePairs
from aihub.recsys.results import Cancelled, Progress
from aihub.recsys.setting_search import Settings, climb

_DIMS = (192, 128, 64, 32)
_SMALL_DIMS = (8, 16, 32, 64, 128, 256, 512)
_FLOPS_PER_S = 2.5e10  # of one core, with room for what else it does
_LARGEST_SEARCHED_FLOATS = 20_000_000  # where the size is chosen by quality
_SEARCHED_FLOATS = 8_000_000  # items times dim: 100,000 of 64 answer in about 1 ms, of 192 in 5.5 ms
_SEARCH_DIM = 64  # with fewer numbers, other weights win than with many
_SEARCH_EPOCHS = 4
_SEARCH_PAIRS = 1_000_000
_UNOBSERVED_EVENTS = 1_000.0
_LEAST_WEIGHT, _LARGEST_WEIGHT = 0.001, 1.0
_DOUBLINGS = range(-7, 8)
_STEPS = (2, 1)
_SPARSE_START = (-3, 2)  # doublings of weight and regularisation at which sparse shops begin
_PAIRED_SPREAD = 0.05  # standard deviation of one case's difference in NDCG between two neighbours on the grid
_WEIGHTS = ({"unobserved_weight": 1}, {"unobserved_weight": -1})
_RIDGES = ({"regularisation": 1}, {"regularisation": -1})
_BOTH = ({"unobserved_weight": 1, "regularisation": -1}, {"unobserved_weight": -1, "regularisation": 1})
_SIZES = ({"dim": 1}, {"dim": -1})


def choose_dim(pairs: PairMatrix, epochs: int, limit_s: float) -> int:
    """The largest size whose sweeps fit into the time on one core, and whose items are searched in milliseconds."""
    rows = pairs.n_users + pairs.n_items
    for dim in _DIMS:
        if pairs.n_items * dim > _SEARCHED_FLOATS:
            continue
        work = epochs * (4.0 * len(pairs.items) * dim**2 + rows * dim**3)
        if work / _FLOPS_PER_S <= limit_s:
            return dim
    return _DIMS[-1]


def choose_weight(n_items: int) -> float:
    """The first weight of unobserved pairs: a user's together weigh as much as about a thousand events.

    So do the tuned settings of Rendle et al. 2021 on catalogues of 3,700 to 41,000 items; a weight fixed for small catalogues
    would press everything to nothing in large ones, as regularisation grows with it.
    """
    return min(_LARGEST_WEIGHT, max(_LEAST_WEIGHT, _UNOBSERVED_EVENTS / max(1, n_items)))


def choose_settings(
    pairs: PairMatrix,
    first: IalsSettings,
    judge: Callable[[ScorePairs], float],
    cases: int,
    progress: Progress,
    cancelled: Cancelled,
    *,
    until: float = float("inf"),
    fixed: frozenset[str] = frozenset(),
    is_small: bool = False,
) -> IalsSettings:
    """Climb to the weight of unobserved pairs and the regularisation, over two decades each way, that the hold-out likes best.

    A small shop's search begins from a second place, too, where sparse data is known to do well, and goes on to the size.
    Stores with more than a million pairs keep `first`: a search would take longer than it gains.

    Args:
        cases: How many `judge` looks at.
        until: `time.monotonic()` after which nothing more is tried.
        fixed: Names that keep the value of `first`.
        is_small: Whether `dim` is chosen here, too; else it stays.
    """
    from torch.linalg import LinAlgError

    if len(pairs.items) > _SEARCH_PAIRS:
        return first
    margin = _PAIRED_SPREAD / max(1, cases) ** 0.5
    begun, span_s = time.monotonic(), max(1e-3, until - time.monotonic())

    def quality(changed: Settings) -> float:
        candidate = replace(first, epochs=min(first.epochs, _SEARCH_EPOCHS), **changed)
        found: list[float] = []

        def after_epoch(epoch: int, factors: Factors) -> bool:
            if epoch == candidate.epochs:
                found.append(judge(lambda users, items: dot_scores(factors, users, items)))
            return False

        try:
            fit_ials(pairs, candidate, after_epoch, cancelled)
        except LinAlgError:  # so little regularisation that single precision cannot solve it
            found.append(0.0)
        progress("settings", min(1.0, (time.monotonic() - begun) / span_s))
        return found[0]

    search_dim = first.dim if "dim" in fixed else _SEARCH_DIM
    grids: dict[str, list[Any]] = {
        "unobserved_weight": _doublings(first.unobserved_weight, "unobserved_weight" in fixed, most=_LARGEST_WEIGHT),
        "regularisation": _doublings(first.regularisation, "regularisation" in fixed),
        "dim": [search_dim],
    }
    begin: Settings = {name: getattr(first, name) for name in grids} | {"dim": search_dim}
    starts = [begin, begin | _sparse_start(grids, begin)] if is_small else [begin]
    moves = (*_WEIGHTS, *_RIDGES, *_BOTH)
    # The size comes last and has half of the time: large ones are slow, and change the best weights little.
    half = until if not is_small else begun + span_s / 2
    best, _ = climb(grids, starts, quality, until=half, steps=_STEPS, moves=moves, margin=margin)
    if is_small and "dim" not in fixed:
        sizes = [dim for dim in _SMALL_DIMS if pairs.n_items * dim <= _LARGEST_SEARCHED_FLOATS or dim <= _SEARCH_DIM]
        best, _ = climb(
            grids | {"dim": sizes}, [best], quality, until=until, moves=(*_SIZES, *_RIDGES, *_WEIGHTS), margin=margin
        )  # fmt: skip
    return replace(first, **(best if is_small else best | {"dim": first.dim}))


def _doublings(first: float, is_fixed: bool, *, most: float = 10.0) -> list[float]:
    if is_fixed or first <= 0:
        return [first]
    return [value for value in (first * 2.0**power for power in _DOUBLINGS) if value <= max(most, first)]


def _sparse_start(grids: dict[str, list[Any]], begin: Settings) -> Settings:
    moved = dict(begin)
    for name, step in zip(("unobserved_weight", "regularisation"), _SPARSE_START, strict=True):
        place = grids[name].index(begin[name]) + step
        moved[name] = grids[name][min(max(place, 0), len(grids[name]) - 1)]
    return moved
