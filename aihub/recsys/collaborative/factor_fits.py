"""Matrix factors of one training: which size and weights they get, the fit without what is held out, and the one with it."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.collaborative.evaluation import HoldOut
from aihub.recsys.collaborative.ials import Factors, IalsSettings, complete_factors, dot_scores, fit_ials
from aihub.recsys.collaborative.neumf_training import ScorePairs
from aihub.recsys.collaborative.settings import RecommendationSettings, Settings, climb
from aihub.recsys.data.interactions import PairMatrix
from aihub.recsys.results import Cancelled, Progress

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
    if len(pairs.items) > _SEARCH_PAIRS:
        return first
    margin = _PAIRED_SPREAD / max(1, cases) ** 0.5
    begun, span_s = time.monotonic(), max(1e-3, until - time.monotonic())

    def quality(changed: Settings) -> float:
        candidate = replace(first, epochs=min(first.epochs, _SEARCH_EPOCHS), **changed)
        found = _quality(pairs, candidate, judge, cancelled)
        progress("settings", min(1.0, (time.monotonic() - begun) / span_s))
        return found

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


def _quality(pairs: PairMatrix, settings: IalsSettings, judge: Callable[[ScorePairs], float], cancelled: Cancelled) -> float:
    """Fit factors and return what the hold-out says of them after the last epoch."""
    from torch.linalg import LinAlgError

    found: list[float] = []

    def after_epoch(epoch: int, factors: Factors) -> bool:
        if epoch == settings.epochs:
            found.append(judge(lambda users, items: dot_scores(factors, users, items)))
        return False

    try:
        fit_ials(pairs, settings, after_epoch, cancelled)
    except LinAlgError:  # so little regularisation that single precision cannot solve it
        return 0.0
    return found[0]


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


_LIMIT_SHARE, _LIMIT_SHARE_OF_SMALL = 0.4, 0.6  # of the time limit
_SEARCH_SHARE, _SEARCH_SHARE_OF_SMALL = 0.4, 0.7  # of that
_LONGEST_SEARCH_S = 60.0
_LEAST_EPOCHS = 4  # of a small store; fewer are worse than any settings
_STAGE, _FULL_STAGE = "factors", "factors_of_everything"


class FactorFits:
    """Both fits, each done once and kept in the checkpoint.

    Args:
        pairs, train: All pairs, and those without the held-out ones.
        cases: The held-out ones, by index.
        judge: Quality on them.
        is_small: Whether the store is fitted anew with what was held out; else only the customers concerned are.

    Attributes:
        chosen: Settings, once fitted; `epochs` are those that were best.
    """

    def __init__(
        self,
        pairs: PairMatrix,
        train: PairMatrix,
        cases: HoldOut,
        judge: Callable[[ScorePairs], float],
        settings: RecommendationSettings,
        progress: Progress,
        cancelled: Cancelled,
        checkpoint: FitCheckpoint,
        *,
        is_small: bool,
    ) -> None:
        weight = settings.unobserved_weight or choose_weight(pairs.n_items)
        self.chosen = replace(settings.ials, unobserved_weight=weight)
        self._pairs, self._train, self._cases = pairs, train, cases
        self._judge, self._settings, self._is_small = judge, settings, is_small
        self._progress, self._cancelled, self._checkpoint = progress, cancelled, checkpoint
        self._judged: Factors | None = None
        self._full: Factors | None = None

    def judged(self) -> Factors:
        """Factors without what is held out, of this run or of the killed one before it."""
        if self._judged is None:
            saved = self._checkpoint.load(_STAGE)
            if saved is None:
                self._judged = self._fit()
                arrays = dict(zip(("users", "items"), self._judged, strict=True))
                self._checkpoint.save(_STAGE, arrays, asdict(self.chosen))
            else:
                self._judged = saved.arrays["users"], saved.arrays["items"]
                self.chosen = IalsSettings(**saved.facts)
        return self._judged

    def full(self) -> Factors:
        """Factors with everything."""
        if self._full is None:
            judged = self.judged()
            saved = self._checkpoint.load(_FULL_STAGE)
            if saved is not None:
                self._full = saved.arrays["users"], saved.arrays["items"]
            elif self._is_small:
                self._progress("rebuilding", 0.0)
                self._full = fit_ials(self._pairs, self.chosen, lambda epoch, factors: False, self._cancelled)
                self._checkpoint.save(_FULL_STAGE, dict(zip(("users", "items"), self._full, strict=True)))
            else:
                self._full = complete_factors(judged, self._pairs, np.unique(self._cases.users), self.chosen, self._cancelled)
        return self._full

    def _fit(self) -> Factors:
        """The epoch of a factorisation that is best on the hold-out."""
        settings = self._settings
        limit_s = settings.time_limit_s * (_LIMIT_SHARE_OF_SMALL if self._is_small else _LIMIT_SHARE)
        started = time.monotonic()
        if settings.search:
            given = {"dim": settings.dim, "unobserved_weight": settings.unobserved_weight}
            self.chosen = choose_settings(
                self._train,
                self.chosen if settings.dim is None else replace(self.chosen, dim=settings.dim),
                self._judge,
                len(self._cases),
                self._progress,
                self._cancelled,
                until=started + min(limit_s * (_SEARCH_SHARE_OF_SMALL if self._is_small else _SEARCH_SHARE), _LONGEST_SEARCH_S),
                fixed=frozenset(name for name, value in given.items() if value is not None),
                is_small=self._is_small,
            )
        if settings.dim is not None or not (self._is_small and settings.search):
            dim = settings.dim or choose_dim(self._train, self.chosen.epochs, limit_s)
            self.chosen = replace(self.chosen, dim=dim)
        best: list[tuple[float, int, Factors]] = []

        def after_epoch(epoch: int, factors: Factors) -> bool:
            self._progress("matrix factors", epoch / self.chosen.epochs)
            quality = self._judge(lambda users, items: dot_scores(factors, users, items))
            if not best or quality > best[0][0]:
                best[:] = [(quality, epoch, (factors[0].copy(), factors[1].copy()))]
            return time.monotonic() > started + limit_s and (epoch >= _LEAST_EPOCHS or not self._is_small)

        fit_ials(self._train, self.chosen, after_epoch, self._cancelled)
        self.chosen = replace(self.chosen, epochs=best[0][1])
        return best[0][2]
