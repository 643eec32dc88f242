"""The answer of `GET /api/v1/account`."""

from typing import Literal

from pydantic import Field

from aihub.core.principal import Role
from aihub.core.schemas import ResponseModel


class AccountUser(ResponseModel):
    id: str
    name: str
    is_service: bool = Field(description="A program rather than a person.")


class AccountKey(ResponseModel):
    id: str = Field(description="Names the key, and is no secret.")
    name: str
    created_at: int
    expires_at: int | None = Field(description="Seconds since 1970; null when it never does.")


class AccountLimits(ResponseModel):
    """Null is without limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    streams: int | None
    tokens_per_day: int | None


class AccountAnswer(ResponseModel):
    """Who the caller is, and what the key is for. Null scopes are everything that the role may use."""

    object: Literal["account"] = "account"
    tenant_id: str
    role: Role
    user: AccountUser | None = Field(description="Null on a hub without keys.")
    key: AccountKey | None = Field(description="Null on a hub without keys.")
    routes: list[str] | None
    models: list[str] | None
    vector_stores: list[str] | None
    limits: AccountLimits
