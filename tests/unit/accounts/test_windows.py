import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.accounts.limit_answers import duration
from aihub.accounts.windows import WINDOW_S, LimitsState, RequestWindow, TokenWindow, whole_seconds


def fits(window: TokenWindow, after_s: float, tokens: int, most: int) -> bool:
    """What the library's script would decide so many seconds later, if nothing is taken meanwhile."""
    before, before_left_s, now, now_left_s = window.before, window.before_left_s, window.now, window.now_left_s
    before_left_s, now_left_s = before_left_s - after_s, now_left_s - after_s
    if now_left_s < WINDOW_S:  # it is the window before by now
        before, before_left_s, now = now, now_left_s, 0
    return math.floor(before * max(0.0, before_left_s) / WINDOW_S) + now + tokens <= most


@given(st.integers(0, 2000), st.integers(0, 2000), st.floats(0.01, 59.99), st.integers(1, 1000), st.integers(0, 1000))
def test_after_the_wait_the_tokens_fit_and_shortly_before_they_do_not(
    before: int, now: int, runs_s: float, tokens: int, room: int
) -> None:
    most = tokens + room
    window = TokenWindow(before, WINDOW_S - runs_s, now, 2 * WINDOW_S - runs_s)
    wait_s = window.wait_s(tokens, most)
    assert 0 <= wait_s <= 2 * WINDOW_S
    assert fits(window, wait_s + 1e-3, tokens, most)
    if wait_s > 2e-3:
        assert not fits(window, wait_s - 1e-3, tokens, most)


def test_an_empty_window_is_no_wait() -> None:
    assert TokenWindow().wait_s(10, 10) == 0
    assert TokenWindow().reset_s == 0
    assert RequestWindow().reset_s == 0
    assert RequestWindow().wait_s == 0


def test_the_day_ends_at_midnight_of_utc() -> None:
    assert LimitsState(None, at_s=1_764_201_600.0 - 90).day_left_s == pytest.approx(90)  # 2025-11-27 00:00 UTC


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.35, "350ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (17.2, "18s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3599.5, "1h0m0s"),
        (3723, "1h2m3s"),
    ],
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_retry_after_is_whole_seconds_and_never_too_early() -> None:
    assert [whole_seconds(seconds) for seconds in (0.0, 0.2, 1.0, 1.2, 59.9995)] == [1, 1, 1, 2, 60]
