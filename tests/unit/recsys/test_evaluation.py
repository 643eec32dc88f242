import math

import numpy as np
import pytest

from aihub.recsys.evaluation import HoldOut, by_id, evaluate, rank_metrics, split_last
from tests.unit.recsys.shops import shop_of_tastes


def case(position: int, negatives: int = 99) -> tuple[np.ndarray, np.ndarray]:
    """Scores in which `position` negatives beat the wanted item."""
    scores = np.zeros((1, negatives + 1), np.float32)
    scores[0, 0] = 0.5
    scores[0, 1 : position + 1] = 1.0
    return scores, np.arange(negatives + 1)[None, :]


@pytest.mark.parametrize(
    ("position", "hit", "gain"), [(0, 1, 1), (1, 1, 1 / math.log2(3)), (9, 1, 1 / math.log2(11)), (10, 0, 0)]
)
def test_metrics_fall_with_the_rank(position: int, hit: float, gain: float) -> None:
    assert rank_metrics(*case(position)) == pytest.approx({"hr_10": hit, "ndcg_10": gain})


def test_constant_scores_earn_nothing() -> None:
    assert rank_metrics(np.ones((5, 100), np.float32), np.tile(np.arange(100), (5, 1))) == {"hr_10": 0.0, "ndcg_10": 0.0}


def test_wanted_item_among_its_own_negatives_is_not_counted() -> None:
    scores, candidates = case(0)
    candidates[0, 1:20] = candidates[0, 0]
    scores[0, 1:20] = scores[0, 0]
    assert rank_metrics(scores, candidates)["ndcg_10"] == 1.0


def test_no_cases_give_zeros() -> None:
    assert rank_metrics(np.empty((0, 1), np.float32), np.empty((0, 1), np.int64)) == {"hr_10": 0.0, "ndcg_10": 0.0}


def test_split_takes_the_latest_pair_of_each_chosen_user_out() -> None:
    indexed = shop_of_tastes().index()
    pairs = indexed.pairs()
    train, cases = split_last(pairs, indexed.user_table, largest_share=1.0)
    for user, item in zip(cases.users, cases.candidates[:, 0], strict=True):
        times = pairs.times[pairs.indptr[user] : pairs.indptr[user + 1]]
        assert times[pairs.of(user) == item] == times.max()
        assert item not in train.of(user)
    assert len(train.items) == len(pairs.items) - len(cases)


def test_split_holds_out_half_of_a_small_store_at_most() -> None:
    indexed = shop_of_tastes().index()
    _, cases = split_last(indexed.pairs(), indexed.user_table)
    assert 0.3 < len(cases) / len(indexed.user_table) < 0.6


def test_grown_store_holds_out_users_that_were_held_out_before() -> None:
    small, large = shop_of_tastes(240).index(), shop_of_tastes(800).index()
    before = by_id(split_last(small.pairs(), small.user_table)[1], small.user_table, small.item_table)
    after = by_id(split_last(large.pairs(), large.user_table, most_users=60)[1], large.user_table, large.item_table)
    old_customers = after.users[after.users < 1240]
    assert len(old_customers) > 5
    assert set(old_customers.tolist()) <= set(before.users.tolist())


def test_evaluate_asks_the_model_in_parts_and_counts_cases() -> None:
    class KnowsAll:
        def score(self, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
            return (item_ids == user_ids[:, None]).astype(np.float32)

    users = np.arange(5000)
    candidates = np.column_stack([users, np.full((5000, 99), -1)])
    assert evaluate(KnowsAll(), HoldOut(users, candidates)) == {"hr_10": 1.0, "ndcg_10": 1.0, "cases": 5000.0}
