"""The NCF paper's protocol: leave one out, rank it among 99 items the user never had, HR@10 and NDCG@10.

The held-out users are chosen by a hash of their id, so that a store grown since the last training holds out the same users:
neither the new model nor the one being served has learnt from what both are judged on.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.interactions import Ids, PairMatrix
from aihub.recsys.negative_sampling import NegativeSampler

NEGATIVES = 99
HELD_OUT_USERS = 2_000
_LARGEST_SHARE = 0.5  # of users in a small store, since what is held out is not learnt from
_HASH = np.uint64(0x9E3779B97F4A7C15)
_PAIRS_AT_ONCE = 200_000


class PairScorer(Protocol):
    """Scores items for users by the shop's ids."""

    def score(self, user_ids: Ids, item_ids: Ids) -> NDArray[np.float32]:
        """Return scores of shape `item_ids.shape` = (users, items); -inf for items the model does not know."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class HoldOut:
    """What a model is judged on; row r asks for `candidates[r, 0]` among the rest of the row.

    Attributes:
        users: Shape (cases,).
        candidates: Shape (cases, 1 + negatives). A negative equal to the first column is not counted.
    """

    users: Ids
    candidates: Ids

    def __len__(self) -> int:
        return len(self.users)


def split_last(
    pairs: PairMatrix, user_ids: Ids, *, most_users: int = HELD_OUT_USERS, largest_share: float = _LARGEST_SHARE, seed: int = 0
) -> tuple[PairMatrix, HoldOut]:
    """Take the latest pair of some users out.

    Args:
        user_ids: The shop's ids; they decide who is held out.
        most_users: Cases at most, about.
        largest_share: Of the users with two pairs or more.

    Returns:
        The pairs to learn from, and the cases by index of user and item (see `by_id`).
    """
    eligible = np.flatnonzero(np.diff(pairs.indptr) >= 2)
    share = min(largest_share, most_users / max(1, len(eligible)))
    hashed = (user_ids[eligible].astype(np.uint64) * _HASH) >> np.uint64(11)
    chosen = eligible[hashed < share * 2**53]
    order = np.lexsort((pairs.times, pairs.users))
    last = order[pairs.indptr[chosen + 1] - 1]
    keep = np.ones(len(pairs.items), np.bool_)
    keep[last] = False
    negatives = NegativeSampler(pairs).sample(chosen, NEGATIVES, np.random.default_rng(seed))
    candidates = np.column_stack([pairs.items[last], negatives]).astype(np.int64)
    return pairs.take(keep), HoldOut(chosen.astype(np.int64), candidates)


def by_id(cases: HoldOut, user_table: Ids, item_table: Ids) -> HoldOut:
    """Turn indices into the shop's ids."""
    return HoldOut(user_table[cases.users], item_table[cases.candidates])


def rank_metrics(scores: NDArray[np.floating], candidates: Ids, *, k: int = 10) -> dict[str, float]:
    """HR@k and NDCG@k of cases; an equal score counts against the wanted item, so a constant score earns nothing."""
    if not len(scores):
        return {f"hr_{k}": 0.0, f"ndcg_{k}": 0.0}
    against = (scores[:, 1:] >= scores[:, :1]) & (candidates[:, 1:] != candidates[:, :1])
    better = against.sum(axis=1)
    hits = better < k
    return {f"hr_{k}": float(hits.mean()), f"ndcg_{k}": float((hits / np.log2(better + 2.0)).mean())}


def evaluate(model: PairScorer, cases: HoldOut, *, k: int = 10) -> dict[str, float]:
    """Rank each case with the model: `hr_10`, `ndcg_10` and the number of `cases`."""
    step = max(1, _PAIRS_AT_ONCE // cases.candidates.shape[1])
    parts = [
        model.score(cases.users[start : start + step], cases.candidates[start : start + step])
        for start in range(0, len(cases), step)
    ]
    scores = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    return {**rank_metrics(scores, cases.candidates, k=k), "cases": float(len(cases))}
