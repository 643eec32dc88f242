from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch.linalg import LinAlgError

from aihub.recsys.collaborative import factor_fits
from aihub.recsys.collaborative.factor_fits import choose_dim, choose_settings, choose_weight
from aihub.recsys.collaborative.ials import Factors, IalsSettings, complete_factors, fit_ials
from aihub.recsys.data.interactions import PairMatrix
from aihub.recsys.results import TrainingCancelledError, ignore_progress, never_cancelled
from tests.unit.recsys.shops import TASTES, shop_of_tastes

SETTINGS = IalsSettings(dim=8, epochs=6)


def never_stop(epoch: int, factors: Factors) -> bool:
    return False


def reference_sweep(pairs: PairMatrix, items: np.ndarray, settings: IalsSettings) -> np.ndarray:
    """Users solved one by one from the plain normal equations."""
    solved = []
    for user in range(pairs.n_users):
        had = items[pairs.of(user)].astype(np.float64)
        weights = pairs.weights[pairs.indptr[user] : pairs.indptr[user + 1]] / pairs.weights.mean()
        ridge = settings.regularisation * (len(had) + settings.unobserved_weight * len(items))
        system = settings.unobserved_weight * items.T @ items + (had.T * weights) @ had + ridge * np.eye(items.shape[1])
        solved.append(np.linalg.solve(system, had.T @ weights))
    return np.array(solved)


def test_items_are_the_exact_solution_for_the_users_found() -> None:
    pairs = shop_of_tastes(events=9).index().pairs()
    users, items = fit_ials(pairs, SETTINGS, never_stop)
    np.testing.assert_allclose(items, reference_sweep(pairs.transpose(), users, SETTINGS), rtol=2e-3, atol=2e-4)


def test_items_of_a_users_taste_score_higher() -> None:
    indexed = shop_of_tastes().index()
    users, items = fit_ials(indexed.pairs(), SETTINGS, never_stop)
    scores = users @ items.T
    item_taste = (indexed.item_table // 7) % TASTES
    user_taste = (indexed.user_table - 1000) % TASTES
    own = item_taste[None, :] == user_taste[:, None]
    assert scores[own].mean() > 3 * scores[~own].mean()


def test_user_and_item_without_events_get_finite_factors() -> None:
    pairs = PairMatrix(np.array([0, 2, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32), np.zeros(2, np.int64), 4)
    users, items = fit_ials(pairs, SETTINGS, never_stop)
    assert np.isfinite(users).all()
    assert np.isfinite(items).all()


def test_same_seed_gives_the_same_factors() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    first, second = (fit_ials(pairs, SETTINGS, never_stop) for _ in range(2))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-4, atol=1e-5)


def test_fit_ends_when_told_after_an_epoch() -> None:
    done: list[int] = []

    def stop_at_two(epoch: int, factors: Factors) -> bool:
        done.append(epoch)
        return epoch == 2

    fit_ials(shop_of_tastes(40).index().pairs(), SETTINGS, stop_at_two)
    assert done == [1, 2]


def test_cancelled_fit_raises() -> None:
    with pytest.raises(TrainingCancelledError, match="start it again"):
        fit_ials(shop_of_tastes(40).index().pairs(), SETTINGS, never_stop, lambda: True)


def test_size_falls_with_the_time_allowed() -> None:
    pairs = shop_of_tastes().index().pairs()
    assert choose_dim(pairs, 12, 60.0) == 192
    assert choose_dim(pairs, 12, 0.3) in {64, 128}
    assert choose_dim(pairs, 12, 0.0) == 32


def test_size_falls_with_the_catalogue_so_that_answers_stay_quick() -> None:
    pairs = PairMatrix(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.float32), np.zeros(1, np.int64), 100_000)
    assert choose_dim(pairs, 12, float("inf")) == 64


