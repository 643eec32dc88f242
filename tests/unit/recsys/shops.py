"""A small shop whose customers have one of four tastes, so that a recommender has something to find."""

import numpy as np

from aihub.recsys.data.interactions import Interactions

TASTES = 4
ITEMS_PER_TASTE = 30


def shop_of_tastes(users: int = 240, events: int = 14, seed: int = 0) -> Interactions:
    """Customer u (id 1000 + u) likes items 7 * i with i % 4 == u % 4; one event in ten is of another taste."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), events)
    taste = np.where(rng.random(len(user)) < 0.1, rng.integers(0, TASTES, len(user)), user % TASTES)
    item = rng.integers(0, ITEMS_PER_TASTE, len(user)) * TASTES + taste
    times = np.tile(np.arange(events), users) + 1_700_000_000
    return Interactions(user + 1000, item * 7, np.ones(len(user), np.float32), times)
