from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aihub.recsys import array_files
from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.collaborative.ials import IalsSettings, fit_ials
from aihub.recsys.collaborative.neumf import NeumfSettings, new_parameters, score_pairs, shift_users, start_from
from aihub.recsys.collaborative.neumf_training import ScorePairs, complete_users, fit_neumf
from aihub.recsys.data.interactions import PairMatrix
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


def test_product_moves_as_the_factors_of_its_users_did() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    factors = fit_ials(pairs, IalsSettings(dim=6, epochs=3), lambda epoch, found: False)
    completed = (factors[0] + np.float32(0.5) * (np.arange(60) == 7)[:, None], factors[1])
    parameters = new_parameters(pairs.n_users, pairs.n_items, replace(SETTINGS, tower=4))
    parameters["mlp_head"].zero_()
    start_from(parameters, factors, 6.0, -3.0)
    users, items = np.arange(60), np.tile(np.arange(pairs.n_items), (60, 1))
    expected = 6.0 * (completed[0] @ completed[1].T) - 3.0
    shifted = shift_users(parameters, factors, completed, 6.0)
    np.testing.assert_allclose(score_pairs(shifted, users, items), expected, rtol=1e-3, atol=1e-3)


def test_pretrained_model_is_never_worse_on_the_hold_out_than_its_factors() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    factors = fit_ials(pairs, IalsSettings(dim=6, epochs=3), lambda epoch, found: False)
    qualities = iter([0.7, 0.6, 0.5, 0.4])
    fit = fit_neumf(pairs, SETTINGS, lambda score: next(qualities), factors=factors, cancelled=never_cancelled)
    assert (fit.quality, fit.best_epoch, fit.epochs) == (0.7, 0, 2)


def test_killed_fit_goes_on_with_the_very_numbers_it_would_have_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "LEAST_GAP_S", 0.0)
    pairs = shop_of_tastes(60).index().pairs()

    def judge(score: ScorePairs) -> float:
        return taste_gap(score, pairs)

    def die(epoch: int, quality: float) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    whole = fit_neumf(pairs, SETTINGS, judge, cancelled=never_cancelled)
    with pytest.raises(KeyboardInterrupt):
        fit_neumf(
            pairs, SETTINGS, judge, cancelled=never_cancelled, after_epoch=die, checkpoint=FitCheckpoint(tmp_path, "train-1")
        )
    seen: list[int] = []
    again = fit_neumf(
        pairs, SETTINGS, judge, cancelled=never_cancelled, after_epoch=lambda epoch, quality: seen.append(epoch),
        checkpoint=FitCheckpoint(tmp_path, "train-1"),
    )  # fmt: skip
    assert seen == [3, 4, 5, 6]
    assert again.quality == pytest.approx(whole.quality, rel=1e-5)


def test_heavy_pairs_are_learnt_better_than_light_ones() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    is_heavy = np.arange(len(pairs.items)) % 2 == 0
    weighed = replace(pairs, weights=np.where(is_heavy, 9.0, 0.1).astype(np.float32))
    fit = fit_neumf(weighed, SETTINGS, lambda score: 0.5, cancelled=never_cancelled)
    scores = score_pairs(fit.parameters, pairs.users.astype(np.int64), pairs.items[:, None].astype(np.int64))[:, 0]
    assert scores[is_heavy].mean() > scores[~is_heavy].mean()


def test_completed_users_learn_what_was_held_out_and_the_others_stay() -> None:
    pairs = shop_of_tastes(60).index().pairs()
    fit = fit_neumf(pairs, SETTINGS, lambda score: 0.5, cancelled=never_cancelled)
    rows = np.array([4, 17])
    full = complete_users(fit.parameters, pairs, rows, SETTINGS, never_cancelled)
    moved = (full["gmf_users"] != fit.parameters["gmf_users"]).any(dim=1).numpy()
    assert np.flatnonzero(moved).tolist() == rows.tolist()
    assert all(bool((full[name] == fit.parameters[name]).all()) for name in full if not name.endswith("_users"))
