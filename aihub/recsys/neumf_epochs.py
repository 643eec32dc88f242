"""Epochs of NeuMF's training: shuffled events, fresh negatives, one Adam step per batch."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.interactions import PairMatrix
from aihub.recsys.negative_sampling import NegativeSampler
from aihub.recsys.neumf import NeumfSettings, Parameters, logits, score_pairs
from aihub.recsys.results import Cancelled, raise_if_cancelled


class NeumfEpochs:
    """Parameters, optimiser and random numbers.

    Args:
        pairs: What is learnt from; a pair's weight, relative to their mean, is that of its loss.
        parameters: Changed in place, after a move to the GPU where there is one.
        rate: Adam's first learning rate.
        learnt: Names of the parameters that learn; all when None.
    """

    def __init__(
        self,
        pairs: PairMatrix,
        settings: NeumfSettings,
        parameters: Parameters,
        rate: float,
        *,
        learnt: Collection[str] | None = None,
    ) -> None:
        import torch

        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._sampler = NegativeSampler(pairs)
        self._users, self._items = pairs.users, pairs.items
        self._weights = (pairs.weights / max(float(pairs.weights.mean()), 1e-12)).astype(np.float32)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._parameters = {name: value.to(self._device) for name, value in parameters.items()}
        self._learnt = [name for name in self._parameters if learnt is None or name in learnt]
        for name, value in self._parameters.items():
            value.requires_grad_(name in self._learnt)
        self._optimiser = torch.optim.Adam([self._parameters[name] for name in self._learnt], lr=rate, fused=True)

    def score(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score `items` (users, k) for `users`, by index."""
        return score_pairs(self._parameters, users, items)

    def snapshot(self) -> Parameters:
        """Copy the parameters to the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self._parameters.items()}

    def run_epoch(self, cancelled: Cancelled) -> None:
        """Go once over all events.

        Raises:
            TrainingCancelledError: `cancelled` turned True; asked before each step.
        """
        import torch
        from torch.nn import functional

        settings = self._settings
        order = self._rng.permutation(len(self._users))
        users = self._users[order]
        negatives = self._sampler.sample(users, settings.negatives, self._rng)
        all_users = torch.from_numpy(users.astype(np.int64))
        all_items = torch.from_numpy(np.column_stack([self._items[order], negatives]).astype(np.int64))
        all_weights = torch.from_numpy(self._weights[order])
        batch_size = settings.events_per_step(len(users))
        wanted = torch.zeros(batch_size, 1 + settings.negatives, device=self._device)
        wanted[:, 0] = 1.0
        importance = torch.ones_like(wanted)
        for start in range(0, len(users), batch_size):
            raise_if_cancelled(cancelled)
            batch = slice(start, start + batch_size)
            user, item = all_users[batch].to(self._device), all_items[batch].to(self._device)
            n = len(user)
            importance[:n, 0] = all_weights[batch].to(self._device)
            with self._precision():
                scores, size = logits(self._parameters, user, item)
            loss = functional.binary_cross_entropy_with_logits(scores.float(), wanted[:n], weight=importance[:n], reduction="sum")
            ((loss + settings.penalty * size) / n).backward()
            self._optimiser.step()
            self._optimiser.zero_grad()
        for group in self._optimiser.param_groups:
            group["lr"] *= settings.decay

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return all that `restore` needs: arrays `now.*` (parameters), `mean.*` and `square.*` (Adam), and JSON values."""
        arrays = {f"now.{name}": value.numpy() for name, value in self.snapshot().items()}
        for name in self._learnt:
            moments = self._optimiser.state[self._parameters[name]]
            arrays[f"mean.{name}"] = moments["exp_avg"].cpu().numpy()
            arrays[f"square.{name}"] = moments["exp_avg_sq"].cpu().numpy()
        steps = float(self._optimiser.state[self._parameters[self._learnt[0]]]["step"])
        rate = self._optimiser.param_groups[0]["lr"]
        return arrays, {"steps": steps, "rate": rate, "random": self._rng.bit_generator.state}

    def restore(self, means: Parameters, squares: Parameters, facts: dict[str, Any]) -> None:
        """Take up Adam and the random numbers where `state` was taken; the parameters were given before."""
        import torch

        for name in self._learnt:
            steps = torch.tensor(facts["steps"], dtype=torch.float32, device=self._device)
            moments = {"exp_avg": means[name].to(self._device), "exp_avg_sq": squares[name].to(self._device)}
            self._optimiser.state[self._parameters[name]] = {"step": steps} | moments
        self._optimiser.param_groups[0]["lr"] = facts["rate"]
        self._rng.bit_generator.state = facts["random"]

    def _precision(self) -> AbstractContextManager[Any]:
        """bfloat16 on a GPU; on the CPU it is no faster for layers of this size."""
        import torch

        return torch.autocast("cuda", dtype=torch.bfloat16) if self._device == "cuda" else nullcontext()
