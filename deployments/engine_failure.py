"""Why an engine did not start, from the engine's process to the one line a user reads."""

import re
from typing import Any

CANNOT_PASS = frozenset(
    {
        "AssertionError",
        "AttributeError",
        "FileNotFoundError",
        "ImportError",
        "KeyError",
        "MemoryError",
        "ModuleNotFoundError",
        "NotADirectoryError",
        "NotImplementedError",
        "OutOfMemoryError",
        "PermissionError",
        "SafetensorError",
        "TypeError",
        "ValidationError",
        "ValueError",
    }
)
"""Errors which a second start with the same model on the same machine meets again."""

_OWN = re.compile(r"(EngineStartError|EngineCannotStartError): (.+)")
_CAUSE = re.compile(r"^\s*(?:[\w.]*\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
_SLOW_PLACEMENT = "to be scheduled"


class EngineStartError(Exception):
    """The engine did not start; another try may succeed."""


class EngineCannotStartError(EngineStartError):
    """The engine did not start, and the same start would fail again."""


def engine_error(cause: str) -> EngineStartError:
    """Return the error for a cause such as `ValueError: dtype float8 is not supported`."""
    kind = cause.split(":", maxsplit=1)[0].rsplit(".", 1)[-1]
    return (EngineCannotStartError if kind in CANNOT_PASS else EngineStartError)(cause)


def innermost_cause(told: str) -> str | None:
    """Return the last error named in a text with tracebacks, Ray's own wrappers left out; None where none is named."""
    own = _OWN.findall(told)
    if own:
        return str(own[-1][1]).strip()
    causes = [f"{kind}: {text.strip()}" for kind, text in _CAUSE.findall(told) if not kind.startswith("Ray")]
    return causes[-1] if causes else None


def can_pass(told: str) -> bool:
    """Whether what Serve tells of an application that does not start may pass by itself."""
    own = _OWN.findall(told)
    return not (own and own[-1][0] == "EngineCannotStartError") and _SLOW_PLACEMENT not in told


def told_by(application: Any) -> str:
    """Return everything Serve's status says of an application and its deployments, the deployments last."""
    return "\n".join([application.message, *(deployment.message for deployment in application.deployments.values())]).strip()


def reason_of(application: Any) -> str:
    """Return in one line why an application does not start."""
    told = told_by(application)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return innermost_cause(told) or (lines[-1] if lines else "Serve gives no reason")
