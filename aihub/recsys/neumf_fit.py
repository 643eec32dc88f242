"""Training of NeuMF: weighted log loss against sampled negatives, Adam, early stopping on the hold-out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.fit_checkpoint import FitCheckpoint, Saved
from aihub.recsys.ials import Factors
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.neumf import NeumfSettings, Parameters, calibrate, new_parameters, start_from
from aihub.recsys.neumf_epochs import NeumfEpochs
from aihub.recsys.results import Cancelled

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
