"""Accounts in lines for people."""

import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from aihub.accounts.tables.records import ApiKeyRecord, TenantRecord, UserRecord

PIPE_WIDTH = 200
NEVER = "never"


def show_keys(keys: Iterable[ApiKeyRecord]) -> None:
    """One line per key."""
    table = _table("key", "name", "tenant", "user", "role", "state", "expires", "last used")
    for key in keys:
        table.add_row(
            key.id, key.name, key.tenant_id, key.user, key.role, key.state, _when(key.expires_at), _when(key.last_used_at)
        )
    _print(table if table.row_count else "There is no key yet. The first: aihub keys create --name NAME")


def show_key(key: ApiKeyRecord) -> None:
    """All of one key, a line for each thing."""
    kind = "service account" if key.is_service else "user"
    _print(f"{key.id}  {key.name}: {key.state}")
    _print(f"of the {kind} {key.user} in the tenant {key.tenant_id}, as {key.role}")
    for what, names in (("routes", key.routes), ("models", key.models), ("vector stores", key.vector_stores)):
        _print(f"{what:<22}{'all' if names is None else ', '.join(names)}")
    limits = {
        "requests a minute": key.requests_per_minute,
        "tokens a minute": key.tokens_per_minute,
        "streams at a time": key.streams,
        "tokens a day": key.tokens_per_day,
    }
    for what, limit in limits.items():
        _print(f"{what:<22}{'without limit' if limit is None else f'{limit:,}'}")
    times = (
        ("created", key.created_at),
        ("expires", key.expires_at),
        ("revoked", key.revoked_at),
        ("last used", key.last_used_at),
    )
    for what, moment in times:
        _print(f"{what:<22}{_when(moment)}")


def show_users(users: Iterable[UserRecord]) -> None:
    """One line per user."""
    table = _table("user", "tenant", "role", "kind", "keys", "state")
    for user in users:
        kind, state = "service" if user.is_service else "person", "disabled" if user.disabled_at else "active"
        table.add_row(user.name, user.tenant_id, user.role, kind, str(user.keys), state)
    _print(table if table.row_count else "There is no user yet. One: aihub users create NAME")


def show_tenants(tenants: Iterable[TenantRecord]) -> None:
    """One line per tenant."""
    table = _table("tenant", "name", "created")
    for tenant in tenants:
        table.add_row(tenant.id, tenant.name, _when(tenant.created_at))
    _print(table)


def _when(at: int | None) -> str:
    return NEVER if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Copied into other commands, so never cut.
        table.add_column(column, no_wrap=column in {"key", "tenant"})
    return table


def _print(content: Table | str) -> None:
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(highlight=False, markup=False, width=width).print(content)
