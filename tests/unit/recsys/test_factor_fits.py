from dataclasses import replace

import numpy as np
import pytest

from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.collaborative.evaluation import HoldOut
from aihub.recsys.collaborative.factor_fits import FactorFits
from aihub.recsys.collaborative.ials import IalsSettings
from aihub.recsys.collaborative.neumf_training import ScorePairs
from aihub.recsys.collaborative.settings import RecommendationSettings
from aihub.recsys.results import ignore_progress, never_cancelled
from tests.unit.recsys.shops import shop_of_tastes

SETTINGS = RecommendationSettings(dim=8, search=False, ials=IalsSettings(epochs=6))


def fits(settings: RecommendationSettings, *, is_small: bool) -> FactorFits:
    """Of a shop whose first customer's first item is held out, on a hold-out that likes later epochs better."""
    pairs = shop_of_tastes(40).index().pairs()
    keep = np.ones(len(pairs.items), np.bool_)
    keep[0] = False
    qualities = iter(np.linspace(0.1, 0.2, 100).tolist())

    def judge(score: ScorePairs) -> float:
        return float(next(qualities))

    cases = HoldOut(np.array([0]), pairs.items[None, :1].astype(np.int64))
    return FactorFits(
        pairs, pairs.take(keep), cases, judge, settings, ignore_progress, never_cancelled, FitCheckpoint(), is_small=is_small
    )  # fmt: skip


@pytest.mark.parametrize(("is_small", "epochs"), [(True, 4), (False, 1)])
def test_time_limit_leaves_a_small_store_the_epochs_without_which_factors_tell_nothing(is_small: bool, epochs: int) -> None:
    run = fits(replace(SETTINGS, time_limit_s=1e-6), is_small=is_small)
    run.judged()
    assert run.chosen.epochs == epochs


def test_small_store_is_fitted_anew_and_a_larger_one_completes_the_customers_concerned() -> None:
    small, large = fits(SETTINGS, is_small=True), fits(SETTINGS, is_small=False)
    assert not np.array_equal(small.full()[1], small.judged()[1])
    assert np.array_equal(large.full()[1], large.judged()[1])
    assert np.flatnonzero((large.full()[0] != large.judged()[0]).any(axis=1)).tolist() == [0]
