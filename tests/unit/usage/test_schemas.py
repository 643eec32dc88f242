"""Periods of a query, as people paste them."""

from datetime import UTC, datetime

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import validate
from aihub.usage.schemas import UsageQuery


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-27T09:30:00+07:00",
        "2026-11-27T09:30:00 07:00",  # a `+` in a query is a space
        "2026-11-27T09:30 07:00",
        "2026-11-27T02:30:00Z",
        "2026-11-27 02:30:00",
        "2026-11-27T09:30:00.000 07:00",
    ],
)
def test_time_with_an_offset_is_the_same_moment_with_and_without_its_plus(text: str) -> None:
    query = validate(UsageQuery, {"from": text})
    assert query.begin == datetime(2026, 11, 27, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-27 07:00 07:00 07:00", "07:00", "2026-11-27T09:30:00 7", "hôm qua"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        validate(UsageQuery, {"from": text})
