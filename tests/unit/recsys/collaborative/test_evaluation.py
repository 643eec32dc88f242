import math

import numpy as np
import pytest

from aihub.recsys.collaborative.evaluation import HoldOut, evaluate, gains, rank_metrics


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


def test_gains_add_up_to_the_metrics() -> None:
    scores = np.random.default_rng(0).standard_normal((200, 100))
    candidates = np.tile(np.arange(100), (200, 1))
    each = gains(scores, candidates)
    metrics = rank_metrics(scores, candidates)
    assert each.mean() == pytest.approx(metrics["ndcg_10"])
    assert (each > 0).mean() == pytest.approx(metrics["hr_10"])


def test_evaluate_asks_the_model_in_parts_and_counts_cases() -> None:
    class KnowsAll:
        def score(self, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
            return (item_ids == user_ids[:, None]).astype(np.float32)

    users = np.arange(5000)
    candidates = np.column_stack([users, np.full((5000, 99), -1)])
    assert evaluate(KnowsAll(), HoldOut(users, candidates)) == {"hr_10": 1.0, "ndcg_10": 1.0, "cases": 5000.0}
