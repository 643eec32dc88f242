import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError, ModelUnavailableError
from aihub.recsys.data.interactions import Sales
from aihub.recsys.results import TrainingCancelledError, never_cancelled
from aihub.recsys.trending.features import SalesTable, describe, geometric_mean, median_of_four, seasonal_naive, smooth
from aihub.recsys.trending.model import FLOOR, MIXTURES, TrendingModel, TrendingSettings, fit_trending, measure
from aihub.recsys.trending.trees import learn_trees

QUICK = TrendingSettings(trees=30, max_fit_s=20)


def rows(*sold: tuple[int, int, float], last_period: int = 10, period: str = "week") -> Sales:
    variants, periods, units = (np.array(column) for column in zip(*sold, strict=True)) if sold else (np.empty(0),) * 3
    variants = variants.astype(np.int64)
    prices = np.full(len(variants), np.nan)
    return Sales(variants, variants * 10, periods.astype(np.int64), units.astype(float), prices, period, last_period)


def noisy_weeks(variants: int = 120, weeks: int = 40, seed: int = 5) -> SalesTable:
    rng = np.random.default_rng(seed)
    level = rng.lognormal(2, 1, variants)[:, None]
    return SalesTable.of_units(rng.poisson(level * (1 + 0.2 * np.sin(np.arange(weeks) / 4))).astype(float))


@pytest.fixture(scope="module")
def model() -> TrendingModel:
    return fit_trending(noisy_weeks(), QUICK)


def test_sales_are_spread_out_and_gaps_are_zero() -> None:
    table = SalesTable.from_sales(rows((5, 8, 2.0), (7, 10, 4.0), (5, 8, 1.0)), max_periods=20)
    assert table.variant_ids.tolist() == [5, 7]
    assert table.item_ids.tolist() == [50, 70]
    assert table.first_period == 8
    assert table.units.tolist() == [[3, 0, 0], [0, 0, 4]]


def test_old_future_and_unusable_sales_are_left_out() -> None:
    sold = rows((1, -50, 9.0), (2, 11, 9.0), (3, 10, np.nan), (4, 10, np.inf), (5, 10, -2.0), (6, 10, 1.0))
    assert SalesTable.from_sales(sold, max_periods=20).variant_ids.tolist() == [6]


def test_a_store_without_recent_sales_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="import newer orders"):
        fit_trending(rows())


def test_the_last_known_price_is_carried_forward() -> None:
    sales = dataclasses.replace(rows((1, 8, 1.0), (1, 10, 1.0), last_period=11), prices=np.array([5.0, np.nan]))
    prices = SalesTable.from_sales(sales, max_periods=20).prices
    assert prices.tolist() == [[5.0, 5.0, 5.0, 5.0]]


def test_plain_forecasts_of_weeks() -> None:
    table = SalesTable.of_units(np.array([[9.0, 1, 2, 3, 10]]))
    assert median_of_four(table, 5).tolist() == [2.5]
    assert seasonal_naive(table, 5).tolist() == [10]
    assert smooth(SalesTable.of_units(np.full((1, 6), 4.0)), 6).tolist() == [pytest.approx(4)]


def test_plain_forecasts_of_days_look_at_the_same_weekday() -> None:
    units = np.zeros((1, 28))
    units[0, 6::7] = [1, 2, 3, 4]
    table = SalesTable.of_units(units, period="day")
    assert seasonal_naive(table, 27).tolist() == [3]
    assert median_of_four(table, 34 - 7).tolist() == [2]
    assert median_of_four(table, 26).tolist() == [0]


def test_a_year_of_history_makes_the_seasonal_forecast_look_a_year_back() -> None:
    units = np.zeros((1, 60))
    units[0, 8] = 7
    assert seasonal_naive(SalesTable.of_units(units), 60).tolist() == [7]


@pytest.mark.parametrize("period", ["day", "week"])
def test_a_description_never_looks_at_the_period_it_forecasts_or_later(period: str) -> None:
    rng = np.random.default_rng(1)
    units = rng.poisson(5, (10, 90)).astype(float)
    changed = units.copy()
    changed[:, 60:] = 999
    before = describe(SalesTable.of_units(units, period=period), 60)
    after = describe(SalesTable.of_units(changed, period=period), 60)
    np.testing.assert_array_equal(before, after)


