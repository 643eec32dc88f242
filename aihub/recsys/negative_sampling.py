"""Items that a user had no event with, drawn at random for whole batches at once."""

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.interactions import PairMatrix

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