def settings_liked(monkeypatch: pytest.MonkeyPatch, quality: Callable[[IalsSettings], float], **options: Any) -> IalsSettings:
    """What the search chooses when the hold-out likes settings so much; nothing is fitted."""
    asked: list[IalsSettings] = []

    def fit(pairs: PairMatrix, settings: IalsSettings, after_epoch: Any, cancelled: Any) -> None:
        asked.append(settings)
        after_epoch(settings.epochs, (np.zeros((1, 1)), np.zeros((1, 1))))

    monkeypatch.setattr(factor_fits, "fit_ials", fit)
    pairs = shop_of_tastes(40).index().pairs()
    return choose_settings(pairs, SETTINGS, lambda score: quality(asked[-1]), 2_000, ignore_progress, never_cancelled, **options)


def far_from(weight: float, regularisation: float, dim: int) -> Callable[[IalsSettings], float]:
    def quality(settings: IalsSettings) -> float:
        steps = np.log2(settings.unobserved_weight / weight), np.log2(settings.regularisation / regularisation)
        return 0.5 - 0.01 * float(abs(steps[0]) + abs(steps[1]) + abs(np.log2(settings.dim / dim)))

    return quality


def test_search_climbs_over_a_decade_to_what_the_hold_out_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings_liked(monkeypatch, far_from(0.3 / 16, 0.007 * 16, 64))
    assert (chosen.unobserved_weight, chosen.regularisation, chosen.dim) == pytest.approx((0.3 / 16, 0.007 * 16, 8))


@pytest.mark.parametrize("dim", [16, 256])
def test_search_of_a_small_store_finds_the_size_too(monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    assert settings_liked(monkeypatch, far_from(0.3, 0.007, dim), is_small=True).dim == dim


def test_gain_that_may_be_chance_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings_liked(monkeypatch, lambda settings: 0.4 + 0.001 * (settings.unobserved_weight != 0.3))
    assert (chosen.unobserved_weight, chosen.regularisation) == (0.3, 0.007)


def test_given_values_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = frozenset({"dim", "unobserved_weight"})
    chosen = settings_liked(monkeypatch, far_from(0.01, 0.028, 256), is_small=True, fixed=fixed)
    assert (chosen.dim, chosen.unobserved_weight, chosen.regularisation) == (8, 0.3, 0.028)


def test_settings_that_cannot_be_solved_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def quality(settings: IalsSettings) -> float:
        if settings.regularisation < 0.007:
            raise LinAlgError
        return far_from(0.3, 0.0001, 8)(settings)

    assert settings_liked(monkeypatch, quality).regularisation == 0.007


def test_rows_with_few_events_have_the_same_solution_as_by_the_normal_equations() -> None:
    pairs = shop_of_tastes(40, events=6).index().pairs()
    settings = IalsSettings(dim=32, epochs=2)
    users, items = fit_ials(pairs, settings, never_stop)
    assert (np.diff(pairs.transpose().indptr) <= 16).all()
    np.testing.assert_allclose(items, reference_sweep(pairs.transpose(), users, settings), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("items", "expected"), [(3, 1.0), (4_000, 0.25), (100_000, 0.01), (10**7, 0.001)])
def test_unobserved_pairs_of_a_user_weigh_alike_in_all_catalogues(items: int, expected: float) -> None:
    assert choose_weight(items) == expected


def test_completed_user_has_the_exact_solution_of_all_pairs_and_the_others_stay() -> None:
    pairs = shop_of_tastes(40).index().pairs(weight_cap=1.0)
    keep = np.ones(len(pairs.items), np.bool_)
    keep[pairs.indptr[[3, 8]]] = False
    factors = fit_ials(pairs.take(keep), SETTINGS, never_stop)
    users, items = complete_factors(factors, pairs, np.array([3, 8]), SETTINGS)
    np.testing.assert_array_equal(items, factors[1])
    assert np.flatnonzero((users != factors[0]).any(axis=1)).tolist() == [3, 8]
    had = pairs.of(3)
    wanted = np.zeros(pairs.n_items)
    wanted[had] = 1.0
    system = items[had].T @ items[had] + SETTINGS.unobserved_weight * items.T @ items
    reg = SETTINGS.regularisation * (len(had) + SETTINGS.unobserved_weight * pairs.n_items)
    expected = np.linalg.solve(system + reg * np.eye(items.shape[1]), items.T @ wanted)
    np.testing.assert_allclose(users[3], expected, rtol=1e-3, atol=1e-4)
