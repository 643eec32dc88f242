"""Training of NeuMF: weighted log loss against sampled negatives, Adam, early stopping on the hold-out.

Epochs of NeuMF's training: shuffled events, fresh negatives, one Adam step per batch.
"""

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import FitCheckpoint, Saved
from aihub.recsys.collaborative.evaluation import NegativeSampler
from aihub.recsys.collaborative.ials import Factors
from aihub.recsys.collaborative.neumf import NeumfSettings, Parameters, calibrate, logits, new_parameters, score_pairs, start_from
from aihub.recsys.data.interactions import PairMatrix
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


ScorePairs = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Scores of `items` (users, k) for `users`, by index."""

_USER_TABLES = ("gmf_users", "mlp_users")
_COMPLETING_EPOCHS = 3
_COMPLETING_RATE = 0.003


@dataclass(frozen=True, slots=True)
class NeumfFit:
    """The best parameters found.

    Attributes:
        quality: What `judge` gave them.
        best_epoch: The one kept; 0 is the start from factors, which no training made better.
        epochs: Trained, all together.
        spent_s: Seconds of training, all together.
    """

    parameters: Parameters = field(default_factory=dict)
    quality: float = float("-inf")
    best_epoch: int = 0
    epochs: int = 0
    spent_s: float = 0.0

    @property
    def epoch_s(self) -> float:
        """Mean seconds of an epoch."""
        return self.spent_s / max(1, self.epochs)


def fit_neumf(
    pairs: PairMatrix,
    settings: NeumfSettings,
    judge: Callable[[ScorePairs], float],
    *,
    factors: Factors | None = None,
    until: float = float("inf"),
    after_epoch: Callable[[int, float], None] = lambda epoch, quality: None,
    cancelled: Cancelled,
    checkpoint: FitCheckpoint | None = None,
    stage: str = "neumf",
) -> NeumfFit:
    """Train, and keep the epoch that `judge` likes best.

    Args:
        judge: Quality of a scoring function on the hold-out; higher is better.
        factors: Pre-training: the product starts from these, brought to the scale of logits. All parameters learn.
        until: `time.monotonic()` after which no epoch starts, if one is done.
        after_epoch: Called with the epochs done and their quality.
        checkpoint: A killed fit goes on after the last epoch found there, in `stage`.

    Raises:
        TrainingCancelledError: `cancelled` turned True; asked before each step.
    """
    checkpoint = checkpoint or FitCheckpoint()
    saved = checkpoint.load(stage)
    if saved is None:
        training = NeumfEpochs(pairs, settings, _first_parameters(pairs, settings, factors), settings.rate(factors is not None))
        fit = NeumfFit() if factors is None else NeumfFit(training.snapshot(), judge(training.score))
    else:
        training, fit = _resume(pairs, settings, saved)
    while fit.epochs < settings.epochs and fit.epochs - fit.best_epoch < settings.patience:
        if fit.epochs and time.monotonic() > until:
            break
        started = time.monotonic()
        training.run_epoch(cancelled)
        fit = replace(fit, epochs=fit.epochs + 1, spent_s=fit.spent_s + time.monotonic() - started)
        quality = judge(training.score)
        after_epoch(fit.epochs, quality)
        if quality > fit.quality:
            fit = replace(fit, parameters=training.snapshot(), quality=quality, best_epoch=fit.epochs)
        if checkpoint.is_due():
            _save(checkpoint, stage, training, fit)
    return fit


def fit_epochs(
    pairs: PairMatrix, settings: NeumfSettings, epochs: int, *, factors: Factors | None, cancelled: Cancelled
) -> Parameters:
    """Train for so many epochs without a hold-out; see `fit_neumf`."""
    first = _first_parameters(pairs, settings, factors)
    training = NeumfEpochs(pairs, settings, first, settings.rate(factors is not None))
    for _ in range(epochs):
        training.run_epoch(cancelled)
    return training.snapshot()


def complete_users(
    fitted: Parameters, pairs: PairMatrix, users: NDArray[np.int64], settings: NeumfSettings, cancelled: Cancelled
) -> Parameters:
    """Let the embeddings of `users` learn from all their pairs, what was held out included; everything else stays.

    Args:
        fitted: Best parameters of a fit without the held-out pairs.
        pairs: All pairs.
    """
    chosen = np.zeros(pairs.n_users, np.bool_)
    chosen[users] = True
    theirs = pairs.take(chosen[pairs.users])
    parameters = {name: value.clone() for name, value in fitted.items()}
    training = NeumfEpochs(theirs, settings, parameters, _COMPLETING_RATE, learnt=_USER_TABLES)
    for _ in range(_COMPLETING_EPOCHS):
        training.run_epoch(cancelled)
    return training.snapshot()


def _first_parameters(pairs: PairMatrix, settings: NeumfSettings, factors: Factors | None) -> Parameters:
    parameters = new_parameters(pairs.n_users, pairs.n_items, settings)
    if factors is not None:
        start_from(parameters, factors, *calibrate(pairs, factors, settings))
    return parameters


def _save(checkpoint: FitCheckpoint, stage: str, training: NeumfEpochs, fit: NeumfFit) -> None:
    state, facts = training.state()
    best = {f"best.{name}": value.numpy() for name, value in fit.parameters.items()}
    figures = {"quality": fit.quality, "best_epoch": fit.best_epoch, "epochs": fit.epochs, "spent_s": fit.spent_s}
    checkpoint.save(stage, state | best, {"fit": figures, "training": facts})


def _resume(pairs: PairMatrix, settings: NeumfSettings, saved: Saved) -> tuple[NeumfEpochs, NeumfFit]:
    import torch

    def group(prefix: str) -> Parameters:
        named = {name.removeprefix(prefix): array for name, array in saved.arrays.items() if name.startswith(prefix)}
        return {name: torch.from_numpy(array) for name, array in named.items()}

    training = NeumfEpochs(pairs, settings, group("now."), 0.0)
    training.restore(group("mean."), group("square."), saved.facts["training"])
    return training, NeumfFit(parameters=group("best."), **saved.facts["fit"])
