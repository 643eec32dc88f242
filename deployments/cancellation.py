"""Requests whose client has left, or which are refused: one INFO line each, written by the hub's access log."""

import logging
import re

from aihub.core.errors import HubError

_OF_SERVE = re.compile(
    r"Cancelling request that has already been assigned to a replica\.|Client for request \S+ disconnected, cancelling request\."
)


def quiet_cancellations() -> None:
    """Leave out what Serve itself says of a cancelled request in this process; call once per process."""
    logging.getLogger("ray.serve").addFilter(_is_other)


def quiet_refusals() -> None:
    """Leave out Serve's tracebacks of requests that are the caller's own fault; call once per process."""
    logging.getLogger("ray.serve").addFilter(_is_no_refusal)


def _is_other(record: logging.LogRecord) -> bool:
    return record.levelno != logging.INFO or _OF_SERVE.fullmatch(record.getMessage()) is None


def _is_no_refusal(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, HubError) and error.status < 500)
