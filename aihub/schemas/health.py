"""Wire types of `/health`."""

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
