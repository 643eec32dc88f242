"""Rows of tenants, users and keys as they are shown; no secrets. Times are seconds since 1970."""

from dataclasses import dataclass
from typing import Literal

from aihub.core.principal import Role

KeyState = Literal["active", "expired", "revoked", "disabled"]


@dataclass(frozen=True, slots=True)
class TenantRecord:
    id: str
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A person or a service account.

    Attributes:
        keys: How many keys count now.
    """

    tenant_id: str
    id: str
    name: str
    role: Role
    is_service: bool
    created_at: int
    disabled_at: int | None
    keys: int


@dataclass(frozen=True, slots=True)
class DeletedUser:
    """Who was deleted, and how many keys and conversations went along."""

    tenant_id: str
    id: str
    keys: int
    conversations: int


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A key, without anything by which it could be used.

    Attributes:
        state: Whether it counts now, and if not, why.
    """

    tenant_id: str
    id: str
    name: str
    user_id: str
    user: str
    is_service: bool
    role: Role
    state: KeyState
    routes: list[str] | None
    models: list[str] | None
    vector_stores: list[str] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    streams: int | None
    tokens_per_day: int | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
