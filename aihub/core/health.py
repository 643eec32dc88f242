"""The state of one part of the hub."""

from dataclasses import dataclass
from typing import Literal

PartStatus = Literal["ok", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class PartHealth:
    """State of one part, with the reason whenever it is not `ok`."""

    status: PartStatus
    reason: str | None = None
