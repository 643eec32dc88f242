"""NeuMF (He et al. 2017): a product of embeddings (GMF) and a small network on others (MLP), added up to one logit.

Parameters are a dict of tensors. The first layer of the network is kept as its user half and its item half, so that a
user's half is computed once for all items asked for, and both can be stored ready-made for serving.

The network half of NeuMF as it is served: numpy, with both halves of its first layer ready-made.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.collaborative.evaluation import NegativeSampler, fit_logits
from aihub.recsys.collaborative.ials import Factors, dot_scores
from aihub.recsys.data.interactions import PairMatrix

Parameters = dict[str, Any]
"""Tensors by name, as `new_parameters` makes them."""

RATE = 0.004
FINE_TUNING_RATE = 0.001
"""Higher ones forget within an epoch what made the factors good."""

_LEAST_BATCH, _LARGEST_BATCH, _LEAST_STEPS = 256, 4096, 64
_SMALL = 0.01
_FIRST_VOICE = 0.1  # of an untrained network beside trained factors
_CALIBRATION_EVENTS = 40_000


@dataclass(frozen=True, slots=True)
class NeumfSettings:
    """Shape of the network and how to train it.

    Attributes:
        factors: Numbers per user and item in the product; those of the factors it starts from, where it does.
        tower: Numbers per user and item before the network, whose layers have tower, tower / 2 and tower / 4.
        negatives: Items without an event per item with one.
        learning_rate: Of Adam; falls by `decay` an epoch. None takes `RATE`, or `FINE_TUNING_RATE` from factors.
        penalty: Of squared embeddings, per example.
        batch_size: Events per step, each with its negatives. None takes 4,096, and fewer in a small store, whose epoch would be
            over in a few steps.
        epochs: At most; the best on the hold-out is kept.
        patience: Epochs without a better one after which training ends.
        seed: Of the first parameters, the order and the negatives.
    """

    factors: int = 32
    tower: int = 32
    negatives: int = 4
    learning_rate: float | None = None
    decay: float = 0.9
    penalty: float = 0.003
    batch_size: int | None = None
    epochs: int = 20
    patience: int = 2
    seed: int = 0

    def rate(self, is_pretrained: bool) -> float:
        """Learning rate of the first epoch."""
        return self.learning_rate or (FINE_TUNING_RATE if is_pretrained else RATE)

    def events_per_step(self, events: int) -> int:
        """Batch size for an epoch of so many events."""
        return self.batch_size or min(_LARGEST_BATCH, max(_LEAST_BATCH, events // _LEAST_STEPS))


def new_parameters(n_users: int, n_items: int, settings: NeumfSettings) -> Parameters:
    """Small random embeddings and a network by Glorot."""
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    factors, tower = settings.factors, settings.tower

    def normal(*shape: int, scale: float = _SMALL) -> Any:
        return torch.randn(*shape, generator=generator) * scale

    def layer(outputs: int, inputs: int) -> Any:
        return normal(outputs, inputs, scale=(2.0 / (inputs + outputs)) ** 0.5)

    return {
        "gmf_users": normal(n_users, factors),
        "gmf_items": normal(n_items, factors),
        "gmf_head": torch.ones(factors),
        "mlp_users": normal(n_users, tower),
        "mlp_items": normal(n_items, tower),
        "first_user": layer(tower, tower),
        "first_item": layer(tower, tower),
        "first_bias": torch.zeros(tower),
        "second": layer(tower // 2, tower),
        "second_bias": torch.zeros(tower // 2),
        "third": layer(tower // 4, tower // 2),
        "third_bias": torch.zeros(tower // 4),
        "mlp_head": normal(tower // 4, scale=0.1),
        "item_bias": torch.zeros(n_items, 1),
        "bias": torch.zeros(1),
    }


def start_from(parameters: Parameters, factors: Factors, scale: float, offset: float) -> None:
    """Give the product the logit `scale * dot + offset` of matrix factors; users and items get embeddings of like size.

    The paper pre-trains both halves by log loss; factors of iALS are the better start and the cheaper one.
    """
    import torch

    users, items = factors
    user_scale = _user_scale(factors, scale)
    parameters["gmf_users"] = torch.from_numpy(users * np.float32(user_scale))
    parameters["gmf_items"] = torch.from_numpy(items * np.float32(scale / user_scale))
    parameters["gmf_head"] = torch.ones(users.shape[1])
    parameters["bias"] = torch.tensor([offset], dtype=torch.float32)
    parameters["mlp_head"] *= _FIRST_VOICE


def shift_users(parameters: Parameters, factors: Factors, completed: Factors, scale: float) -> Parameters:
    """Move users' embeddings of the product as their factors moved when they learnt more; for parameters begun by `start_from`.

    Args:
        factors, scale: What `start_from` was given.
        completed: The same factors with users that have learnt more.
    """
    import torch

    moved = (completed[0] - factors[0]) * np.float32(_user_scale(factors, scale))
    return parameters | {"gmf_users": parameters["gmf_users"] + torch.from_numpy(moved)}


def _user_scale(factors: Factors, scale: float) -> float:
    lengths = [max(float(np.sqrt(np.mean(np.square(table)))), 1e-12) for table in factors]
    return float((scale * lengths[1] / lengths[0]) ** 0.5)


def calibrate(pairs: PairMatrix, factors: Factors, settings: NeumfSettings) -> tuple[float, float]:
    """Find the scale and offset that make dot products of factors logits."""
    rng = np.random.default_rng(settings.seed)
    rows = rng.integers(0, len(pairs.items), min(_CALIBRATION_EVENTS, len(pairs.items)))
    users = pairs.users[rows]
    items = np.column_stack([pairs.items[rows], NegativeSampler(pairs).sample(users, settings.negatives, rng)])
    scores = dot_scores(factors, users, items).astype(np.float64)
    scale, offset = fit_logits(scores)
    return max(scale, 1e-3), offset


def logits(parameters: Parameters, users: Any, items: Any) -> tuple[Any, Any]:
    """Score `items` (batch, k) for `users` (batch,).

    Returns:
        Logits (batch, k), and the squared size of the embeddings used, with items averaged over k.
    """
    from torch.nn import functional

    k = items.shape[1]
    flat = items.reshape(-1)
    gmf_user = functional.embedding(users, parameters["gmf_users"])
    gmf_item = functional.embedding(flat, parameters["gmf_items"]).view(*items.shape, -1)
    mlp_user = functional.embedding(users, parameters["mlp_users"])
    mlp_item = functional.embedding(flat, parameters["mlp_items"])
    product = (gmf_item @ (gmf_user * parameters["gmf_head"])[..., None])[..., 0]
    first_user = functional.linear(mlp_user, parameters["first_user"], parameters["first_bias"])
    first_item = functional.linear(mlp_item, parameters["first_item"]).view(*items.shape, -1)
    hidden = functional.relu(first_user[:, None, :] + first_item)
    hidden = functional.relu(functional.linear(hidden, parameters["second"], parameters["second_bias"]))
    hidden = functional.relu(functional.linear(hidden, parameters["third"], parameters["third_bias"]))
    bias = functional.embedding(flat, parameters["item_bias"]).view(items.shape)
    size = gmf_user.square().sum() + mlp_user.square().sum() + (gmf_item.square().sum() + mlp_item.square().sum()) / k
    return product + hidden @ parameters["mlp_head"] + bias + parameters["bias"], size


def score_pairs(parameters: Parameters, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of `items` (users, k) for `users`, without training."""
    import torch

    device = parameters["bias"].device
    with torch.inference_mode():
        scores, _ = logits(parameters, torch.from_numpy(users).to(device), torch.from_numpy(items).to(device))
        result: NDArray[np.float32] = scores.float().cpu().numpy()
        return result


