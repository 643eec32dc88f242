"""The NCF paper's protocol: rank a held-out event among 99 items the user never had, HR@10 and NDCG@10."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.interactions import Ids

NEGATIVES = 99
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


def by_id(cases: HoldOut, user_table: Ids, item_table: Ids) -> HoldOut:
    """Turn indices into the shop's ids."""
    return HoldOut(user_table[cases.users], item_table[cases.candidates])


def rank_metrics(scores: NDArray[np.floating], candidates: Ids, *, k: int = 10) -> dict[str, float]:
    """HR@k and NDCG@k of cases; an equal score counts against the wanted item, so a constant score earns nothing."""
    if not len(scores):
        return {f"hr_{k}": 0.0, f"ndcg_{k}": 0.0}
    each = gains(scores, candidates, k=k)
    return {f"hr_{k}": float((each > 0).mean()), f"ndcg_{k}": float(each.mean())}


def gains(scores: NDArray[np.floating], candidates: Ids, *, k: int = 10) -> NDArray[np.float64]:
    """What each case adds to NDCG@k: 1 / log2(rank + 1), and 0 beyond rank k."""
    against = (scores[:, 1:] >= scores[:, :1]) & (candidates[:, 1:] != candidates[:, :1])
    better = against.sum(axis=1)
    result: NDArray[np.float64] = (better < k) / np.log2(better + 2.0)
    return result


def evaluate(model: PairScorer, cases: HoldOut, *, k: int = 10) -> dict[str, float]:
    """Rank each case with the model: `hr_10`, `ndcg_10` and the number of `cases`."""
    step = max(1, _PAIRS_AT_ONCE // cases.candidates.shape[1])
    parts = [
        model.score(cases.users[start : start + step], cases.candidates[start : start + step])
        for start in range(0, len(cases), step)
    ]
    scores = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    return {**rank_metrics(scores, cases.candidates, k=k), "cases": float(len(cases))}
