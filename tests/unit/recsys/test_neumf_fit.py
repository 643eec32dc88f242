from dataclasses import replace

import numpy as np
import pytest

from aihub.recsys.ials import IalsSettings, fit_ials
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.neumf import NeumfSettings, new_parameters, score_pairs, start_from
from aihub.recsys.neumf_fit import ScorePairs, fit_neumf
from aihub.recsys.results import TrainingCancelledError, never_cancelled
from tests.unit.recsys.shops import TASTES, shop_of_tastes

SETTINGS = NeumfSettings(factors=8, tower=8, learning_rate=0.02, batch_size=256, epochs=6)


def taste_gap(score: ScorePairs, pairs: PairMatrix) -> float:
    """How much higher items of a user's own taste score, by index."""
    users = np.arange(pairs.n_users)
    scores = score(users, np.tile(np.arange(pairs.n_items), (pairs.n_users, 1)))
    own = np.arange(pairs.n_items)[None, :] % TASTES == users[:, None] % TASTES
    return float(scores[own].mean() - scores[~own].mean())


def test_training_finds_the_tastes() -> None:
    pairs = shop_of_tastes().index().pairs()
    fit = fit_neumf(pairs, SETTINGS, lambda score: taste_gap(score, pairs), cancelled=never_cancelled)
    assert fit.quality > 1.0
    assert taste_gap(lambda users, items: score_pairs(fit.parameters, users, items), pairs) == pytest.approx(
        fit.quality, rel=1e-4
    )


def test_best_epoch_is_kept_and_patience_ends_training() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    qualities = iter([0.3, 0.5, 0.4, 0.45, 0.9])
    seen: list[tuple[int, float]] = []
    fit = fit_neumf(
        pairs, SETTINGS, lambda score: next(qualities), cancelled=never_cancelled, after_epoch=lambda *epoch: seen.append(epoch)
    )  # fmt: skip
    assert (fit.quality, fit.best_epoch, fit.epochs) == (0.5, 2, 4)
    assert seen == [(1, 0.3), (2, 0.5), (3, 0.4), (4, 0.45)]


def test_no_epoch_starts_after_the_time_limit_but_one_is_always_done() -> None:
    fit = fit_neumf(shop_of_tastes(60).index().pairs(), SETTINGS, lambda score: 0.5, until=0.0, cancelled=never_cancelled)
    assert fit.epochs == 1
    assert fit.parameters


def test_cancelled_training_raises() -> None:
    with pytest.raises(TrainingCancelledError):
        fit_neumf(shop_of_tastes(60).index().pairs(), SETTINGS, lambda score: 0.5, cancelled=lambda: True)


def test_product_started_from_factors_ranks_as_the_factors_do() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    factors = fit_ials(pairs, IalsSettings(dim=6, epochs=3), lambda epoch, found: False)
    parameters = new_parameters(pairs.n_users, pairs.n_items, replace(SETTINGS, tower=4))
    parameters["mlp_head"].zero_()
    start_from(parameters, factors, 6.0, -3.0)
    users, items = np.arange(60), np.tile(np.arange(pairs.n_items), (60, 1))
    expected = 6.0 * (factors[0] @ factors[1].T) - 3.0
    np.testing.assert_allclose(score_pairs(parameters, users, items), expected, rtol=1e-3, atol=1e-3)


def test_pretrained_model_is_never_worse_on_the_hold_out_than_its_factors() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    factors = fit_ials(pairs, IalsSettings(dim=6, epochs=3), lambda epoch, found: False)
    qualities = iter([0.7, 0.6, 0.5, 0.4])
    fit = fit_neumf(pairs, SETTINGS, lambda score: next(qualities), factors=factors, cancelled=never_cancelled)
    assert (fit.quality, fit.best_epoch, fit.epochs) == (0.7, 0, 2)
