"""Keys in the tables, a database that counts and fails, and a clock that is set by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.requests import KeyRequest, UserRequest
from aihub.accounts.tables.api_keys import ApiKeyTable
from aihub.accounts.tables.users import UserTable
from aihub.core.errors import StorageUnavailableError
from aihub.core.postgres import Connection, Database


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class CountedDatabase(Database):
    """Counts what asks for a connection outside a transaction, as recognition does; may be away, or slow."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, pool_size=4, timeout_s=2.0)
        self.questions = 0
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.questions += 1
        await self.gate.wait()
        if self.is_away:
            raise StorageUnavailableError("The database does not answer. Try again in a few seconds.")
        async with super().connection() as connection:
            yield connection


async def make_key(database: Database, **wanted: Any) -> ApiKey:
    """A key of the first administrator, or of the user that is named and added."""
    request = KeyRequest(**{"name": "test"} | wanted)
    if request.user is not None:
        user = UserRequest(name=request.user, role=wanted.get("role", "user"))
        await UserTable(database).create(request.tenant, user.name, user.role, is_service=False)
    return (await ApiKeyTable(database).create(request)).key


def bearer(key: ApiKey) -> list[str]:
    return [f"Bearer {key.text}"]
