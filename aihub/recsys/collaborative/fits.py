"""The fits of one training: every family on the same split, and those that are kept with what was held out, too.

The linear candidates of a training: item neighbours, random walks and EASE, each with a small search for its settings.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.collaborative.evaluation import HoldOut, rank_metrics
from aihub.recsys.collaborative.factor_fits import FactorFits
from aihub.recsys.collaborative.linear_models import LARGEST_SIDE, LinearModel, fit_cosine, fit_ease, fit_walks
from aihub.recsys.collaborative.linear_recommender import Catalogue, LinearRecommender
from aihub.recsys.collaborative.neumf import calibrate, shift_users
from aihub.recsys.collaborative.neumf_training import NeumfFit, ScorePairs, complete_users, fit_epochs, fit_neumf
from aihub.recsys.collaborative.recommender import Recommender
from aihub.recsys.collaborative.settings import RecommendationSettings, Settings, climb
from aihub.recsys.data.interactions import IndexedInteractions, PairMatrix
from aihub.recsys.results import Cancelled, Progress

_LARGEST_WORK = 2_000_000_000  # pairs of items met in customers' histories: about a minute of one core
_LARGEST_CATALOGUE = 200_000
_KEPT_WEIGHTS = 40_000_000  # 320 MB


@dataclass(frozen=True, slots=True)
class _Search:
    fit: Callable[..., LinearModel]
    grids: dict[str, list[Any]]
    start: Settings


_SEARCHES: dict[str, _Search] = {
    "knn": _Search(
        fit_cosine,
        {"by_rarity": [False, True], "shrinkage": [0.0, 5.0, 20.0, 100.0], "kept": [50, 200, 1000]},
        {"by_rarity": True, "shrinkage": 20.0, "kept": 200},
    ),
    "rp3beta": _Search(
        fit_walks,
        {"beta": [0.0, 0.2, 0.4, 0.6], "alpha": [0.5, 0.75, 1.0, 1.3], "kept": [50, 200, 1000]},
        {"beta": 0.4, "alpha": 1.0, "kept": 200},
    ),
    "ease": _Search(
        fit_ease,
        {"ridge": [1.0, 5.0, 20.0, 100.0, 400.0, 1000.0, 3000.0], "kept": [50, 200, 1000]},
        {"ridge": 100.0, "kept": 200},
    ),
}


def why_left_out(family: str, pairs: PairMatrix) -> str | None:
    """Say what makes a store too large for a family; None when it is not."""
    work = float(np.square(np.diff(pairs.indptr), dtype=np.float64).sum())
    if pairs.n_items > _LARGEST_CATALOGUE:
        return f"{pairs.n_items} items are more than {_LARGEST_CATALOGUE}"
    if work > _LARGEST_WORK:
        return f"customers had too many items together: {work:.1e} pairs of them are more than {_LARGEST_WORK:.1e}"
    side = min(pairs.n_users, pairs.n_items)
    if family == "ease" and side > LARGEST_SIDE:
        return f"neither customers nor items are at most {LARGEST_SIDE}"
    return None


def fit_linear(family: str, settings: Settings, pairs: PairMatrix, cancelled: Cancelled) -> LinearModel:
    """Fit a family with settings that `choose_linear` found."""
    kept = max(10, min(settings["kept"], _KEPT_WEIGHTS // max(1, pairs.n_items)))
    return _SEARCHES[family].fit(pairs, **(settings | {"kept": kept}), cancelled=cancelled)


def choose_linear(
    family: str, train: PairMatrix, judge: Callable[[ScorePairs], float], cancelled: Cancelled, *, limit_s: float
) -> Settings:
    """Search for settings for up to `limit_s` seconds; at least the first are tried.

    Raises:
        TrainingCancelledError: `cancelled` turned True.
    """
    search = _SEARCHES[family]

    def quality(settings: Settings) -> float:
        return judge(fit_linear(family, settings, train, cancelled).score)

    best, _ = climb(search.grids, [search.start], quality, until=time.monotonic() + limit_s)
    return best


logger = logging.getLogger(__name__)

SMALL_PAIRS = 400_000
"""A store with no more is fitted anew with what was held out; of a larger one only the customers concerned are completed."""

_EPOCHS_SHARE = 0.75  # of the time limit: no epoch starts later, as what is kept is still to learn what was held out
_LINEAR_SHARE = 0.04  # of the time limit, for each linear family
_LONGEST_LINEAR_S = 15.0

Model = Recommender | LinearRecommender


class RecommenderFits:
    """One training.

    Args:
        indexed: What the store has.
        pairs, train: All pairs, and those without the held-out ones.
        cases: The held-out ones, by index.

    Attributes:
        factors: The matrix factors.
        linear: Settings of the linear families that were fitted.
        left_out: Families the store is too large for, and why.
        seconds: Of each family, and of a mean epoch of NeuMF.
        neumf_epochs: NeuMF's best epoch and how many there were.
        started: `time.monotonic()` at the begin.
    """

    def __init__(
        self,
        indexed: IndexedInteractions,
        pairs: PairMatrix,
        train: PairMatrix,
        cases: HoldOut,
        settings: RecommendationSettings,
        progress: Progress,
        cancelled: Cancelled,
        checkpoint: FitCheckpoint,
    ) -> None:
        self.train, self.cases = train, cases
        self.linear: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.neumf_epochs: tuple[int, int] | None = None
        self.started = time.monotonic()
        self._pairs, self._settings = pairs, settings
        self._is_small = len(pairs.items) <= SMALL_PAIRS
        self._tables = indexed.user_table, indexed.item_table, pairs.item_counts()
        self._until = self.started + settings.time_limit_s * _EPOCHS_SHARE
        self._progress, self._cancelled, self._checkpoint = progress, cancelled, checkpoint
        self._neumf: NeumfFit | None = None
        self._is_pretrained = settings.pretrain
        self.factors = FactorFits(
            pairs, train, cases, self._judge, settings, progress, cancelled, checkpoint, is_small=self._is_small
        )  # fmt: skip

    @property
    def catalogue(self) -> Catalogue:
        """With everything."""
        return self._catalogue(self._pairs)

    def fit(self, family: str) -> Model | None:
        """Fit a family without what is held out; None when the store is too large for it."""
        started = time.monotonic()
        fitted: Model | None
        if family == "ials":
            fitted = Recommender.of_factors(self.factors.judged(), *self._tables)
        elif family == "neumf":
            fitted = Recommender.of_neumf(self._fit_neumf().parameters, *self._tables)
        elif family == "popular":
            fitted = LinearRecommender("popular", self._catalogue(self.train))
        else:
            fitted = self._fit_linear(family)
        self.seconds[family] = time.monotonic() - started
        return fitted

    def complete(self, family: str, judged: Model) -> Model:
        """The model of a family that has learnt what was held out, too, and is judged without."""
        self._progress("rebuilding", 0.0)
        if isinstance(judged, LinearRecommender):
            model = None
            if family in self.linear:
                model = fit_linear(family, self.linear[family], self._pairs, self._cancelled)
            return LinearRecommender(family, self._catalogue(self._pairs), model, judged=judged)
        rows = np.unique(self.cases.users)
        if family == "ials":
            if self._is_small:
                return replace(Recommender.of_factors(self.factors.full(), *self._tables), judged=judged)
            return Recommender.of_factors(self.factors.full(), *self._tables, judged_rows=rows, judged=self.factors.judged())
        if self._is_small:
            return replace(Recommender.of_neumf(self._full_neumf(), *self._tables), judged=judged)
        return Recommender.of_neumf(self._full_neumf(), *self._tables, judged_rows=rows, judged=self._fit_neumf().parameters)

    def _catalogue(self, pairs: PairMatrix) -> Catalogue:
        return Catalogue(self._tables[0], self._tables[1], pairs.item_counts())

    def _fit_linear(self, family: str) -> LinearRecommender | None:
        reason = why_left_out(family, self._pairs)
        if reason is not None:
            self.left_out[family] = reason
            logger.info("The family %s is left out: %s.", family, reason)
            return None
        self._progress(family, 0.0)
        saved = self._checkpoint.load(family)
        if saved is None:
            limit_s = min(_LONGEST_LINEAR_S, self._settings.time_limit_s * _LINEAR_SHARE) if self._settings.search else 0.0
            self.linear[family] = choose_linear(family, self.train, self._judge, self._cancelled, limit_s=limit_s)
            self._checkpoint.save(family, {"chosen": np.ones(1)}, self.linear[family])
        else:
            self.linear[family] = saved.facts
        model = fit_linear(family, self.linear[family], self.train, self._cancelled)
        return LinearRecommender(family, self._catalogue(self.train), model)

    def _fit_neumf(self) -> NeumfFit:
        """NeuMF from factors or without them; in a small store the better of both."""
        if self._neumf is None:
            ways = (True, False) if self._is_small and self._settings.pretrain else (self._settings.pretrain,)
            fits = {is_pretrained: self._fit_neumf_once(is_pretrained) for is_pretrained in ways}
            self._is_pretrained = max(fits, key=lambda way: fits[way].quality)
            self._neumf = fits[self._is_pretrained]
            self.seconds["neumf_epoch"] = self._neumf.epoch_s
            self.neumf_epochs = (self._neumf.best_epoch, self._neumf.epochs)
        return self._neumf

    def _fit_neumf_once(self, is_pretrained: bool) -> NeumfFit:
        settings = self._settings.neumf
        return fit_neumf(
            self.train,
            settings,
            self._judge,
            factors=self.factors.judged() if is_pretrained else None,
            until=self._until,
            after_epoch=lambda epoch, quality: self._progress("NeuMF", epoch / settings.epochs),
            cancelled=self._cancelled,
            checkpoint=self._checkpoint,
            stage="neumf_from_factors" if is_pretrained else "neumf",
        )

    def _full_neumf(self) -> dict[str, Any]:
        fitted, settings = self._fit_neumf(), self._settings.neumf
        left_s = self.started + self._settings.time_limit_s - time.monotonic()
        if self._is_small and fitted.best_epoch * fitted.epoch_s <= left_s:
            factors = self.factors.full() if self._is_pretrained else None
            return fit_epochs(self._pairs, settings, fitted.best_epoch, factors=factors, cancelled=self._cancelled)
        if self._is_small or not self._is_pretrained:
            return complete_users(fitted.parameters, self._pairs, np.unique(self.cases.users), settings, self._cancelled)
        factors = self.factors.judged()
        scale, _ = calibrate(self.train, factors, settings)
        return shift_users(fitted.parameters, factors, self.factors.full(), scale)

    def _judge(self, score: ScorePairs) -> float:
        """NDCG@10 on the hold-out, by index."""
        return rank_metrics(score(self.cases.users, self.cases.candidates), self.cases.candidates)["ndcg_10"]
