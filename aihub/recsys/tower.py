"""The network half of NeuMF as it is served: numpy, with both halves of its first layer ready-made."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.neumf import Parameters

_TABLES = ("users", "items", "judged_users")
_LAYERS = ("second", "second_bias", "third", "third_bias", "mlp_head")


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """Scores by the network, to be added to those by factors.

    Attributes:
        users, items: First layer of each user and item, before they are added and bent.
        judged_users: The first of some users without what is held out (see `aihub.recsys.recommender`).
        layers: The rest, by name.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    judged_users: NDArray[np.float32]
    layers: dict[str, NDArray[np.float32]]

    @classmethod
    def of(cls, parameters: Parameters, item_order: NDArray[np.int64]) -> "Tower":
        numbers = {name: value.numpy() for name, value in parameters.items()}
        users = first_layer_of_users(parameters)
        return cls(
            users,
            (numbers["mlp_items"] @ numbers["first_item"].T)[item_order],
            users[:0],
            {name: np.ascontiguousarray(numbers[name]) for name in _LAYERS},
        )

    def score(self, users: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score `items` (users, k) for rows of `self.users` (users, size)."""
        hidden = np.maximum(users[:, None, :] + self.items[items], 0.0)
        hidden = np.maximum(hidden @ self.layers["second"].T + self.layers["second_bias"], 0.0)
        hidden = np.maximum(hidden @ self.layers["third"].T + self.layers["third_bias"], 0.0)
        scores: NDArray[np.float32] = hidden @ self.layers["mlp_head"]
        return scores

    def mean_scores(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mean over `users` for each item."""
        total = np.zeros(len(self.items), np.float32)
        everything = np.arange(len(self.items))
        for user in users:
            total += self.score(self.users[user][None, :], everything[None, :])[0]
        total /= max(1, len(users))
        return total

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        save_arrays(folder, {f"tower_{name}": getattr(self, name) for name in _TABLES})
        save_file(self.layers, folder / "tower.safetensors")

    @classmethod
    def load(cls, folder: Path, *, mmap: bool) -> "Tower":
        from safetensors.numpy import load_file

        tables = {name: load_array(folder, f"tower_{name}", mmap=mmap) for name in _TABLES}
        return cls(**tables, layers=load_file(folder / "tower.safetensors"))


def first_layer_of_users(parameters: Parameters) -> NDArray[np.float32]:
    """The user half of the network's first layer, one row per user."""
    users, weights, bias = (parameters[name].numpy() for name in ("mlp_users", "first_user", "first_bias"))
    rows: NDArray[np.float32] = users @ weights.T + bias
    return rows
