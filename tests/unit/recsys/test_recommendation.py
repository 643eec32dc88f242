from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aihub.errors import InvalidRequestError
from aihub.recsys import recommender_fits
from aihub.recsys.evaluation import evaluate
from aihub.recsys.fit_checkpoint import FitCheckpoint
from aihub.recsys.ials import IalsSettings
from aihub.recsys.interactions import Interactions
from aihub.recsys.neumf import NeumfSettings
from aihub.recsys.recommendation import fit_recommendation
from aihub.recsys.recommender import Recommender
from aihub.recsys.recommendation_settings import Family, RecommendationSettings
from aihub.recsys.results import TrainingCancelledError
from tests.unit.recsys.shops import TASTES, shop_of_tastes

SETTINGS = RecommendationSettings(
    dim=8,
    search=False,
    ials=IalsSettings(epochs=4),
    neumf=NeumfSettings(factors=8, tower=8, learning_rate=0.02, batch_size=256, epochs=4),
)


def test_better_family_is_kept_and_both_figures_are_told() -> None:
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    best = max(fit.metrics["ials_ndcg_10"], fit.metrics["neumf_ndcg_10"])
    assert fit.metrics["ndcg_10"] == fit.metrics[f"{fit.recommender.family}_ndcg_10"] == best
    assert fit.metrics["margin"] == pytest.approx(abs(fit.metrics["ials_ndcg_10"] - fit.metrics["neumf_ndcg_10"]))
    assert best > 2 * fit.metrics["popular_ndcg_10"]


def test_metrics_are_what_the_kept_model_earns_on_the_hold_out() -> None:
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    assert evaluate(fit.recommender.as_judged(), fit.hold_out)["ndcg_10"] == fit.metrics["ndcg_10"]


@pytest.mark.parametrize("family", ["ials", "neumf"])
def test_kept_model_answers_with_what_was_held_out_but_is_not_judged_by_it(family: Family, tmp_path: Path) -> None:
    fit = fit_recommendation(shop_of_tastes(), replace(SETTINGS, families=(family,)))
    fit.recommender.save(tmp_path)
    served = Recommender.load(tmp_path)
    judged = evaluate(served.as_judged(), fit.hold_out)
    assert judged["ndcg_10"] == pytest.approx(fit.metrics["ndcg_10"], abs=1e-6)
    assert evaluate(served, fit.hold_out)["ndcg_10"] > judged["ndcg_10"]


def test_losses_are_of_the_kept_model_and_every_customer_is_counted() -> None:
    data = shop_of_tastes()
    fit = fit_recommendation(data, SETTINGS)
    assert fit.metrics["cached_users"] == len(np.unique(data.user_ids))
    guessing = float(np.log(5) - 4 / 5 * np.log(4))  # the cost of always saying one in five
    assert 0 < fit.metrics["train_loss"] < guessing
    assert fit.metrics["train_loss"] < fit.metrics["val_loss"] < guessing


def test_recommended_items_are_of_the_customers_taste() -> None:
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    answers = {user: fit.recommender.predict(user, 5) or [] for user in range(1000, 1040)}
    fitting = [(item.item_id // 7) % TASTES == (user - 1000) % TASTES for user, items in answers.items() for item in items]
    assert np.mean(fitting) > 0.9


def test_search_for_settings_ends_in_a_model() -> None:
    progress: list[tuple[str, float]] = []
    settings = replace(SETTINGS, search=True, families=("ials",))
    fit = fit_recommendation(shop_of_tastes(80), settings, lambda *step: progress.append(step))
    assert fit.recommender.family == "ials"
    assert {stage for stage, _ in progress} == {"settings", "matrix factors", "done"}
    assert all(0 <= fraction <= 1 for _, fraction in progress)


@pytest.mark.parametrize(
    "data",
    [
        Interactions.empty(),
        Interactions(np.array([1]), np.array([1]), np.ones(1, np.float32), np.array([1])),
        Interactions(np.arange(50), np.arange(50), np.ones(50, np.float32), np.arange(50)),
        Interactions(np.repeat([1, 2], 20), np.tile([1, 2], 20), np.ones(40, np.float32), np.arange(40)),
    ],
    ids=["no events", "one event", "one item each", "two items"],
)
def test_too_small_a_store_is_told_what_is_missing(data: Interactions) -> None:
    with pytest.raises(InvalidRequestError, match="at least three items"):
        fit_recommendation(data, SETTINGS)


def test_cancel_ends_the_training() -> None:
    with pytest.raises(TrainingCancelledError):
        fit_recommendation(shop_of_tastes(40), SETTINGS, cancelled=lambda: True)


def test_killed_training_goes_on_from_its_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit_recommendation(shop_of_tastes(), SETTINGS, checkpoint=FitCheckpoint(tmp_path, "train-1"))
    monkeypatch.setattr(recommender_fits, "fit_ials", None)
    again = fit_recommendation(shop_of_tastes(), SETTINGS, checkpoint=FitCheckpoint(tmp_path, "train-1"))
    assert again.metrics["ials_ndcg_10"] == first.metrics["ials_ndcg_10"]
    assert again.metrics["neumf_ndcg_10"] == first.metrics["neumf_ndcg_10"]


def test_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    only_factors = replace(SETTINGS, families=("ials",))
    fit_recommendation(shop_of_tastes(80), only_factors, checkpoint=FitCheckpoint(tmp_path, "train-1"))
    fit = fit_recommendation(shop_of_tastes(240), only_factors, checkpoint=FitCheckpoint(tmp_path, "train-2"))
    assert len(fit.recommender.user_ids) == 240
