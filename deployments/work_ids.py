"""Whose work a call over a handle is: the caller's side and what both sides call it.

Connections of the ingress add the work id of the request being answered to each call of a metered deployment, and note in the
request's record whom they asked; `deployments.request_costs` asks those for the costs later.
"""

from contextvars import ContextVar

from aihub.core.request_record import current_record

WORK_ID = "work_id"
"""Keyword of a metered call, see `deployments.metering`."""
TAKE_COSTS = "take_costs"

current_work: ContextVar[str | None] = ContextVar("current_work", default=None)
"""In a replica: work id of the call that it is working on."""


def name_work(part: object) -> dict[str, str]:
    """Return what a call to `part` carries for the request being answered, and note the part in its record."""
    record = current_record.get()
    if record is None:
        return {}
    record.parts.setdefault(part, False)
    return {WORK_ID: record.work_id}


def note_answer(part: object) -> None:
    """Note that a part has begun to answer the request: it knows of its work."""
    record = current_record.get()
    if record is not None and part in record.parts:
        record.parts[part] = True