def test_the_list_is_in_order_of_predicted_sales(model: TrendingModel) -> None:
    predicted = [item.predicted_sales for item in model.predict(50)]
    assert len(predicted) == 50
    assert predicted == sorted(predicted, reverse=True)
    assert all(np.isfinite(predicted))
    assert min(predicted) >= 0


def test_trend_score_compares_with_the_mean_of_the_last_four(model: TrendingModel) -> None:
    usual = noisy_weeks().units[:, -4:].mean(axis=1)
    for item in model.predict(20):
        assert item.trend_score == pytest.approx((item.predicted_sales + 1) / (usual[item.variant_id] + 1))


def test_the_winner_is_never_worse_than_the_median_of_four(model: TrendingModel) -> None:
    assert model.winner in MIXTURES
    assert model.metrics["wape"] <= model.metrics[f"{FLOOR}_wape"]


@pytest.mark.parametrize("seed", range(4))
def test_where_the_rules_of_old_no_longer_hold_the_median_of_four_is_the_floor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.poisson(40, (150, 34)) * (np.arange(34) % 2)  # every other week, which the trees learn
    after = rng.poisson(40, (150, 10))  # every week
    table = SalesTable.of_units(np.concatenate([before, after], axis=1).astype(float))
    model = fit_trending(table, dataclasses.replace(QUICK, examined_periods=6))
    floor = model.metrics[f"{FLOOR}_wape"]
    assert model.metrics["lightgbm_wape"] > floor  # else this test shows nothing
    assert model.metrics["wape"] == model.metrics[f"{model.winner}_wape"] <= floor


def test_the_median_of_four_is_the_forecast_where_nothing_beats_it() -> None:
    units = np.full((80, 30), 10.0)
    units[np.random.default_rng(4).random(units.shape) < 0.1] = 500  # single giant orders
    model = fit_trending(SalesTable.of_units(units), dataclasses.replace(QUICK, trees=1))
    assert model.winner == FLOOR
    expected = median_of_four(SalesTable.of_units(units), 30)
    assert [item.predicted_sales for item in model.predict(80)] == sorted(expected.tolist(), reverse=True)


def test_a_geometric_mean_is_that_of_units_one_higher() -> None:
    low, high = np.array([0.0, 3.0]), np.array([8.0, 3.0])
    assert geometric_mean([low, high], [0.5, 0.5]).tolist() == pytest.approx([2.0, 3.0])
    assert geometric_mean([low, high], [1.0, 0.0]) is low


def test_a_shop_of_more_variants_than_rows_learns_from_some_of_them() -> None:
    few_rows = dataclasses.replace(QUICK, max_rows=1_000)
    assert learn_trees(noisy_weeks(1_500, 16), few_rows, time.monotonic() + 60, never_cancelled) is not None


def test_a_rebuilding_without_time_serves_what_was_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    training_examples: list[int] = []

    def late(table: SalesTable, *others: Any) -> Any:
        training_examples.append(table.n_periods)
        return learn_trees(table, *others) if len(training_examples) == 1 else None

    monkeypatch.setattr("aihub.recsys.trending.model.learn_trees", late)
    model = fit_trending(noisy_weeks(), QUICK)
    assert training_examples == [34, 40]
    assert MIXTURES[model.winner][0] > 0
    assert model.trees is not None
    assert model.trees.num_trees() == QUICK.trees


def test_sales_that_follow_last_year_are_forecast_from_last_year() -> None:
    rng = np.random.default_rng(2)
    year = rng.poisson(30, (60, 52)).astype(float)
    table = SalesTable.of_units(np.concatenate([year, year], axis=1))
    model = fit_trending(table, dataclasses.replace(QUICK, max_rows=1_000))
    assert model.winner == "seasonal_naive"
    assert model.metrics["wape"] == 0


def test_a_store_of_one_sale_gets_a_forecast_and_figures_that_say_nothing_was_examined() -> None:
    model = fit_trending(rows((5, 10, 3.0)))
    (item,) = model.predict(10)
    assert (item.variant_id, item.item_id) == (5, 50)
    assert np.isfinite(item.predicted_sales)
    assert (model.metrics["examined_periods"], model.metrics["cached_products"]) == (0, 1)
    assert (model.metrics["wape"], model.metrics["mae"], model.metrics["rmse"]) == (1.0, 3.0, 3.0)