_TABLES = ("users", "items", "judged_users")
_LAYERS = ("second", "second_bias", "third", "third_bias", "mlp_head")


@dataclass(frozen=True, slots=True, eq=False)
class MlpBranch:
    """Scores by the network, to be added to those by factors.

    Attributes:
        users, items: First layer of each user and item, before they are added and bent.
        judged_users: The first of some users without what is held out (see `aihub.recsys.collaborative.recommender`).
        layers: The rest, by name.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    judged_users: NDArray[np.float32]
    layers: dict[str, NDArray[np.float32]]

    @classmethod
    def of(cls, parameters: Parameters, item_order: NDArray[np.int64]) -> "MlpBranch":
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
    def load(cls, folder: Path, *, mmap: bool) -> "MlpBranch":
        from safetensors.numpy import load_file

        tables = {name: load_array(folder, f"tower_{name}", mmap=mmap) for name in _TABLES}
        return cls(**tables, layers=load_file(folder / "tower.safetensors"))


def first_layer_of_users(parameters: Parameters) -> NDArray[np.float32]:
    """The user half of the network's first layer, one row per user."""
    users, weights, bias = (parameters[name].numpy() for name in ("mlp_users", "first_user", "first_bias"))
    rows: NDArray[np.float32] = users @ weights.T + bias
    return rows
