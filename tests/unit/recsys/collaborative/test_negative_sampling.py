import numpy as np
import pytest

from aihub.recsys.collaborative import evaluation
from aihub.recsys.collaborative.evaluation import NegativeSampler
from aihub.recsys.data.interactions import PairMatrix
from tests.unit.recsys.shops import shop_of_tastes


@pytest.fixture(params=["bitmap", "sorted pairs"])
def pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PairMatrix:
    if request.param == "sorted pairs":
        monkeypatch.setattr(evaluation, "_BITMAP_BYTES", 0)
    return shop_of_tastes().index().pairs()


def test_negatives_are_items_the_user_never_had(pairs: PairMatrix) -> None:
    users = np.arange(pairs.n_users)
    drawn = NegativeSampler(pairs).sample(users, 50, np.random.default_rng(1))
    assert drawn.shape == (pairs.n_users, 50)
    assert not any(np.isin(drawn[user], pairs.of(user)).any() for user in users)


def test_negatives_reach_every_item_a_user_has_not_had(pairs: PairMatrix) -> None:
    drawn = NegativeSampler(pairs).sample(np.array([3]), 20_000, np.random.default_rng(2))
    assert set(drawn[0].tolist()) == set(range(pairs.n_items)) - set(pairs.of(3).tolist())


def test_had_tells_every_pair_from_every_other(pairs: PairMatrix) -> None:
    keys = np.arange(pairs.n_users * pairs.n_items)
    expected = np.zeros((pairs.n_users, pairs.n_items), np.bool_)
    expected[pairs.users, pairs.items] = True
    assert np.array_equal(NegativeSampler(pairs).had(keys), expected.ravel())


def test_user_who_had_everything_still_gets_an_answer() -> None:
    pairs = PairMatrix(np.array([0, 3]), np.array([0, 1, 2], np.int32), np.ones(3, np.float32), np.zeros(3, np.int64), 3)
    assert NegativeSampler(pairs).sample(np.array([0]), 5, np.random.default_rng(0)).shape == (1, 5)
