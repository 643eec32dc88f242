"""Training of a store's recommender: matrix factors and NeuMF on the same split, and the better one on the hold-out is kept."""

import hashlib
import logging
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aihub.errors import InvalidRequestError
from aihub.recsys.evaluation import HELD_OUT_USERS, HoldOut, by_id, evaluate, rank_metrics, split_last
from aihub.recsys.factor_settings import choose_dim, choose_settings
from aihub.recsys.ials import Factors, IalsSettings, fit_ials
from aihub.recsys.interactions import IndexedInteractions, Interactions, PairMatrix
from aihub.recsys.neumf import NeumfSettings
from aihub.recsys.neumf_fit import NeumfFit, ScorePairs, fit_neumf
from aihub.recsys.recommender import Recommender
from aihub.recsys.results import Cancelled, Progress, ignore_progress, never_cancelled

logger = logging.getLogger(__name__)

Family = Literal["ials", "neumf"]
_PRETRAINING_DIM = 64
_FACTORS_SHARE = 0.4  # of the time limit


@dataclass(frozen=True, slots=True)
class RecommendationSettings:
    """How to train a store's recommender.

    Attributes:
        families: Which models to try, in this order; the better one on the hold-out is kept.
        dim: Of the matrix factors; None takes what the store's size allows in the time.
        search: Try a few values of regularisation and weight on the hold-out first; else those of `ials` are used.
        pretrain: Start NeuMF's product from matrix factors.
        time_limit_s: After which no further epoch starts.
        held_out_users: About how many users are judged on, at most.
    """

    families: tuple[Family, ...] = ("ials", "neumf")
    dim: int | None = None
    search: bool = True
    pretrain: bool = True
    time_limit_s: float = 600.0
    held_out_users: int = HELD_OUT_USERS
    ials: IalsSettings = field(default_factory=IalsSettings)
    neumf: NeumfSettings = field(default_factory=NeumfSettings)


@dataclass(frozen=True, slots=True, eq=False)
class RecommendationFit:
    """The winner.

    Attributes:
        recommender: To save and serve.
        metrics: `hr_10`, `ndcg_10` of the winner; the same with `ials_`, `neumf_`, `popular_` before them; `margin` in NDCG
            over the second; `fit_s`; numbers of users, items and pairs.
        hold_out: Cases by id: judge the model now served on them with `aihub.recsys.evaluation.evaluate`.
    """

    recommender: Recommender
    metrics: dict[str, float]
    hold_out: HoldOut


def fit_recommendation(
    data: Interactions,
    settings: RecommendationSettings,
    progress: Progress = ignore_progress,
    cancelled: Cancelled = never_cancelled,
    *,
    checkpoint: Path | None = None,
) -> RecommendationFit:
    """Train each family and keep the better one.

    Args:
        checkpoint: An existing folder; a training that was killed goes on from the factors found there.

    Raises:
        InvalidRequestError: No user has two items or more, or there are fewer than three items.
        TrainingCancelledError: `cancelled` turned True.
    """
    indexed = data.index()
    pairs = indexed.pairs()
    train, cases = split_last(pairs, indexed.user_table, most_users=settings.held_out_users)
    if pairs.n_items < 3 or not len(cases):
        raise InvalidRequestError(
            "This store has too few interactions to learn from: at least three items and some users with two of them or more "
            "are needed. Import orders or carts, then train again."
        )
    run = _Run(indexed, train, cases, settings, progress, cancelled, checkpoint)
    fitted = [run.fit(family) for family in settings.families]
    hold_out = by_id(cases, indexed.user_table, indexed.item_table)
    figures = {model.family: evaluate(model, hold_out) for model in fitted}
    ranked = sorted(fitted, key=lambda model: -figures[model.family]["ndcg_10"])
    metrics = _metrics(ranked, figures, run) | {
        "users": float(pairs.n_users),
        "items": float(pairs.n_items),
        "pairs": float(len(pairs.items)),
    }
    logger.info("recommendation trained", extra={"winner": ranked[0].family, "metrics": metrics})
    progress("done", 1.0)
    notes: dict[str, Any] = {
        "metrics": metrics,
        "ials": asdict(run.chosen),
        "neumf": asdict(settings.neumf),
        "seconds": run.seconds,
    }
    notes["neumf_epochs"] = run.neumf_epochs
    return RecommendationFit(replace(ranked[0], notes=notes), metrics, hold_out)


def _metrics(ranked: list[Recommender], figures: dict[Family, dict[str, float]], run: "_Run") -> dict[str, float]:
    best = figures[ranked[0].family]
    metrics = {**best, "fit_s": time.monotonic() - run.started}
    for family, each in figures.items():
        metrics |= {f"{family}_hr_10": each["hr_10"], f"{family}_ndcg_10": each["ndcg_10"], f"{family}_s": run.seconds[family]}
    popular = rank_metrics(run.counts[run.cases.candidates].astype(np.float32), run.cases.candidates)
    second = figures[ranked[1].family]["ndcg_10"] if len(ranked) > 1 else popular["ndcg_10"]
    return metrics | {f"popular_{name}": value for name, value in popular.items()} | {"margin": best["ndcg_10"] - second}


