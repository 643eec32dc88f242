"""The network half of NeuMF as it is served: numpy, with both halves of its first layer ready-made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.neumf import Parameters

_LAYERS = ("second", "second_bias", "third", "third_bias", "mlp_head")


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """Scores by the network, to be added to those by factors.

    Attributes:
        users, items: First layer of each user and item, before they are added and bent.
        layers: The rest, by name.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    layers: dict[str, NDArray[np.float32]]

    @classmethod
    def of(cls, parameters: Parameters, item_order: NDArray[np.int64]) -> "Tower":
        numbers = {name: value.numpy() for name, value in parameters.items()}
        return cls(
            numbers["mlp_users"] @ numbers["first_user"].T + numbers["first_bias"],
            (numbers["mlp_items"] @ numbers["first_item"].T)[item_order],
            {name: np.ascontiguousarray(numbers[name]) for name in _LAYERS},
        )

    def score(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score `items` (users, k) for `users` (users,)."""
        hidden = np.maximum(self.users[users][:, None, :] + self.items[items], 0.0)
        hidden = np.maximum(hidden @ self.layers["second"].T + self.layers["second_bias"], 0.0)
        hidden = np.maximum(hidden @ self.layers["third"].T + self.layers["third_bias"], 0.0)
        scores: NDArray[np.float32] = hidden @ self.layers["mlp_head"]
        return scores

    def mean_scores(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mean over `users` for each item."""
        total = np.zeros(len(self.items), np.float32)
        everything = np.arange(len(self.items))
        for user in users:
            total += self.score(np.array([user]), everything[None, :])[0]
        total /= max(1, len(users))
        return total

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        np.save(folder / "tower_users.npy", self.users)
        np.save(folder / "tower_items.npy", self.items)
        save_file(self.layers, folder / "tower.safetensors")

    @classmethod
    def load(cls, folder: Path, mode: Any) -> "Tower":
        from safetensors.numpy import load_file

        users, items = (np.load(folder / f"tower_{side}.npy", mmap_mode=mode, allow_pickle=False) for side in ("users", "items"))
        return cls(users, items, load_file(folder / "tower.safetensors"))
