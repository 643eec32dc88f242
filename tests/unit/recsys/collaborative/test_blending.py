import numpy as np

from aihub.recsys.collaborative.blending import choose_weights
from aihub.recsys.collaborative.evaluation import rank_metrics

CASES = 400
ITEMS = np.tile(np.arange(100), (CASES, 1))


def scores_of(signal: float, seed: int) -> np.ndarray:
    """Noise, in which the wanted item stands out by `signal`."""
    scores = np.random.default_rng(seed).standard_normal((CASES, 100))
    scores[:, 0] += signal
    return scores


def test_candidates_that_err_differently_are_blended_and_better_together() -> None:
    scores = {"ease": scores_of(1.5, 1), "ials": scores_of(1.4, 2)}
    weights = choose_weights(scores, ITEMS)
    assert set(weights) == {"ease", "ials"}
    assert sum(weights.values()) == 1.0
    blended = sum(weight * scores[family] for family, weight in weights.items())
    assert rank_metrics(blended, ITEMS)["ndcg_10"] > 1.05 * rank_metrics(scores["ease"], ITEMS)["ndcg_10"]


def test_candidate_that_knows_nothing_stays_out() -> None:
    assert choose_weights({"popular": scores_of(0.0, 1), "ials": scores_of(3.0, 2)}, ITEMS) == {"ials": 1.0}


def test_same_scores_need_no_blend() -> None:
    scores = scores_of(1.0, 1)
    assert choose_weights({"knn": scores, "ease": scores.copy()}, ITEMS) == {"knn": 1.0}


def test_no_more_members_than_allowed() -> None:
    scores = {name: scores_of(1.0, seed) for seed, name in enumerate(("knn", "rp3beta", "ease", "ials", "neumf"))}
    assert len(choose_weights(scores, ITEMS)) == 3
    assert len(choose_weights(scores, ITEMS, most_members=2)) == 2
