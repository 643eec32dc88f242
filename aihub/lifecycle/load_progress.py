"""What a request is told that cannot wait any longer for its model."""

import math

from aihub.errors import ModelUnavailableError
from aihub.lifecycle.state import ModelRecord, ModelState

UNKNOWN_RETRY_S = 10
LONGEST_RETRY_S = 60
"""A request that comes too early waits again, and clients ignore longer times."""


def still_loading(record: ModelRecord, now_s: float) -> ModelUnavailableError:
    """Say for how long the model has been loaded by now, and when to try again.

    Args:
        record: The model; its load goes on.
        now_s: By the lifecycle's clock.
    """
    is_starting = record.state is ModelState.LOADING
    since_s = now_s - (record.load_began_s if is_starting else record.load_asked_s)
    usual_s = record.load_time_s
    left_s = (usual_s - since_s if is_starting else usual_s) if usual_s is not None else 0.0
    retry_after_s = min(math.ceil(left_s), LONGEST_RETRY_S) if left_s > 0 else UNKNOWN_RETRY_S
    doing = "is still being loaded" if is_starting else "still waits for memory"
    usual = f" (its last load took {usual_s:.0f} s)" if usual_s is not None and is_starting else ""
    return ModelUnavailableError(
        f"The model {record.model_id!r} {doing}, for {since_s:.0f} s so far{usual}. The load goes on: "
        f"try again in {retry_after_s} s.",
        code="model_loading",
        retry_after_s=retry_after_s,
    )
