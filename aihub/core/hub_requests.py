"""How the command line asks a running hub: its address, its key, and errors by their message."""

import os

import httpx

from aihub.core.errors import HubError, InvalidRequestError, UnavailableError

DEFAULT_URL = "http://127.0.0.1:8000"


def hub_url() -> str:
    """Return the address of the hub this command line talks to."""
    return os.environ.get("AIHUB_URL", "").strip().rstrip("/") or DEFAULT_URL


def hub_headers() -> dict[str, str]:
    """Return what a request carries of `AIHUB_API_KEY`."""
    key = os.environ.get("AIHUB_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def read_message(answer: httpx.Response) -> str:
    """Return the message of the hub's error object, or the start of whatever came instead."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200] or answer.reason_phrase


def error_of(answer: httpx.Response) -> HubError:
    """Return a refusal as the error that ends a command: wrong usage, or anything else."""
    message = read_message(answer)
    if answer.status_code in {400, 422}:
        return InvalidRequestError(message)
    return UnavailableError(message)
