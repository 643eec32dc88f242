"""How a recommender is judged: by the NCF paper's protocol (a held-out event among 99 items the user never had, HR@10 and
NDCG@10), and by log loss, how surprised it is by what customers had and by what was held out.

Scores of different models have different scales. A line fitted on the training pairs turns them into logits (Platt 1999):
guessing costs 0.50 with four negatives to a pair; a loss far above that of the training pairs tells of learning by heart.

A training holds out the last events of customers, and others at random, all decided by hashes of the shop's ids, never by the
order of rows or ids: a later training of the grown store holds out much the same, so that neither the new model nor the one
being served has learnt what both are judged on. Among events of one time the hash says which was last.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.data.interactions import Ids, PairMatrix

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


_BITMAP_BYTES = 256 * 2**20  # a bit per pair; larger stores search the sorted pairs
_ROUNDS = 12


class NegativeSampler:
    """Draws items uniformly among those a user has not had.

    A user who had nearly everything may still get an item they had: after some rounds of drawing again, it stays.
    """

    def __init__(self, pairs: PairMatrix) -> None:
        self._n_items = pairs.n_items
        self._keys = pairs.users.astype(np.int64) * pairs.n_items + pairs.items
        self._bits: NDArray[np.uint8] | None = None
        size_bytes = pairs.n_users * pairs.n_items // 8 + 1
        if size_bytes <= _BITMAP_BYTES:
            self._bits = np.zeros(size_bytes, np.uint8)
            np.bitwise_or.at(self._bits, self._keys >> 3, np.left_shift(1, self._keys & 7).astype(np.uint8))

    def sample(self, users: NDArray[np.integer], count: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """Draw `count` items for each of `users`; shape (users, count). One user's items may repeat."""
        drawn = rng.integers(0, self._n_items, users.size * count, dtype=np.int32)
        owners = np.repeat(users.astype(np.int64) * self._n_items, count)
        open_rows = np.flatnonzero(self.had(owners + drawn))
        for _ in range(_ROUNDS):
            if not len(open_rows):
                break
            drawn[open_rows] = rng.integers(0, self._n_items, len(open_rows), dtype=np.int32)
            open_rows = open_rows[self.had(owners[open_rows] + drawn[open_rows])]
        return drawn.reshape(users.size, count)

    def had(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the pairs `user * n_items + item` occurred."""
        if self._bits is not None:
            return np.asarray((self._bits[keys >> 3] >> (keys & 7).astype(np.uint8)) & 1, np.bool_)
        if not len(self._keys):
            return np.zeros(len(keys), np.bool_)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(self._keys[places] == keys, np.bool_)


JUDGED_NEGATIVES = 4
_TRAINING_PAIRS = 10_000
_NEWTON_STEPS = 20
_LARGEST_LOGIT = 30.0


def fit_logits(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Find the scale and offset that make scores logits: logistic regression by Newton's method.

    Args:
        scores: Shape (cases, 1 + negatives); the first column is what occurred.
    """
    wanted = np.zeros(scores.shape)
    wanted[:, 0] = 1.0
    features = np.column_stack([scores.ravel(), np.ones(scores.size)])
    line = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        chance = 1.0 / (1.0 + np.exp(-np.clip(features @ line, -_LARGEST_LOGIT, _LARGEST_LOGIT)))
        bend = (features * (chance * (1.0 - chance))[:, None]).T @ features + 1e-3 * np.eye(2)
        line += np.linalg.solve(bend, features.T @ (wanted.ravel() - chance))
    return float(line[0]), float(line[1])


def log_losses(
    model: PairScorer, train: PairMatrix, pairs: PairMatrix, hold_out: HoldOut, user_table: Ids, item_table: Ids
) -> dict[str, float]:
    """Return `train_loss` and `val_loss`: mean binary cross-entropy of a pair that occurred and `JUDGED_NEGATIVES` that did not.

    Args:
        model: Must not have learnt what is held out.
        train: What it has learnt, by index; a sample is asked for.
        pairs: With the held-out ones, so that none of them counts as one that did not occur.
        hold_out: By the shop's ids.
        user_table, item_table: The shop's ids by index.
    """
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(train.items))[:_TRAINING_PAIRS]
    users = train.users[rows]
    items = np.column_stack([train.items[rows], NegativeSampler(pairs).sample(users, JUDGED_NEGATIVES, rng)])
    learnt = model.score(user_table[users], item_table[items]).astype(np.float64)
    asked = model.score(hold_out.users, hold_out.candidates[:, : 1 + JUDGED_NEGATIVES]).astype(np.float64)
    centre, spread = float(learnt.mean()), float(learnt.std()) or 1.0
    learnt, asked = (learnt - centre) / spread, (asked - centre) / spread
    scale, offset = fit_logits(learnt)
    return {
        "train_loss": _log_loss(scale * learnt + offset, items),
        "val_loss": _log_loss(scale * asked + offset, hold_out.candidates[:, : 1 + JUDGED_NEGATIVES]),
    }


def _log_loss(logits: NDArray[np.float64], items: NDArray[np.integer]) -> float:
    signs = np.full(logits.shape, -1.0)
    signs[:, 0] = 1.0
    bounded = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    # Of a customer who had nearly everything, the pair itself may have been drawn as one that did not occur.
    counted = np.column_stack([np.ones(len(items), np.bool_), items[:, 1:] != items[:, :1]])
    return float(np.logaddexp(0.0, -signs * bounded)[counted].mean())


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
        The pairs to learn from, and the cases by index (see `aihub.recsys.collaborative.evaluation.by_id`).
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
