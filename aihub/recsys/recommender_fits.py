"""The fits of one training: both families on the same split, sharing matrix factors, each completed with what was held out."""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from aihub.recsys.evaluation import HELD_OUT_USERS, HoldOut, rank_metrics
from aihub.recsys.factor_settings import choose_dim, choose_settings, choose_weight
from aihub.recsys.fit_checkpoint import FitCheckpoint
from aihub.recsys.ials import Factors, IalsSettings, complete_factors, dot_scores, fit_ials
from aihub.recsys.interactions import IndexedInteractions, PairMatrix
from aihub.recsys.neumf import NeumfSettings, calibrate, shift_users
from aihub.recsys.neumf_fit import ScorePairs, complete_users, fit_neumf
from aihub.recsys.recommender import Recommender
from aihub.recsys.results import Cancelled, Progress

Family = Literal["ials", "neumf"]
_FACTORS_SHARE = 0.4  # of the time limit
_STAGE = "factors"


@dataclass(frozen=True, slots=True)
class RecommendationSettings:
    """How to train a store's recommender.

    Attributes:
        families: Which models to try, in this order; the better one on the hold-out is kept.
        dim: Of the matrix factors; None takes what the store's size allows in the time.
        unobserved_weight: Of pairs that did not occur; None goes by the size of the catalogue.
        search: Try other values of regularisation and weight on the hold-out first.
        pretrain: Start NeuMF's product from matrix factors.
        time_limit_s: After which no further epoch starts.
        held_out_users: About how many users are judged on, at most.
        ials, neumf: The rest; `dim` and `unobserved_weight` of `ials` do not count.
    """

    families: tuple[Family, ...] = ("ials", "neumf")
    dim: int | None = None
    unobserved_weight: float | None = None
    search: bool = True
    pretrain: bool = True
    time_limit_s: float = 600.0
    held_out_users: int = HELD_OUT_USERS
    ials: IalsSettings = field(default_factory=IalsSettings)
    neumf: NeumfSettings = field(default_factory=NeumfSettings)


class RecommenderFits:
    """One training.

    Args:
        indexed: What the store has.
        pairs, train: All pairs, and those without the held-out ones.
        cases: The held-out ones, by index.

    Attributes:
        chosen: Settings of the matrix factors, once fitted.
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
        weight = settings.unobserved_weight or choose_weight(pairs.n_items)
        self.chosen = replace(settings.ials, unobserved_weight=weight)
        self.seconds: dict[str, float] = {}
        self.neumf_epochs: tuple[int, int] | None = None
        self.started = time.monotonic()
        self._pairs, self._settings = pairs, settings
        self._tables = indexed.user_table, indexed.item_table, pairs.item_counts()
        self._until = self.started + settings.time_limit_s
        self._progress, self._cancelled, self._checkpoint = progress, cancelled, checkpoint
        self._factors: tuple[Factors, Factors] | None = None

    def fit(self, family: Family) -> Recommender:
        """Fit a family; the model answers with what was held out, and is judged without."""
        started = time.monotonic()
        fitted = self._fit_ials() if family == "ials" else self._fit_neumf()
        self.seconds[family] = time.monotonic() - started
        return fitted

    def _fit_ials(self) -> Recommender:
        factors, full = self._matrix_factors()
        return Recommender.of_factors(full, *self._tables, judged_rows=self.cases.users, judged=factors)

    def _fit_neumf(self) -> Recommender:
        start = self._matrix_factors() if self._settings.pretrain else None
        settings = self._settings.neumf
        fitted = fit_neumf(
            self.train,
            settings,
            self._judge,
            factors=start[0] if start else None,
            until=self._until,
            after_epoch=lambda epoch, quality: self._progress("NeuMF", epoch / settings.epochs),
            cancelled=self._cancelled,
            checkpoint=self._checkpoint,
        )
        self.seconds["neumf_epoch"] = fitted.epoch_s
        self.neumf_epochs = (fitted.best_epoch, fitted.epochs)
        self._progress("rebuilding", 0.0)
        if start is None:
            full = complete_users(fitted.parameters, self._pairs, self.cases.users, settings, self._cancelled)
        else:
            scale, _ = calibrate(self.train, start[0], settings)
            full = shift_users(fitted.parameters, *start, scale)
        return Recommender.of_neumf(full, *self._tables, judged_rows=self.cases.users, judged=fitted.parameters)

    def _matrix_factors(self) -> tuple[Factors, Factors]:
        """Factors without and with the held-out pairs, of this run or of the killed one before it; fitted once."""
        if self._factors is None:
            saved = self._checkpoint.load(_STAGE)
            if saved is None:
                factors = self._fit_factors()
                arrays = dict(zip(("users", "items"), factors, strict=True))
                self._checkpoint.save(_STAGE, arrays, asdict(self.chosen))
            else:
                factors = saved.arrays["users"], saved.arrays["items"]
                self.chosen = IalsSettings(**saved.facts)
            full = complete_factors(factors, self._pairs, self.cases.users, self.chosen, self._cancelled)
            self._factors = factors, full
        return self._factors

    def _fit_factors(self) -> Factors:
        """The epoch of a factorisation that is best on the hold-out."""
        limit_s = self._settings.time_limit_s * _FACTORS_SHARE
        until = time.monotonic() + limit_s
        if self._settings.search:
            self.chosen = choose_settings(self.train, self.chosen, self._judge, len(self.cases), self._progress, self._cancelled)
        dim = self._settings.dim or choose_dim(self.train, self.chosen.epochs, limit_s)
        self.chosen = replace(self.chosen, dim=dim)
        best: list[tuple[float, Factors]] = []

        def after_epoch(epoch: int, factors: Factors) -> bool:
            self._progress("matrix factors", epoch / self.chosen.epochs)
            quality = self._judge(lambda users, items: dot_scores(factors, users, items))
            if not best or quality > best[0][0]:
                best[:] = [(quality, (factors[0].copy(), factors[1].copy()))]
            return time.monotonic() > until

        fit_ials(self.train, self.chosen, after_epoch, self._cancelled)
        return best[0][1]

    def _judge(self, score: ScorePairs) -> float:
        """NDCG@10 on the hold-out, by index."""
        return rank_metrics(score(self.cases.users, self.cases.candidates), self.cases.candidates)["ndcg_10"]
