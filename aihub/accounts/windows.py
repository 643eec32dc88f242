"""What is left of a key's limits and when there is more, as read from the windows of the library `limits`."""

import math
from dataclasses import dataclass
from typing import Literal

WINDOW_S = 60
DAY_S = 86_400

Refusal = Literal["requests", "tokens", "streams", "day"]


@dataclass(frozen=True, slots=True)
class RequestWindow:
    """Requests of the last 60 s: a moving window, which knows the time of each.

    Attributes:
        made: Requests in it.
        newest_age_s: Since the last one.
        blocking_age_s: Since the one that must leave the window before the next request fits; None where one fits now.
    """

    made: int = 0
    newest_age_s: float = WINDOW_S
    blocking_age_s: float | None = None

    @property
    def reset_s(self) -> float:
        """Seconds until none of them counts any more."""
        return max(0.0, WINDOW_S - self.newest_age_s) if self.made else 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until one more fits."""
        return 0.0 if self.blocking_age_s is None else max(0.0, WINDOW_S - self.blocking_age_s)


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """Tokens of the last 60 s: a sliding window counter, which takes those of the window before as spread evenly over it.

    Attributes:
        before, now: Tokens counted in the window before, and in the one that runs.
        before_left_s: Seconds for which a part of `before` still counts: that of 60.
        now_left_s: Seconds until `now` counts for nothing; it counts fully while more than 60 are left.
    """

    before: int = 0
    before_left_s: float = 0.0
    now: int = 0
    now_left_s: float = 0.0

    @property
    def used(self) -> int:
        """Tokens that count."""
        return math.floor(self.before * self.before_left_s / WINDOW_S) + self.now

    @property
    def reset_s(self) -> float:
        """Seconds until none of them counts any more."""
        if self.now:
            return self.now_left_s
        return self.before_left_s if self.before else 0.0

    def wait_s(self, tokens: int, most: int) -> float:
        """Seconds until `tokens` more fit under `most`, if nobody takes any meanwhile; `tokens` is at most `most`."""
        free = most - tokens
        runs_on_s = max(0.0, self.now_left_s - WINDOW_S)
        if self.now <= free:
            wait_s = _fade_s(self.before, self.before_left_s, free - self.now)
            if wait_s <= runs_on_s or not self.now:
                return wait_s
        # Only once this window is the one before does it fade.
        return runs_on_s + _fade_s(self.now, min(self.now_left_s, WINDOW_S), free)


def _fade_s(counted: int, left_s: float, most: int) -> float:
    """Seconds until the fading `counted` are `most` or fewer, rounded down as the library does."""
    if math.floor(counted * left_s / WINDOW_S) <= most:
        return 0.0
    # Just below most + 1.
    return left_s - (most + 1) * WINDOW_S / counted


@dataclass(frozen=True, slots=True)
class LimitsState:
    """What was taken, or why not, and what there is now.

    Attributes:
        refused: None where everything was taken.
        at_s: Unix seconds of the clock that the windows go by.
        day_tokens: Of this day of UTC.
    """

    refused: Refusal | None
    at_s: float
    requests: RequestWindow = RequestWindow()
    tokens: TokenWindow = TokenWindow()
    day_tokens: int = 0

    @property
    def day_left_s(self) -> float:
        """Seconds until the day of UTC ends."""
        return DAY_S - self.at_s % DAY_S


def whole_seconds(seconds: float) -> int:
    """Round up to what `Retry-After` can say, at least 1."""
    return max(1, math.ceil(seconds))
