import numpy as np
import pytest

from aihub.recsys.collaborative.linear_models import fit_ease
from aihub.recsys.data.interactions import PairMatrix
from aihub.recsys.results import TrainingCancelledError
from tests.unit.recsys.shops import shop_of_tastes

EVERY = 10_000


def reference_scores(pairs: PairMatrix, ridge: float) -> np.ndarray:
    """By one ridge regression for each item on all others."""
    had = np.zeros((pairs.n_users, pairs.n_items))
    had[pairs.users, pairs.items] = 1.0
    scores = np.empty_like(had)
    for item in range(pairs.n_items):
        others = np.delete(had, item, axis=1)
        weights = np.linalg.solve(others.T @ others + ridge * np.eye(others.shape[1]), others.T @ had[:, item])
        scores[:, item] = others @ weights
    return scores


@pytest.mark.parametrize("users", [40, 260], ids=["fewer customers than items", "more customers than items"])
def test_scores_are_those_of_a_regression_of_each_item_on_the_others(users: int) -> None:
    pairs = shop_of_tastes(users, events=9).index().pairs()
    assert (pairs.n_users < pairs.n_items) == (users == 40)
    model = fit_ease(pairs, ridge=3.0, kept=EVERY)
    np.testing.assert_allclose(model.rough_scores(np.arange(users)), reference_scores(pairs, 3.0), atol=2e-4)


@pytest.mark.parametrize("users", [40, 260])
def test_few_kept_weights_still_score_the_own_taste_higher(users: int) -> None:
    indexed = shop_of_tastes(users).index()
    scores = fit_ease(indexed.pairs(), ridge=20.0, kept=5).rough_scores(np.arange(users))
    own = (indexed.item_table // 7)[None, :] % 4 == (indexed.user_table - 1000)[:, None] % 4
    assert scores[own].mean() > 2 * scores[~own].mean()


def test_cancelled_fit_raises() -> None:
    with pytest.raises(TrainingCancelledError):
        fit_ease(shop_of_tastes(40).index().pairs(), ridge=3.0, kept=5, cancelled=lambda: True)
