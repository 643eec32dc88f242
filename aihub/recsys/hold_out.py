"""Which events of which customers a training holds out: their last ones, and others at random.

Everything is decided by hashes of the shop's ids, never by the order of rows or ids: a later training of the grown store holds
out much the same, so that neither the new model nor the one being served has learnt what both are judged on. Among events of one
time the hash says which was last: of a shop that knows no times each of them is as likely.
"""

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.evaluation import NEGATIVES, HoldOut
from aihub.recsys.interactions import Ids, PairMatrix
from aihub.recsys.negative_sampling import NegativeSampler

HELD_OUT_EVENTS = 6_000
"""Two like models differ by chance in NDCG by .2 over the root of this, about .003."""

_MOST_OF_A_USER = 3
_EVENTS_PER_HELD_OUT = 5  # so many a customer must have for each that is held out
_SHARE_OF_SHORT = 0.5  # of the customers with fewer, one event is held out
_SHARE_OF_LAST = 2 / 3
_USER, _KIND, _EVENT = 1, 2, 3  # salts, so that the decisions do not depend on each other


def split_events(
    pairs: PairMatrix, user_ids: Ids, item_ids: Ids, *, most: int = HELD_OUT_EVENTS, most_of_a_user: int = _MOST_OF_A_USER
) -> tuple[PairMatrix, HoldOut]:
    """Take some events out of those to learn from.

    Of a customer one event in five at most, and never more than `most_of_a_user`; of half of those with two to four, one. Two of
    three are the customer's last events, which is what a shop wants to foretell; the third is random.

    Args:
        user_ids, item_ids: The shop's ids by index.
        most: Cases, about.

    Returns:
        The pairs to learn from, and the cases by index (see `aihub.recsys.evaluation.by_id`).
    """
    counts = np.diff(pairs.indptr)
    places = _unit_hash(user_ids, salt=_USER)
    allowed = np.where(counts >= _EVENTS_PER_HELD_OUT, counts // _EVENTS_PER_HELD_OUT, (counts >= 2) & (places < _SHARE_OF_SHORT))
    for of_a_user in range(min(most_of_a_user, max(1, -(-most // max(1, int((allowed > 0).sum()))))), 0, -1):
        wanted = np.minimum(allowed, of_a_user)
        if wanted.sum() <= most:
            break
    share = min(1.0, most / max(1, int(wanted.sum())))
    wanted[places >= share * np.where(counts >= _EVENTS_PER_HELD_OUT, 1.0, _SHARE_OF_SHORT)] = 0
    held = _choose(pairs, wanted, user_ids, item_ids)
    keep = np.ones(len(pairs.items), np.bool_)
    keep[held] = False
    users = pairs.users[held].astype(np.int64)
    negatives = NegativeSampler(pairs).sample(users, NEGATIVES, np.random.default_rng(0))
    return pairs.take(keep), HoldOut(users, np.column_stack([pairs.items[held], negatives]).astype(np.int64))


def _choose(pairs: PairMatrix, wanted: NDArray[np.int64], user_ids: Ids, item_ids: Ids) -> NDArray[np.int64]:
    """Rows of `pairs`, ascending: so many of each user as wanted."""
    users = pairs.users
    lottery = _unit_hash(user_ids[users], item_ids[pairs.items], salt=_EVENT)
    by_time = np.lexsort((lottery, pairs.times, users))
    place_from_end = np.empty(len(users), np.int64)
    place_from_end[by_time] = pairs.indptr[users + 1] - 1 - np.arange(len(users))
    takes_last = np.where(
        wanted == 1, _unit_hash(user_ids, salt=_KIND) < _SHARE_OF_LAST, np.floor(wanted * _SHARE_OF_LAST + 1e-9)
    )
    is_last = place_from_end < takes_last[users]
    # Last events come first, then others by lot. Whoever gives a random one only does not give the last.
    gives_random = (wanted == 1) & (takes_last == 0)
    lottery = np.where(is_last, -1.0, np.where(gives_random[users] & (place_from_end == 0), 2.0, lottery))
    order = np.lexsort((lottery, users))
    place = np.arange(len(users)) - pairs.indptr[users]
    return np.sort(order[place < wanted[users]])


def _unit_hash(*ids: Ids, salt: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that look random (the finaliser of SplitMix64)."""
    mixed = np.full(len(ids[0]), salt, np.uint64)
    for column in ids:
        mixed = (mixed ^ column.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
