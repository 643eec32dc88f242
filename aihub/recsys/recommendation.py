"""Training of a store's recommender: matrix factors and NeuMF on the same split, and the better one on the hold-out is kept.

The figures are of models that have not learnt the held-out events; the one that is kept learns them afterwards.
"""

import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from aihub.errors import InvalidRequestError
from aihub.recsys.evaluation import HoldOut, by_id, evaluate, rank_metrics, split_last
from aihub.recsys.fit_checkpoint import FitCheckpoint
from aihub.recsys.interactions import Interactions
from aihub.recsys.log_loss import log_losses
from aihub.recsys.recommender import Recommender
from aihub.recsys.recommender_fits import Family, RecommendationSettings, RecommenderFits
from aihub.recsys.results import Cancelled, Progress, ignore_progress, never_cancelled

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RecommendationFit:
    """The winner.

    Attributes:
        recommender: To save and serve.
        metrics: `hr_10`, `ndcg_10` of the winner; the same with `ials_`, `neumf_`, `popular_` before them; `margin` in NDCG
            over the second; `fit_s`; numbers of users, items and pairs; `train_loss` and `val_loss` of the winner (see
            `log_losses`); `cached_users`, the customers it has learnt.
        hold_out: Cases by id: judge the model now served on them, too, by `evaluate(model.as_judged(), hold_out)`.
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
    checkpoint: FitCheckpoint | None = None,
) -> RecommendationFit:
    """Train each family and keep the better one.

    Args:
        checkpoint: A training that was killed goes on from the factors and the epoch of NeuMF found there.

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
    run = RecommenderFits(indexed, pairs, train, cases, settings, progress, cancelled, checkpoint or FitCheckpoint())
    fitted = [run.fit(family) for family in settings.families]
    hold_out = by_id(cases, indexed.user_table, indexed.item_table)
    figures = {model.family: evaluate(model.as_judged(), hold_out) for model in fitted}
    # What differs by less than this is the same: NeuMF that got no better than the factors it started from stands behind them.
    ranked = sorted(fitted, key=lambda model: -round(figures[model.family]["ndcg_10"], 3))
    metrics = _metrics(ranked, figures, run) | {
        "users": float(pairs.n_users),
        "items": float(pairs.n_items),
        "pairs": float(len(pairs.items)),
        "cached_users": len(ranked[0].user_ids),
        **log_losses(ranked[0].as_judged(), train, pairs, hold_out, indexed.user_table, indexed.item_table),
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


def _metrics(ranked: list[Recommender], figures: dict[Family, dict[str, float]], run: RecommenderFits) -> dict[str, float]:
    best = figures[ranked[0].family]
    metrics = {**best, "fit_s": time.monotonic() - run.started}
    for family, each in figures.items():
        metrics |= {f"{family}_hr_10": each["hr_10"], f"{family}_ndcg_10": each["ndcg_10"], f"{family}_s": run.seconds[family]}
    popular = rank_metrics(run.train.item_counts()[run.cases.candidates].astype(np.float32), run.cases.candidates)
    second = figures[ranked[1].family]["ndcg_10"] if len(ranked) > 1 else popular["ndcg_10"]
    return metrics | {f"popular_{name}": value for name, value in popular.items()} | {"margin": best["ndcg_10"] - second}
