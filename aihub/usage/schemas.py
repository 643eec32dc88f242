"""Wire types of `/api/v1/system/analytics`. Times are in milliseconds unless a name says otherwise; days are those of UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints

from aihub.core.errors import InvalidRequestError
from aihub.core.request_record import CacheStatus
from aihub.core.schemas import NullIsAbsent, ResponseModel

Group = Literal["day", "model", "provider", "key", "user", "tenant", "route", "task", "status", "cache"]
MAX_DAYS = 366
MAX_GROUPS = 1_000
"""Rows of one answer."""
DEFAULT_DAYS = 7
_FIRST_YEAR, _LAST_YEAR = 2000, 2100
_DAY_CHARS = len("2026-11-27")


_LOST_PLUS = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:\d\d)$", re.ASCII)
"""An offset whose `+` a query has made a space."""


def _parse_begin(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
            raise ValueError(text)
    except ValueError:
        raise ValueError("must be a day such as 2026-11-27, or a time such as 2026-11-27T09:30:00+07:00") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _parse_end(text: str) -> datetime:
    end = _parse_begin(text)
    return end + timedelta(days=1) if len(text) == _DAY_CHARS else end


def _split(names: list[str]) -> list[str]:
    return [name.strip() for item in names for name in item.split(",") if name.strip()]


def _once(names: list[Group]) -> list[Group]:
    if len(set(names)) != len(names):
        raise ValueError("must name each group once")
    return names


Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class UsageFilters(NullIsAbsent):
    """Which rows are looked at; all conditions must hold. Values come from a query, as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    begin: Annotated[datetime, BeforeValidator(_parse_begin)] | None = Field(
        default=None, alias="from", description="Requests that ended at or after this; seven days before `to` when left out."
    )
    end: Annotated[datetime, BeforeValidator(_parse_end)] | None = Field(
        default=None, alias="to", description="And before this; a day is looked at to its end. Now when left out."
    )
    model: Name | None = None
    provider: Name | None = None
    key: Name | None = Field(default=None, description="Public id of a key; never the key.")
    user: Name | None = None
    tenant: Name | None = Field(default=None, description="Users have one only, their own.")
    route: Name | None = Field(
        default=None,
        description="Method and template, such as `POST /v1/chat/completions`; all methods without one.",
    )
    task: Name | None = None
    status: Annotated[str, StringConstraints(pattern=r"^([1-5]xx|[1-9][0-9]{2,3})$")] | None = Field(
        default=None, description="`404`, or `4xx` for all from 400 to 499."
    )
    cache: CacheStatus | None = None

    def period(self, now: datetime) -> tuple[datetime, datetime]:
        """Return from when to when is asked, the latter excluded.

        Raises:
            InvalidRequestError: Nothing lies between, or more than `MAX_DAYS`.
        """
        end = self.end or now
        begin = self.begin or end - timedelta(days=DEFAULT_DAYS)
        if begin >= end:
            raise InvalidRequestError("'from' must be before 'to'.", param="from")
        if end - begin > timedelta(days=MAX_DAYS):
            raise InvalidRequestError(f"'from' and 'to' may be at most {MAX_DAYS} days apart.", param="from")
        return begin, end


class UsageQuery(UsageFilters):
    """Also how rows are put together."""

    group_by: Annotated[list[Group], BeforeValidator(_split), AfterValidator(_once), Field(max_length=3)] = Field(
        default_factory=list, description="Up to three, repeated or separated by commas; one total when left out."
    )


class Percentiles(ResponseModel):
    """Null where no request had the time."""

    p50: float | None
    p95: float | None
    p99: float | None


class UsageFigures(ResponseModel):
    """Of some requests together."""

    requests: int
    streamed: int
    failed: int = Field(description="The hub's or a provider's fault: status 5xx, or an error in the middle of a stream.")
    refused: int = Field(description="Status 4xx, those of clients that left excluded.")
    cancelled: int = Field(description="The client left first (status 499).")
    error_rate: float = Field(description="`failed` over `requests`.")
    prompt_tokens: int = Field(description="Of answers that were not taken from the cache, as those after it.")
    completion_tokens: int
    cached_tokens: int = Field(description="Prompt and answer of those that were.")
    cache_hits: int
    cache_hit_rate: float | None = Field(description="Of the requests that looked into the cache; null where none did.")
    total_ms: Percentiles
    first_token_ms: Percentiles
    queued_ms: Percentiles
    queued_s: float = Field(description="Sums of seconds from here on.")
    waited_s: float
    total_s: float
    cpu_s: float | None = Field(description="Null where nothing was measured, as for the two after it.")
    gpu_s: float | None
    joules: float | None


class UsageGroup(UsageFigures):
    """One group."""

    group: dict[Group, str | int | None] = Field(description="A key or user is null where there was none.")


class Analytics(ResponseModel):
    """Groups by day, oldest first, or else the largest first."""

    object: Literal["usage.analytics"] = "usage.analytics"
    begin: datetime = Field(serialization_alias="from")
    end: datetime = Field(serialization_alias="to")
    group_by: list[Group]
    data: list[UsageGroup]
    total: UsageFigures
