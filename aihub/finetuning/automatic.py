"""What the hub chooses where a client leaves it open; the rules are in docs/fine-tuning.md."""

from collections.abc import Mapping
from typing import Any

from aihub.core.schemas import validate
from aihub.finetuning.settings import FineTuningSettings

SMALL_ROWS = 250
"""Up to so many rows, facts are repeated `MOST_EPOCHS` times: fewer are not remembered."""
MOST_EPOCHS = 12
USUAL_EPOCHS = 3
MOST_EXAMPLES_SEEN = 60_000
"""Beyond so many, more epochs bring little."""

REFERENCE_WIDTH = 4096
"""Width of the 7B models that the default learning rate is made for."""
MOST_RATE_FACTOR = 10.0

_LEARNING_RATE: float = FineTuningSettings.model_fields["learning_rate"].default
_RANK: int = FineTuningSettings.model_fields["rank"].default


def choose_settings(chosen: Mapping[str, Any], *, rows: int, hidden_size: int | None, max_rank: int) -> FineTuningSettings:
    """Return complete settings.

    Args:
        chosen: Fields that the client has set.
        rows: Of the training file, without those nothing can be learnt of.
        hidden_size: Width of the base model; None where its `config.json` does not say.
        max_rank: Of an adapter that the engine serves.

    Raises:
        InvalidRequestError: A value is out of bounds.
    """
    automatic = {
        "epochs": choose_epochs(rows),
        "batch_size": choose_batch_size(rows),
        "learning_rate": choose_learning_rate(hidden_size),
        "rank": min(_RANK, max_rank),
    }
    return validate(FineTuningSettings, automatic | dict(chosen))


def choose_epochs(rows: int) -> int:
    """12 up to 250 rows, fewer with more rows, 3 from 1,000 rows on, fewer again when that is over 60,000 examples."""
    if rows >= MOST_EXAMPLES_SEEN // USUAL_EPOCHS:
        return max(1, MOST_EXAMPLES_SEEN // rows)
    return max(USUAL_EPOCHS, min(MOST_EPOCHS, MOST_EPOCHS * SMALL_ROWS // max(rows, 1)))


def choose_batch_size(rows: int) -> int:
    """4 up to 250 rows, 8 up to 10,000, then 16."""
    if rows <= SMALL_ROWS:
        return 4
    return 8 if rows <= 10_000 else 16


def choose_learning_rate(hidden_size: int | None) -> float:
    """The default at a width of 4,096 and above; narrower models take more, in proportion, at most ten times as much."""
    factor = 1.0 if not hidden_size else min(MOST_RATE_FACTOR, max(1.0, REFERENCE_WIDTH / hidden_size))
    return round(_LEARNING_RATE * factor, 6)
