"""What is asked of accounts, checked: names, roles, scopes, limits and expiry."""

import re
import unicodedata
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from aihub.core.errors import InvalidRequestError
from aihub.core.principal import DEFAULT_TENANT, Role
from aihub.core.schemas import ClosedModel
from aihub.http.access import ACCESS
from aihub.http.authorization import is_within

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,6})([mhdw])", re.ASCII)
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_LIFE = timedelta(days=3660)
_MOST_IN_A_SCOPE = 100
_LARGEST_LIMIT = 10**15


def _check_tenant(text: str) -> str:
    if _TENANT.fullmatch(text) is None:
        raise ValueError("must be 1 to 64 letters (a-z), digits, - and _, and begin with a letter or digit")
    return text


def _check_name(text: str) -> str:
    """Return the one spelling of a name: composed characters, no space around it."""
    name = unicodedata.normalize("NFC", text).strip()
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ValueError("must be 1 to 64 characters that can be printed")
    return name


def _check_word(text: str) -> str:
    if not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError("must hold no spaces and nothing that cannot be printed")
    return text


def _check_route(text: str) -> str:
    if not any(is_within(route.partition(" ")[2], [text]) for route in ACCESS):
        raise ValueError("must be a route or the beginning of some, by whole parts, such as /v1/chat")
    return text


TenantId = Annotated[str, AfterValidator(_check_tenant)]
Name = Annotated[str, AfterValidator(_check_name)]
_Word = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_check_word)]
Words = Annotated[list[_Word], Field(min_length=1, max_length=_MOST_IN_A_SCOPE)]
Routes = Annotated[list[Annotated[_Word, AfterValidator(_check_route)]], Field(min_length=1, max_length=_MOST_IN_A_SCOPE)]
Limit = Annotated[int, Field(ge=1, le=_LARGEST_LIMIT)]


class TenantRequest(ClosedModel):
    """A tenant to make."""

    id: TenantId
    name: Name


class UserRequest(ClosedModel):
    """A person, or a program that has an account of its own, to make."""

    tenant: TenantId = DEFAULT_TENANT
    name: Name
    role: Role = "user"
    is_service: bool = False


class KeyRequest(ClosedModel):
    """A key to make.

    Attributes:
        user: Name of its user. Left out in the default tenant it is `admin`, who is made where needed.
        role: Not above the user's; the user's when left out.
        routes, models, vector_stores: What the key is for; all that its role may use when left out.
        requests_per_minute, tokens_per_minute, streams, tokens_per_day: As in `aihub.core.principal.KeyLimits`.
        expires_at: Never when left out.
    """

    name: Name
    tenant: TenantId = DEFAULT_TENANT
    user: Name | None = None
    role: Role | None = None
    routes: Routes | None = None
    models: Words | None = None
    vector_stores: Words | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    streams: Limit | None = None
    tokens_per_day: Limit | None = None
    expires_at: datetime | None = None


def parse_expiry(text: str, now: datetime) -> datetime:
    """Return when a key expires.

    Args:
        text: How long it lives (`90d`, `12h`, `2w`, `30m`), the last day of its life in UTC (`2027-01-31`), or a time with its
            offset (`2027-01-31T18:00+07:00`; UTC without one).
        now: With its offset.

    Raises:
        InvalidRequestError: It is none of these, lies in the past or more than ten years ahead.
    """
    moment = _read_moment(text.strip(), now)
    if moment <= now:
        raise InvalidRequestError(f"'expires' lies in the past ({moment:%Y-%m-%d %H:%M} UTC).", param="expires")
    if moment - now > LONGEST_LIFE:
        raise InvalidRequestError(
            "'expires' may be ten years ahead at most. Leave it out for a key that never expires.", param="expires"
        )
    return moment


def _read_moment(text: str, now: datetime) -> datetime:
    if found := _DURATION.fullmatch(text):
        # 999999 weeks lie after the last year that a datetime knows.
        return now + min(timedelta(seconds=int(found[1]) * _SECONDS[found[2]]), 2 * LONGEST_LIFE)
    try:
        if len(text) == len("2027-01-31"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(
            "'expires' must be a time from now such as 90d, 12h, 2w or 30m, or a date such as 2027-01-31.", param="expires"
        ) from error
