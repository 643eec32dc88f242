from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aihub.core.errors import InvalidRequestError
from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.collaborative import factor_fits, fits, recommendation
from aihub.recsys.collaborative.blending import load_recommender
from aihub.recsys.collaborative.evaluation import evaluate
from aihub.recsys.collaborative.ials import IalsSettings
from aihub.recsys.collaborative.neumf import NeumfSettings
from aihub.recsys.collaborative.recommendation import fit_recommendation
from aihub.recsys.collaborative.settings import FAMILIES, Family, RecommendationSettings
from aihub.recsys.data.interactions import Interactions
from aihub.recsys.results import TrainingCancelledError
from tests.unit.recsys.shops import TASTES, shop_of_tastes

SETTINGS = RecommendationSettings(
    dim=8,
    search=False,
    ials=IalsSettings(epochs=4),
    neumf=NeumfSettings(factors=8, tower=8, learning_rate=0.02, batch_size=256, epochs=4),
)


def test_without_blends_the_best_family_is_kept_and_the_figures_of_all_are_told() -> None:
    fit = fit_recommendation(shop_of_tastes(), replace(SETTINGS, blend=False))
    figures = sorted(fit.metrics[f"{family}_ndcg_10"] for family in FAMILIES)
    assert fit.metrics["ndcg_10"] == pytest.approx(fit.metrics[f"{fit.recommender.family}_ndcg_10"])
    assert fit.metrics["ndcg_10"] == pytest.approx(figures[-1], abs=1e-3)
    assert fit.metrics["margin"] == pytest.approx(figures[-1] - figures[-2], abs=2e-3)
    assert fit.metrics["ndcg_10"] > 2 * fit.metrics["popular_ndcg_10"]


def test_blend_is_at_least_as_good_as_the_best_family_on_the_hold_out() -> None:
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    assert fit.metrics["ndcg_10"] >= max(fit.metrics[f"{family}_ndcg_10"] for family in FAMILIES) - 1e-6
    assert fit.metrics["margin"] >= -1e-6
    assert fit.recommender.family == "+".join(fit.recommender.notes["weights"])


def test_large_catalogue_gets_one_family_whose_answers_do_not_look_at_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommendation, "choose_weights", lambda *scores: {"ease": 0.5, "ials": 0.5})
    assert fit_recommendation(shop_of_tastes(), SETTINGS).recommender.family == "ease+ials"
    monkeypatch.setattr(recommendation, "LARGEST_BLENDED_CATALOGUE", 50)
    assert fit_recommendation(shop_of_tastes(), SETTINGS).recommender.family in FAMILIES


