"""Wire types of `/health`, `/health/live` and `/health/ready`."""

from typing import Literal

from aihub.engines.base import PartStatus
from aihub.schemas.common import ResponseModel


class PartReport(ResponseModel):
    """State of one part; `reason` says what is wrong unless the state is `ok`."""

    status: PartStatus
    reason: str | None = None


class HealthReport(ResponseModel):
    """The hub as a whole: `down` when a required part is, `degraded` when any part is not `ok`."""

    status: PartStatus
    version: str
    parts: dict[str, PartReport]


class LivenessReport(ResponseModel):
    """The process answers; nothing else was looked at."""

    status: Literal["ok"] = "ok"
    version: str


class ReadinessReport(ResponseModel):
    """Whether requests can be answered; `waits_for` has the required parts that are down."""

    status: Literal["ok", "down"]
    waits_for: dict[str, PartReport]