def test_a_store_that_sold_nothing_of_late_still_has_every_figure() -> None:
    units = np.zeros((6, 30))
    units[:, :10] = 4.0
    model = fit_trending(SalesTable.of_units(units), QUICK)
    assert (model.winner, model.metrics["examined_periods"]) == (FLOOR, QUICK.examined_periods)
    assert {"wape", "mae", "rmse", "cached_products"} <= model.metrics.keys()


def test_rmse_weighs_large_errors_more_than_mae() -> None:
    figures = measure(np.array([[1.0], [1.0]]), np.array([[1.0], [5.0]]))
    assert (figures["mae"], figures["rmse"]) == (2.0, pytest.approx(8**0.5))


def test_slips_of_the_pen_do_not_drown_the_rest() -> None:
    sold = [(variant, week, 5.0) for variant in (1, 2) for week in range(30)]
    model = fit_trending(rows(*sold, (1, 20, 1e300), (2, 29, 1.7e308), last_period=29), QUICK)
    assert {item.variant_id: item.predicted_sales for item in model.predict(2)} == pytest.approx({1: 5, 2: 5}, rel=0.2)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_sales_give_finite_forecasts_or_say_what_is_missing(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    units = rng.choice(data.draw(st.lists(st.floats(allow_nan=True), min_size=1, max_size=4)) + [1.0, 1e9], count)
    prices = rng.choice(data.draw(st.lists(st.floats(allow_nan=True), min_size=1, max_size=4)), count)
    variants = rng.integers(0, data.draw(st.integers(1, 40)), count)
    weeks = rng.integers(-5, data.draw(st.integers(1, 60)), count)
    sales = Sales(variants, variants, weeks, units, prices, data.draw(st.sampled_from(["day", "week"])), 40)
    try:
        model = fit_trending(sales, dataclasses.replace(QUICK, trees=5))
    except InvalidRequestError as error:
        assert "import newer orders" in error.message
        return
    items = model.predict(1_000)
    figures = np.array([[item.predicted_sales, item.trend_score] for item in items])
    assert np.isfinite(figures).all()
    assert (figures >= 0).all()
    json.dumps(model.metrics, allow_nan=False)


def test_the_forecast_is_for_the_period_after_the_last() -> None:
    assert fit_trending(rows((5, 4, 3.0), (5, 9, 1.0))).period_number == 11


@pytest.mark.parametrize("n", [0, -1])
def test_no_items_cannot_be_asked_for(model: TrendingModel, n: int) -> None:
    with pytest.raises(InvalidRequestError, match="n must"):
        model.predict(n)


def test_more_than_all_gives_all(model: TrendingModel) -> None:
    assert len(model.predict(10**9)) == 120


def test_a_saved_model_answers_the_same(model: TrendingModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = TrendingModel.load(tmp_path)
    assert loaded.predict(30) == model.predict(30)
    assert (loaded.winner, loaded.metrics, loaded.period_number) == (model.winner, model.metrics, model.period_number)


def test_a_damaged_or_strange_model_is_refused(model: TrendingModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    facts = json.loads((tmp_path / "trending.json").read_text(encoding="utf-8"))
    (tmp_path / "trending.json").write_text(json.dumps(facts | {"format": 99}), encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="another version"):
        TrendingModel.load(tmp_path)
    (tmp_path / "trending.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="roll back"):
        TrendingModel.load(tmp_path)


def test_a_cancelled_fit_stops() -> None:
    with pytest.raises(TrainingCancelledError):
        fit_trending(noisy_weeks(20, 20), QUICK, cancelled=lambda: True)


def test_figures_of_known_forecasts() -> None:
    figures = measure(np.array([[1.0], [4.0]]), np.array([[3.0], [1.0]]))
    assert figures["wape"] == pytest.approx(5 / 4)
    assert figures["mae"] == pytest.approx(2.5)
    assert figures["top_50_overlap"] == 1.0


@pytest.mark.parametrize("wrong", [{"trees": 0}, {"leaves": 1}, {"learning_rate": 0.0}, {"max_fit_s": float("nan")}])
def test_settings_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        TrendingSettings(**wrong)
