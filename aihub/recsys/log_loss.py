"""Log loss of a recommender: how surprised it is by what customers had, and by what was held out.

Scores of different models have different scales. A line fitted on the training pairs turns them into logits (Platt 1999), so that
the loss of any model can be read alike: guessing costs 0.50 with four negatives to a pair, and lower is better. A held-out loss
far above that of the training pairs tells of a model that has learnt by heart.
"""

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.evaluation import HoldOut, PairScorer
from aihub.recsys.interactions import Ids, PairMatrix
from aihub.recsys.negative_sampling import NegativeSampler

NEGATIVES = 4
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
    """Return `train_loss` and `val_loss`: mean binary cross-entropy of a pair that occurred and `NEGATIVES` that did not.

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
    items = np.column_stack([train.items[rows], NegativeSampler(pairs).sample(users, NEGATIVES, rng)])
    learnt = model.score(user_table[users], item_table[items]).astype(np.float64)
    asked = model.score(hold_out.users, hold_out.candidates[:, : 1 + NEGATIVES]).astype(np.float64)
    centre, spread = float(learnt.mean()), float(learnt.std()) or 1.0
    learnt, asked = (learnt - centre) / spread, (asked - centre) / spread
    scale, offset = fit_logits(learnt)
    return {
        "train_loss": _log_loss(scale * learnt + offset, items),
        "val_loss": _log_loss(scale * asked + offset, hold_out.candidates[:, : 1 + NEGATIVES]),
    }


def _log_loss(logits: NDArray[np.float64], items: NDArray[np.integer]) -> float:
    signs = np.full(logits.shape, -1.0)
    signs[:, 0] = 1.0
    bounded = np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    # Of a customer who had nearly everything, the pair itself may have been drawn as one that did not occur.
    counted = np.column_stack([np.ones(len(items), np.bool_), items[:, 1:] != items[:, :1]])
    return float(np.logaddexp(0.0, -signs * bounded)[counted].mean())
