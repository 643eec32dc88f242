import numpy as np
import pytest

from aihub.recsys.collaborative import linear_models
from aihub.recsys.collaborative.linear_models import fit_cosine, fit_walks
from aihub.recsys.data.interactions import PairMatrix
from aihub.recsys.results import TrainingCancelledError
from tests.unit.recsys.shops import shop_of_tastes

EVERY = 10_000


@pytest.fixture
def pairs() -> PairMatrix:
    return shop_of_tastes(50, events=9).index().pairs()


def dense(pairs: PairMatrix) -> np.ndarray:
    had = np.zeros((pairs.n_users, pairs.n_items))
    had[pairs.users, pairs.items] = 1.0
    return had


def without_diagonal(weights: np.ndarray) -> np.ndarray:
    return weights - np.diag(np.diagonal(weights))


@pytest.mark.parametrize("by_rarity", [False, True])
def test_cosine_is_that_of_the_dense_columns(pairs: PairMatrix, by_rarity: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_models, "BLOCK_FLOATS", 7 * pairs.n_items)  # several blocks
    had = dense(pairs)
    if by_rarity:
        had *= np.sqrt(np.log1p(pairs.n_items / had.sum(axis=1)))[:, None]
    lengths = np.linalg.norm(had, axis=0)
    expected = without_diagonal(had.T @ had / (np.outer(lengths, lengths) + 5.0))
    model = fit_cosine(pairs, kept=EVERY, shrinkage=5.0, by_rarity=by_rarity)
    np.testing.assert_allclose(model.right.toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(model.rough_scores(np.arange(50)), dense(pairs) @ expected, atol=1e-5)


def test_walks_are_the_product_of_the_dense_chances(pairs: PairMatrix) -> None:
    had = dense(pairs)
    to_items = (had / had.sum(axis=1, keepdims=True)) ** 0.8
    to_users = (had / had.sum(axis=0)).T ** 0.8
    expected = without_diagonal(to_users @ to_items / had.sum(axis=0)[None, :] ** 0.4)
    model = fit_walks(pairs, kept=EVERY, alpha=0.8, beta=0.4)
    np.testing.assert_allclose(model.right.toarray(), expected, rtol=1e-4, atol=1e-7)


def test_largest_weights_towards_each_item_are_kept(pairs: PairMatrix) -> None:
    whole = fit_cosine(pairs, kept=EVERY, shrinkage=1.0, by_rarity=False).right.toarray()
    pruned = fit_cosine(pairs, kept=4, shrinkage=1.0, by_rarity=False).right.toarray()
    assert (np.count_nonzero(pruned, axis=0) <= 4).all()
    np.testing.assert_allclose(np.sort(pruned, axis=0)[-4:], np.sort(whole, axis=0)[-4:])


def test_scores_of_some_items_are_those_of_the_whole_row(pairs: PairMatrix, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fit_walks(pairs, kept=10, alpha=1.0, beta=0.2)
    users, items = np.arange(50), np.random.default_rng(0).integers(0, pairs.n_items, (50, 6))
    whole = model.rough_scores(users)
    monkeypatch.setattr(linear_models, "BLOCK_FLOATS", 3 * pairs.n_items)
    np.testing.assert_array_equal(model.score(users, items), np.take_along_axis(whole, items, axis=1))


def test_cancelled_fit_raises(pairs: PairMatrix) -> None:
    with pytest.raises(TrainingCancelledError):
        fit_cosine(pairs, kept=5, shrinkage=0.0, by_rarity=False, cancelled=lambda: True)
