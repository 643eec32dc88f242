"""Training of NeuMF: log loss against sampled negatives, Adam, early stopping on the hold-out."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.ials import Factors
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.negative_sampling import NegativeSampler
from aihub.recsys.neumf import NeumfSettings, Parameters, logits, new_parameters, score_pairs, start_from
from aihub.recsys.results import Cancelled, raise_if_cancelled

ScorePairs = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Scores of `items` (users, k) for `users`, by index."""

_CALIBRATION_EVENTS = 40_000
_GRADIENT_STEPS = 20


@dataclass(frozen=True, slots=True)
class NeumfFit:
    """The best parameters found.

    Attributes:
        quality: What `judge` gave them.
        best_epoch: The one kept; 0 is the start from factors, which no training made better.
        epochs: Trained, all together.
        epoch_s: Mean seconds of training per epoch.
    """

    parameters: Parameters
    quality: float
    best_epoch: int
    epochs: int
    epoch_s: float


def fit_neumf(
    pairs: PairMatrix,
    settings: NeumfSettings,
    judge: Callable[[ScorePairs], float],
    *,
    factors: Factors | None = None,
    until: float = float("inf"),
    after_epoch: Callable[[int, float], None] = lambda epoch, quality: None,
    cancelled: Cancelled,
) -> NeumfFit:
    """Train, and keep the epoch that `judge` likes best.

    Args:
        judge: Quality of a scoring function on the hold-out; higher is better.
        factors: Pre-training: the product starts from these, and only the network learns until it gets no better, then all.
        until: `time.monotonic()` after which no epoch starts, if one is done.
        after_epoch: Called with the epochs done and their quality.

    Raises:
        TrainingCancelledError: `cancelled` turned True; asked before each step.
    """
    training = _Training(pairs, settings, factors)
    best = NeumfFit({}, float("-inf"), 0, 0, 0.0)
    if factors is not None:
        best = NeumfFit(training.snapshot(), judge(training.score), 0, 0, 0.0)
    spent_s, last_better, done = 0.0, 0, 0
    for epoch in range(1, settings.epochs + 1):
        if epoch > 1 and time.monotonic() > until:
            break
        started = time.monotonic()
        training.run_epoch(cancelled)
        spent_s += time.monotonic() - started
        done = epoch
        quality = judge(training.score)
        after_epoch(epoch, quality)
        if quality > best.quality:
            best, last_better = NeumfFit(training.snapshot(), quality, epoch, 0, 0.0), epoch
        elif epoch - last_better >= settings.patience:
            break
    return NeumfFit(best.parameters, best.quality, best.best_epoch, done, spent_s / max(1, done))


class _Training:
    """Parameters, optimiser and the state of the random numbers."""

    def __init__(self, pairs: PairMatrix, settings: NeumfSettings, factors: Factors | None) -> None:
        import torch

        self._pairs = pairs
        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._sampler = NegativeSampler(pairs)
        self._users, self._items = pairs.users, pairs.items
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        parameters = new_parameters(pairs.n_users, pairs.n_items, settings)
        if factors is not None:
            start_from(parameters, factors, *self._calibrate(factors))
        self._frozen = {"gmf_users", "gmf_items", "gmf_head", "item_bias"} if factors is not None else set()
        self.parameters = {name: value.to(self._device) for name, value in parameters.items()}
        learnt = []
        for name, value in self.parameters.items():
            value.requires_grad_(name not in self._frozen)
            learnt += [value] if name not in self._frozen else []
        self._optimiser = torch.optim.Adam(learnt, lr=settings.learning_rate, fused=True)

    def score(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        return score_pairs(self.parameters, users, items)

    def snapshot(self) -> Parameters:
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    def run_epoch(self, cancelled: Cancelled) -> None:
        import torch
        from torch.nn import functional

        settings = self._settings
        order = self._rng.permutation(len(self._users))
        users = self._users[order]
        negatives = self._sampler.sample(users, settings.negatives, self._rng)
        all_users = torch.from_numpy(users.astype(np.int64))
        all_items = torch.from_numpy(np.column_stack([self._items[order], negatives]).astype(np.int64))
        wanted = torch.zeros(settings.batch_size, 1 + settings.negatives, device=self._device)
        wanted[:, 0] = 1.0
        for start in range(0, len(users), settings.batch_size):
            raise_if_cancelled(cancelled)
            batch = slice(start, start + settings.batch_size)
            user, item = all_users[batch].to(self._device), all_items[batch].to(self._device)
            with self._precision():
                scores, size = logits(self.parameters, user, item)
                loss = functional.binary_cross_entropy_with_logits(scores.float(), wanted[: len(user)], reduction="sum")
                loss = (loss + settings.penalty * size) / len(user)
            loss.backward()
            self._optimiser.step()
            self._optimiser.zero_grad()
        for group in self._optimiser.param_groups:
            group["lr"] *= settings.decay

    def _precision(self) -> AbstractContextManager[Any]:
        """bfloat16 on a GPU; on the CPU it is no faster for layers of this size."""
        import torch

        return torch.autocast("cuda", dtype=torch.bfloat16) if self._device == "cuda" else nullcontext()

    def _calibrate(self, factors: Factors) -> tuple[float, float]:
        """Scale and offset that make dot products of factors logits: logistic regression by Newton's method."""
        rows = self._rng.integers(0, len(self._users), min(_CALIBRATION_EVENTS, len(self._users)))
        users = self._users[rows]
        items = np.column_stack([self._items[rows], self._sampler.sample(users, self._settings.negatives, self._rng)])
        scores = np.einsum("ud,ukd->uk", factors[0][users], factors[1][items]).astype(np.float64)
        wanted = np.zeros(scores.shape)
        wanted[:, 0] = 1.0
        features = np.column_stack([scores.ravel(), np.ones(scores.size)])
        line = np.zeros(2)
        for _ in range(_GRADIENT_STEPS):
            chance = 1.0 / (1.0 + np.exp(-np.clip(features @ line, -30.0, 30.0)))
            bend = (features * (chance * (1.0 - chance))[:, None]).T @ features + 1e-3 * np.eye(2)
            line += np.linalg.solve(bend, features.T @ (wanted.ravel() - chance))
        return max(float(line[0]), 1e-3), float(line[1])
