"""Which candidates are blended, and with which weights: greedy selection on the hold-out (Caruana et al. 2004).

The search begins with the best candidate and adds, with replacement, whichever makes the blend better. A candidate far behind the
others adds nothing and stays out; of candidates that are close, several come in, so that chance among them matters little. Asking
for more than a better mean, by half a standard error or a whole one, ranked worse on thinned shops of 200 to 300 customers: it
left the noisiest choice, a single candidate, more often.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.evaluation import gains
from aihub.recsys.interactions import Ids

MOST_MEMBERS = 3
_ROUNDS = 12
_FIRST_VOTES = 2  # of the best: another one begins with half its weight


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
    reached = quality[best]
    for _ in range(_ROUNDS):
        allowed = scores if len(votes) < most_members else votes
        tried = {family: gains(total + scores[family], candidates).mean() for family in allowed}
        added = max(tried, key=tried.__getitem__)
        if tried[added] <= reached:
            break
        total, reached = total + scores[added], tried[added]
        votes[added] = votes.get(added, 0) + 1
    return {family: count / sum(votes.values()) for family, count in votes.items()}
