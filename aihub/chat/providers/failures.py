"""How a provider's failures become the hub's errors.

ProviderError                502  the provider answered with something that is no answer
├── ProviderKeyError         502  it refuses the hub's key
ProviderUnavailableError     503  it cannot be reached, is down or is left alone for a while (ModelUnavailableError)
└── ProviderNotConfiguredError 503  its key or URL is missing
ProviderRetiredError         410  it was shut down by its owner; the message names alternatives
"""

import json
from dataclasses import dataclass
from typing import Any

from aihub.core.errors import (
    ContextLengthError,
    EngineTimeoutError,
    HubError,
    InvalidRequestError,
    ModelUnavailableError,
    NotFoundError,
    PayloadTooLargeError,
    RateLimitError,
)

MAX_MESSAGE_CHARS = 500

_CONTEXT_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
# The words of OpenAI, vLLM, llama.cpp and Ollama for a prompt that is too long.
_CONTEXT_WORDS = ("context length", "context window", "context size", "maximum context", "input length exceeds")
_EXHAUSTED_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class ProviderError(HubError):
    """The provider answered with something that is no answer."""

    status = 502
    code = "provider_error"


class ProviderKeyError(ProviderError):
    """The provider refuses the hub's key."""

    code = "provider_key_refused"


class ProviderUnavailableError(ModelUnavailableError):
    """The provider cannot be reached, is down, or is left alone after many failures."""

    code = "provider_unavailable"


class ProviderNotConfiguredError(ProviderUnavailableError):
    """The key or URL of the provider is missing; only an operator can change that."""

    code = "provider_not_configured"
    retryable = False
    retry_after_s = 60


class ProviderRetiredError(HubError):
    """The provider was shut down by its owner."""

    status = 410
    type = "invalid_request_error"
    code = "provider_retired"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer with a status other than 2xx.

    Attributes:
        message: What the provider says, shortened; may be empty.
        code: Its machine-readable code or type, if it sent one.
        retry_after_s: From `Retry-After`, in whole seconds.
    """

    provider: str
    status: int
    message: str
    code: str | None = None
    retry_after_s: int | None = None


def read_refusal(provider: str, status: int, body: bytes, retry_after_s: int | None, *, secret: str | None) -> Refusal:
    """Take an error answer apart: OpenAI's object, Ollama's `{"error": "..."}`, FastAPI's `detail` or plain text.

    Args:
        secret: Removed from the message, should the provider repeat it.
    """
    message, code = _said(body)
    if secret:
        message = message.replace(secret, "***")
    return Refusal(provider, status, " ".join(message.split())[:MAX_MESSAGE_CHARS], code, retry_after_s)


def _said(body: bytes) -> tuple[str, str | None]:
    text = body.decode("utf-8", errors="replace")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        # A page of HTML says nothing to a client of an API.
        return ("" if text.lstrip().startswith("<") else text), None
    error = (value.get("error") or value.get("detail") or value.get("message")) if isinstance(value, dict) else value
    if isinstance(error, dict):
        code = error.get("code") or error.get("type")
        return str(error.get("message") or ""), str(code) if code else None
    return str(error or ""), None


def explain_refusal(refusal: Refusal) -> HubError:
    """Return the hub's error for a refused request."""
    provider, said = refusal.provider, refusal.message or "no reason given"
    match refusal.status:
        case 401 | 403:
            # Its message may hold a part of the key.
            return ProviderKeyError(
                f"The provider {provider!r} refuses the hub's key (status {refusal.status}). "
                "Ask the hub's operator to check the key and what it may be used for."
            )
        case 404:
            return NotFoundError(f"The provider {provider!r} says: {said}", param="model", code="model_not_found")
        case 408 | 504:
            return EngineTimeoutError(f"The provider {provider!r} did not answer in time. Retry with a smaller request.")
        case 413:
            return PayloadTooLargeError(f"The provider {provider!r} says: {said}. Send less text.")
        case 429:
            return _explain_limit(refusal)
        case status if 400 <= status < 500:
            return _explain_bad_request(refusal)
        case status if 300 <= status < 400:
            return ProviderError(
                f"The provider {provider!r} redirects elsewhere (status {status}), which is not followed. "
                "Ask the hub's operator to configure the address it moved to."
            )
        case _:
            return ProviderUnavailableError(
                f"The provider {provider!r} failed (status {refusal.status}). Retry in a few seconds.",
                retry_after_s=refusal.retry_after_s,
            )


def explain_retired(refusal: Refusal, alternatives: str) -> HubError:
    """As `explain_refusal`, but gone means gone: a retired service, with what to use instead."""
    if refusal.status not in {404, 410}:
        return explain_refusal(refusal)
    return ProviderRetiredError(f"The provider {refusal.provider!r} answers {refusal.status}: {alternatives}")


def _explain_limit(refusal: Refusal) -> HubError:
    if refusal.code in _EXHAUSTED_CODES:
        error = RateLimitError(
            f"The quota of the hub's account at {refusal.provider!r} is used up. Ask the hub's operator to raise it.",
            code="insufficient_quota",
            retry_after_s=refusal.retry_after_s or 3600,
        )
        error.retryable = False
        return error
    return RateLimitError(
        f"The provider {refusal.provider!r} limits its requests: {refusal.message or 'too many requests'}. Retry later.",
        code="provider_rate_limited",
        retry_after_s=refusal.retry_after_s,
    )


def _explain_bad_request(refusal: Refusal) -> HubError:
    lowered = refusal.message.lower()
    if refusal.code in _CONTEXT_CODES or any(words in lowered for words in _CONTEXT_WORDS):
        return ContextLengthError(
            f"The provider {refusal.provider!r} says: {refusal.message}. Shorten the messages or ask for fewer tokens.",
            param="messages",
        )
    return InvalidRequestError(
        f"The provider {refusal.provider!r} refuses the request: {refusal.message or 'no reason given'}",
        code="refused_by_provider",
    )
