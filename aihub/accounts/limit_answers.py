"""What a client is told of its limits: OpenAI's `x-ratelimit-*` headers and the errors of 429 answers."""

from aihub.accounts.windows import LimitsState, whole_seconds
from aihub.core.errors import RateLimitError
from aihub.core.logging import add_response_header
from aihub.core.principal import KeyLimits

STREAM_RETRY_AFTER_S = 1
"""Nobody knows when a stream ends."""
RETRY_HEADER = "x-should-retry"
"""Read by OpenAI's clients, which would otherwise send again what cannot succeed."""


def add_limit_headers(limits: KeyLimits, state: LimitsState) -> None:
    """Add what OpenAI sends with every answer: limit, remaining and reset, of requests and of tokens."""
    if limits.requests_per_minute is not None:
        _add("requests", limits.requests_per_minute, state.requests.made, state.requests.reset_s)
    if limits.tokens_per_minute is not None:
        _add("tokens", limits.tokens_per_minute, state.tokens.used, state.tokens.reset_s)


def refusal(limits: KeyLimits, state: LimitsState, tokens: int) -> RateLimitError:
    """Build the error of what was refused.

    Args:
        tokens: What the request asked for.
    """
    if state.refused == "requests":
        wait_s = whole_seconds(state.requests.wait_s)
        return RateLimitError(
            f"This API key may send {limits.requests_per_minute} requests a minute. Retry in {wait_s} s.", retry_after_s=wait_s
        )
    if state.refused == "streams":
        return RateLimitError(
            f"This API key may have {limits.streams} streams at a time. Retry when one has ended.",
            retry_after_s=STREAM_RETRY_AFTER_S,
        )
    if state.refused == "day":
        add_response_header(RETRY_HEADER, "false")
        left = max(0, (limits.tokens_per_day or 0) - state.day_tokens)
        return RateLimitError(
            f"This request needs about {tokens} tokens, and {left} of this API key's {limits.tokens_per_day} for today are left. "
            "The next day begins at 00:00 UTC.",
            code="insufficient_quota",
            retry_after_s=whole_seconds(state.day_left_s),
        )
    wait_s = whole_seconds(state.tokens.wait_s(tokens, limits.tokens_per_minute or 0))
    return RateLimitError(
        f"This API key may use {limits.tokens_per_minute} tokens a minute, of which {state.tokens.used} are used; this request "
        f"needs about {tokens}. Retry in {wait_s} s.",
        retry_after_s=wait_s,
    )


class NeverFitsError(RateLimitError):
    """A request needs more than its key may ever use at a time; waiting does not help."""

    retryable = False
    retry_after_s = None  # type: ignore[assignment]  # HubError has it optional


def too_large(tokens: int, most: int, period: str) -> NeverFitsError:
    """Build the error of a request that fits in no `period` (`minute`, `day`), however long it waits."""
    add_response_header(RETRY_HEADER, "false")
    return NeverFitsError(
        f"This request needs about {tokens} tokens, more than the {most} that this API key may use in a {period}. "
        "Shorten the prompt, or ask for a shorter answer with `max_completion_tokens`."
    )


def _add(kind: str, most: int, used: int, reset_s: float) -> None:
    add_response_header(f"x-ratelimit-limit-{kind}", str(most))
    add_response_header(f"x-ratelimit-remaining-{kind}", str(max(0, most - used)))
    add_response_header(f"x-ratelimit-reset-{kind}", duration(reset_s))


def duration(seconds: float) -> str:
    """Write a time as OpenAI does: `0s`, `350ms`, `1s`, `6m0s`, `1h2m3s`; parts of a second only below one, else rounded up."""
    if seconds < 1:
        milliseconds = round(seconds * 1000)
        return f"{milliseconds}ms" if 0 < milliseconds < 1000 else f"{milliseconds // 1000}s"
    whole = -int(-seconds // 1)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
