"""What the models answer, and how a fit reports and stops."""

from collections.abc import Callable
from dataclasses import dataclass

from aihub.core.errors import ConflictError

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the fraction done, 0 to 1."""

Cancelled = Callable[[], bool]
"""True once the training should stop; asked between batches."""


class TrainingCancelledError(ConflictError):
    """The training was asked to stop and has stopped; nothing was kept."""

    code = "training_cancelled"


def raise_if_cancelled(cancelled: Cancelled) -> None:
    """Stop a fit between two steps.

    Raises:
        TrainingCancelledError: `cancelled()` is True.
    """
    if cancelled():
        raise TrainingCancelledError("The training was cancelled; start it again to get a new model.")


def ignore_progress(stage: str, fraction: float) -> None:
    """A `Progress` for callers that show none."""


def never_cancelled() -> bool:
    """A `Cancelled` for callers that never stop."""
    return False


@dataclass(frozen=True, slots=True)
class Scored:
    """One recommended item; lists of them are best first.

    Attributes:
        item_id: The shop's id.
        score: Higher is better; comparable within one answer only.
    """

    item_id: int
    score: float


@dataclass(frozen=True, slots=True)
class TrendItem:
    """One variant of the trending list.

    Attributes:
        variant_id, item_id: The shop's ids.
        predicted_sales: Units in the next period.
        trend_score: See `aihub.recsys.trending.model`.
    """

    variant_id: int
    item_id: int
    predicted_sales: float
    trend_score: float


@dataclass(frozen=True, slots=True)
class NextItem:
    """One item likely to follow a history.

    Attributes:
        item_id: The shop's id.
        probability: Share of the answer's whole score, 0 to 1.
        confidence: Of those who had the history's items, the share that went on to this one, 0 to 1.
        support: Sequences in which it did: how often it was seen.
        support_share: `support` over all sequences, 0 to 1.
        lift: Confidence over the share of all sequences with this item: 1 is chance, 2 twice as often.

    All but the probability are those of the strongest sequence rule, and 0 where there is none.
    """

    item_id: int
    probability: float
    confidence: float
    support: int
    support_share: float
    lift: float
