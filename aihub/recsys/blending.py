"""Which candidates are blended, and with which weights: greedy selection on the hold-out (Caruana et al. 2004).

The search begins with the best candidate and adds, with replacement, whichever makes the blend better. A candidate far behind the
others adds nothing and stays out; of candidates that are close, several come in, so that chance among them matters little.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.evaluation import gains
from aihub.recsys.interactions import Ids

MOST_MEMBERS = 3
_ROUNDS = 12
_FIRST_VOTES = 4  # of the best: another one begins with a quarter of its weight


def choose_weights(
    scores: Mapping[str, NDArray[np.floating]], candidates: Ids, *, most_members: int = MOST_MEMBERS
) -> dict[str, float]:
    """Find the weights of a blend that is at least as good on the hold-out as the best single candidate.

    Args:
        scores: Of each family, (cases, 1 + negatives), each row divided by its spread over the catalogue.
        candidates: Items of the same shape.

    Returns:
        Weights by family, adding up to 1; one family alone when no other makes it better.
    """
    quality = {family: gains(each, candidates).mean() for family, each in scores.items()}
    best = max(quality, key=quality.__getitem__)
    votes = {best: _FIRST_VOTES}
    total = _FIRST_VOTES * np.asarray(scores[best], np.float64)
    reached = gains(total, candidates)
    for _ in range(_ROUNDS):
        allowed = scores if len(votes) < most_members else votes
        tried = {family: gains(total + scores[family], candidates) for family in allowed}
        advantages = {family: _advantage(each, reached, is_member=family in votes) for family, each in tried.items()}
        added = max(advantages, key=advantages.__getitem__)
        if advantages[added] <= 0:
            break
        total, reached = total + scores[added], tried[added]
        votes[added] = votes.get(added, 0) + 1
    return {family: count / sum(votes.values()) for family, count in votes.items()}


def _advantage(gained: NDArray[np.float64], reached: NDArray[np.float64], *, is_member: bool) -> float:
    """Mean difference of the cases; a new family must be better by a standard error, as the best of several is so by chance."""
    difference = gained - reached
    margin = 0.0 if is_member else float(difference.std()) / max(1, len(difference)) ** 0.5
    return float(difference.mean()) - margin