class _Run:
    """One training: its data, its clock, and factors that NeuMF may start from."""

    def __init__(
        self,
        indexed: IndexedInteractions,
        train: PairMatrix,
        cases: HoldOut,
        settings: RecommendationSettings,
        progress: Progress,
        cancelled: Cancelled,
        checkpoint: Path | None,
    ) -> None:
        self.indexed, self.train, self.cases, self.settings = indexed, train, cases, settings
        self.counts = train.item_counts()
        self.chosen = settings.ials
        self.seconds: dict[str, float] = {}
        self.neumf_epochs: tuple[int, int] | None = None
        self.started = time.monotonic()
        self._until = self.started + settings.time_limit_s
        self._progress, self._cancelled, self._checkpoint = progress, cancelled, checkpoint
        self._searched = not settings.search

    def fit(self, family: Family) -> Recommender:
        started = time.monotonic()
        fitted = self._fit_ials() if family == "ials" else self._fit_neumf()
        self.seconds[family] = time.monotonic() - started
        return fitted

    def judge(self, score: ScorePairs) -> float:
        """NDCG@10 on the hold-out, by index."""
        return rank_metrics(score(self.cases.users, self.cases.candidates), self.cases.candidates)["ndcg_10"]

    def _fit_ials(self) -> Recommender:
        saved = self._saved()
        if saved is not None:
            return saved
        self._search()
        limit_s = self.settings.time_limit_s * _FACTORS_SHARE
        dim = self.settings.dim or choose_dim(self.train, self.chosen.epochs, limit_s)
        self.chosen = replace(self.chosen, dim=dim)
        factors = self._factors(self.chosen, "matrix factors", time.monotonic() + limit_s)
        model = Recommender.of_factors(factors, self.indexed.user_table, self.indexed.item_table, self.counts)
        if self._checkpoint is not None:
            model = replace(model, notes={"fingerprint": self._fingerprint(), "seconds": time.monotonic() - self.started})
            model.save(self._checkpoint)
        return model

    def _search(self) -> None:
        if not self._searched:
            self.chosen = choose_settings(self.train, self.chosen, self.judge, self._progress, self._cancelled)
            self._searched = True

    def _factors(self, settings: IalsSettings, stage: str, until: float) -> Factors:
        """The epoch of a factorisation that is best on the hold-out."""
        best: list[tuple[float, Factors]] = []

        def after_epoch(epoch: int, factors: Factors) -> bool:
            self._progress(stage, epoch / settings.epochs)
            quality = self.judge(lambda users, items: dot_scores(factors, users, items))
            if not best or quality > best[0][0]:
                best[:] = [(quality, (factors[0].copy(), factors[1].copy()))]
            return time.monotonic() > until

        fit_ials(self.train, settings, after_epoch, self._cancelled)
        return best[0][1]

    def _fit_neumf(self) -> Recommender:
        factors = None
        if self.settings.pretrain:
            self._search()
            dim = min(_PRETRAINING_DIM, self.settings.dim or _PRETRAINING_DIM)
            until = (time.monotonic() + self._until) / 2
            factors = self._factors(replace(self.chosen, dim=dim, epochs=min(8, self.chosen.epochs)), "pre-training", until)
        fitted: NeumfFit = fit_neumf(
            self.train,
            self.settings.neumf,
            self.judge,
            factors=factors,
            until=self._until,
            after_epoch=lambda epoch, quality: self._progress("NeuMF", epoch / self.settings.neumf.epochs),
            cancelled=self._cancelled,
        )
        self.seconds["neumf_epoch"] = fitted.epoch_s
        self.neumf_epochs = (fitted.best_epoch, fitted.epochs)
        return Recommender.of_neumf(fitted.parameters, self.indexed.user_table, self.indexed.item_table, self.counts)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.settings).encode())
        for part in (self.indexed.user_table, self.indexed.item_table, self.train.indptr, self.train.items, self.train.weights):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def _saved(self) -> Recommender | None:
        """The factors an earlier, killed run of this very training has left."""
        if self._checkpoint is None or not (self._checkpoint / "recommender.json").is_file():
            return None
        saved = Recommender.load(self._checkpoint, mmap=False)
        return saved if saved.notes.get("fingerprint") == self._fingerprint() else None


def dot_scores(factors: Factors, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores of `items` (users, k) for `users` by factors."""
    scores: NDArray[np.float32] = np.einsum("ud,ukd->uk", factors[0][users], factors[1][items])
    return scores
