"""How a training reports, stops, and what it leaves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aihub.core.errors import ConflictError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where a training stands after a step.

    Attributes:
        step: Steps done, from 1; 0 is the evaluation before the first one.
        of: Steps in all.
        loss: Mean over the trained tokens of the step, in nats; None at step 0.
        eval_loss: The same over the validation examples; None where this step had no evaluation.
        tokens_per_s: Tokens read, prompts too and without padding, by all workers.
        memory_bytes: The most this process has taken so far: of the graphics card where there is one, else of RAM.
        seconds_left: Estimate, 0 after the last step.
    """

    step: int
    of: int
    loss: float | None
    eval_loss: float | None
    tokens_per_s: float
    memory_bytes: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class AdapterMetrics:
    """How a training went.

    Attributes:
        steps: Steps done; fewer than planned after an early stop.
        best_step: The step whose adapter this is.
        loss: Of the last step, in nats a token.
        eval_loss_before: Of the base model on the validation examples; None without any.
        eval_loss: Of the adapter on them; None without any.
        training_tokens: Tokens of all sequences of one epoch, and those of them that are learned in `trained_tokens`.
        truncated: Sequences that lost their end.
        dropped: Sequences left out as nothing to learn was left of them.
        seconds: Of this process; a resumed training counts from its resumption.
    """

    steps: int
    best_step: int
    loss: float
    eval_loss_before: float | None
    eval_loss: float | None
    training_tokens: int
    trained_tokens: int
    truncated: int
    dropped: int
    tokens_per_s: float
    memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """A folder with `adapter_config.json` and `adapter_model.safetensors`, as peft and vLLM read it."""

    folder: Path
    metrics: AdapterMetrics


Report = Callable[[StepReport], None]
"""Called after each step by the worker of rank 0, and after the evaluation before the first step."""

Cancelled = Callable[[], bool]
"""True once the training should stop; asked between steps and between forward passes."""


class TrainingCancelledError(ConflictError):
    """The training was asked to stop and has stopped; a checkpoint of its last step is kept."""

    code = "training_cancelled"


class TrainingDivergedError(InvalidRequestError):
    """The loss is no number any more."""

    code = "training_diverged"


class CheckpointMismatchError(ConflictError):
    """The checkpoint was made with other data or settings."""

    code = "checkpoint_mismatch"


def ignore_report(report: StepReport) -> None:
    """A `Report` for callers that show nothing."""


def never_cancelled() -> bool:
    """A `Cancelled` for callers that never stop."""
    return False
