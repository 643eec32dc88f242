import numpy as np
import pytest
from numpy.typing import NDArray

from aihub.recsys.collaborative.evaluation import by_id, fit_logits, log_losses, split_events
from aihub.recsys.data.interactions import Ids
from tests.unit.recsys.shops import shop_of_tastes

GUESSING = float(np.log(5) - 4 / 5 * np.log(4))
"""Cost of saying one in five to each of five."""


class Scorer:
    """Knows `share` of what every customer had, and scores it by `height`."""

    def __init__(self, had: set[tuple[int, int]], height: float = 1.0) -> None:
        self._had = had
        self._height = height

    def score(self, user_ids: Ids, item_ids: Ids) -> NDArray[np.float32]:
        rows = [[(int(user), int(item)) in self._had for item in items] for user, items in zip(user_ids, item_ids, strict=True)]
        return np.array(rows, np.float32) * np.float32(self._height)


def losses(knows: str, height: float = 1.0) -> dict[str, float]:
    data = shop_of_tastes()
    indexed = data.index()
    pairs = indexed.pairs()
    train, cases = split_events(pairs, indexed.user_table, indexed.item_table)
    of = {"nothing": train.take(np.zeros(len(train.items), np.bool_)), "training": train, "everything": pairs}[knows]
    had = set(zip(indexed.user_table[of.users].tolist(), indexed.item_table[of.items].tolist(), strict=True))
    hold_out = by_id(cases, indexed.user_table, indexed.item_table)
    return log_losses(Scorer(had, height), train, pairs, hold_out, indexed.user_table, indexed.item_table)


def test_a_model_that_tells_nothing_apart_costs_what_guessing_costs() -> None:
    assert losses("nothing") == pytest.approx({"train_loss": GUESSING, "val_loss": GUESSING}, rel=0.02)


def test_a_model_that_knows_everything_costs_nothing() -> None:
    assert losses("everything") == pytest.approx({"train_loss": 0.0, "val_loss": 0.0}, abs=0.01)


def test_learning_by_heart_shows_as_a_held_out_loss_above_that_of_guessing() -> None:
    told = losses("training")
    assert told["train_loss"] < 0.01
    assert told["val_loss"] > GUESSING


@pytest.mark.parametrize("height", [1e-4, 1e6, -3.0])
def test_the_scale_of_scores_does_not_count(height: float) -> None:
    assert losses("everything", height) == pytest.approx(losses("everything"), abs=1e-3)


def test_logits_of_scores_that_are_logits_already_are_these() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0.5, 1.0, 200_000)
    occurred = rng.random(200_000) < 1 / (1 + np.exp(-logits))
    # Half of the rows of two begin with what occurred: so many of either kind as a shared line needs.
    size = min(int(occurred.sum()), int((~occurred).sum()))
    rows = np.column_stack([logits[occurred][:size], logits[~occurred][:size]])
    scale, _ = fit_logits(rows)
    assert scale == pytest.approx(1.0, abs=0.03)
