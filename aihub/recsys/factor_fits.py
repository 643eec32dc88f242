"""Matrix factors of one training: settings, the fit without what is held out, and the one with it."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from aihub.recsys.evaluation import HoldOut
from aihub.recsys.factor_settings import choose_dim, choose_settings, choose_weight
from aihub.recsys.fit_checkpoint import FitCheckpoint
from aihub.recsys.ials import Factors, IalsSettings, complete_factors, dot_scores, fit_ials
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.neumf_fit import ScorePairs
from aihub.recsys.recommendation_settings import RecommendationSettings
from aihub.recsys.results import Cancelled, Progress

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
