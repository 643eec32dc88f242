"""How the command line asks a running hub: its address, its key, and errors by their message."""

import os

import httpx

from aihub.core.errors import (
    AuthenticationError,
    ConfigurationError,
    HubError,
    InvalidRequestError,
    PermissionDeniedError,
    UnavailableError,
)

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "AIHUB_API_KEY"
KEY_REFUSALS = (AuthenticationError, PermissionDeniedError)
"""What `error_of` makes of a refusal that another request with the same key would get too."""


def hub_url() -> str:
    """Return the address of the hub this command line talks to."""
    return os.environ.get("AIHUB_URL", "").strip().rstrip("/") or DEFAULT_URL


def hub_headers() -> dict[str, str]:
    """Return what a request carries of `AIHUB_API_KEY`.

    Raises:
        ConfigurationError: It holds what no header can carry.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(f"{KEY_VARIABLE} holds characters that no API key has. Copy the key anew.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def read_message(answer: httpx.Response) -> str:
    """Return the message of the hub's error object, or the start of whatever came instead."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200] or answer.reason_phrase


def error_of(answer: httpx.Response) -> HubError:
    """Return a refusal as the error that ends a command: wrong usage, a key that is missing or may not, or anything else."""
    message = read_message(answer)
    if answer.status_code in {400, 422}:
        return InvalidRequestError(message)
    if answer.status_code == AuthenticationError.status:
        if not os.environ.get(KEY_VARIABLE, "").strip():
            return AuthenticationError(f"The hub needs an API key: set {KEY_VARIABLE}. {message}")
        return AuthenticationError(f"The hub refuses the key of {KEY_VARIABLE}. {message}")
    if answer.status_code == PermissionDeniedError.status:
        return PermissionDeniedError(f"The key of {KEY_VARIABLE} may not do this. {message}")
    return UnavailableError(message)