def shop_of_crowds(users: int = 150, seed: int = 0) -> Interactions:
    """Everybody has much of the same at one time; nothing but popularity tells anything."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, 201)
    items = np.concatenate([rng.choice(200, 8, replace=False, p=chance / chance.sum()) for _ in range(users)])
    return Interactions(np.repeat(np.arange(users), 8), items, np.ones(len(items), np.float32), np.zeros(len(items), np.int64))


@pytest.mark.parametrize("family", ["knn", "ials", "neumf"])
def test_nothing_below_popularity_is_kept(family: Family) -> None:
    useless = replace(SETTINGS, families=(family,), ials=IalsSettings(epochs=1, regularisation=1e-4))
    fit = fit_recommendation(shop_of_crowds(), useless)
    assert fit.metrics["ndcg_10"] >= fit.metrics["popular_ndcg_10"]
    if fit.metrics[f"{family}_ndcg_10"] < fit.metrics["popular_ndcg_10"]:
        assert fit.recommender.family == "popular"
        best = fit.recommender.predict(3, 1) or []
        assert best[0].item_id == fit.recommender.most_popular(1)[0].item_id


def test_popularity_is_kept_where_the_only_other_family_is_worse() -> None:
    assert fit_recommendation(shop_of_crowds(), replace(SETTINGS, families=("knn",))).recommender.family == "popular"


def test_store_too_large_for_a_family_goes_without_it_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "LARGEST_SIDE", 100)
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    assert "ease_ndcg_10" not in fit.metrics
    assert "at most 100" in fit.recommender.notes["left_out"]["ease"]
    assert "knn_ndcg_10" in fit.metrics


def test_shop_without_any_order_is_learnt_from(tmp_path: Path) -> None:
    data = shop_of_tastes()
    timeless = Interactions(data.user_ids, data.item_ids, data.weights, np.full(len(data), 1_700_000_000))
    fit = fit_recommendation(timeless, SETTINGS)
    assert fit.metrics["ndcg_10"] > 2 * fit.metrics["popular_ndcg_10"]


def test_shop_of_two_customers_gets_a_model() -> None:
    data = Interactions(np.repeat([1, 2], 6), np.tile(np.arange(6), 2), np.ones(12, np.float32), np.arange(12))
    fit = fit_recommendation(data, SETTINGS)
    assert len(fit.recommender.predict(1, 3) or []) == 3


@pytest.mark.parametrize("small_pairs", [0, 10_000], ids=["customers completed", "fitted anew"])
def test_blend_is_saved_and_judged_without_what_was_held_out(
    small_pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommendation, "choose_weights", lambda *scores: {"ease": 0.5, "ials": 0.3, "neumf": 0.2})
    monkeypatch.setattr(fits, "SMALL_PAIRS", small_pairs)
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    assert fit.recommender.family == "ease+ials+neumf"
    fit.recommender.save(tmp_path)
    served = load_recommender(tmp_path)
    judged = evaluate(served.as_judged(), fit.hold_out)
    assert judged["ndcg_10"] == pytest.approx(fit.metrics["ndcg_10"], abs=1e-6)
    assert evaluate(served, fit.hold_out)["ndcg_10"] > judged["ndcg_10"]
    assert served.predict(1001, 5) == fit.recommender.predict(1001, 5)


def test_metrics_are_what_the_kept_model_earns_on_the_hold_out() -> None:
    fit = fit_recommendation(shop_of_tastes(), SETTINGS)
    assert evaluate(fit.recommender.as_judged(), fit.hold_out)["ndcg_10"] == pytest.approx(fit.metrics["ndcg_10"])


@pytest.mark.parametrize("is_small", [True, False], ids=["fitted anew", "customers completed"])
@pytest.mark.parametrize("family", ["knn", "rp3beta", "ease", "ials", "neumf"])
def test_kept_model_answers_with_what_was_held_out_but_is_not_judged_by_it(
    family: Family, is_small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_small:
        monkeypatch.setattr(fits, "SMALL_PAIRS", 0)
    fit = fit_recommendation(shop_of_tastes(), replace(SETTINGS, families=(family,)))
    assert fit.recommender.family == family
    fit.recommender.save(tmp_path)
    served = load_recommender(tmp_path)
    judged = evaluate(served.as_judged(), fit.hold_out)
    assert judged["ndcg_10"] == pytest.approx(fit.metrics["ndcg_10"], abs=1e-6)
    assert evaluate(served, fit.hold_out)["ndcg_10"] > judged["ndcg_10"]


@pytest.mark.parametrize("pretrain", [True, False])
def test_without_time_to_fit_the_network_anew_its_customers_learn_what_was_held_out(pretrain: bool) -> None:
    late = replace(SETTINGS, families=("neumf",), pretrain=pretrain, time_limit_s=1e-6)
    fit = fit_recommendation(shop_of_tastes(), late)
    assert fit.recommender.family == "neumf"
    assert fit.recommender.notes["neumf_epochs"][1] == 1
    judged = evaluate(fit.recommender.as_judged(), fit.hold_out)
    assert judged["ndcg_10"] == pytest.approx(fit.metrics["ndcg_10"], abs=1e-6)
    assert evaluate(fit.recommender, fit.hold_out)["ndcg_10"] > judged["ndcg_10"]


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
    assert {stage for stage, _ in progress} == {"settings", "matrix factors", "rebuilding", "done"}
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


@pytest.mark.parametrize("after", [0, 1, 20])
def test_cancel_ends_the_training_wherever_it_is(after: int) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    with pytest.raises(TrainingCancelledError):
        fit_recommendation(shop_of_tastes(40), SETTINGS, cancelled=cancelled)


def test_killed_training_goes_on_from_its_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit_recommendation(shop_of_tastes(), SETTINGS, checkpoint=FitCheckpoint(tmp_path, "train-1"))
    monkeypatch.setattr(factor_fits, "fit_ials", None)
    monkeypatch.setattr(fits, "choose_linear", None)
    again = fit_recommendation(shop_of_tastes(), SETTINGS, checkpoint=FitCheckpoint(tmp_path, "train-1"))
    assert again.metrics["ials_ndcg_10"] == first.metrics["ials_ndcg_10"]
    assert again.metrics["neumf_ndcg_10"] == first.metrics["neumf_ndcg_10"]
    assert again.metrics["ease_ndcg_10"] == first.metrics["ease_ndcg_10"]
    assert again.recommender.notes["linear"] == first.recommender.notes["linear"]


def test_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    only_factors = replace(SETTINGS, families=("ials",))
    fit_recommendation(shop_of_tastes(80), only_factors, checkpoint=FitCheckpoint(tmp_path, "train-1"))
    fit = fit_recommendation(shop_of_tastes(240), only_factors, checkpoint=FitCheckpoint(tmp_path, "train-2"))
    assert len(fit.recommender.user_ids) == 240
