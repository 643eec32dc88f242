"""What accounts prefer, remembered for seconds, so that it costs a chat nothing."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from aihub.conversations.tables.records import PreferencesRecord
from aihub.core.errors import UnavailableError
from aihub.core.principal import Principal

MEMORY_S = 5.0
"""A change counts in every replica after so long."""
MAX_REMEMBERED = 10_000


class RememberedPreferences:
    """Preferences by account. Without PostgreSQL nobody prefers anything.

    Args:
        read: Reads them from PostgreSQL.
    """

    def __init__(self, read: Callable[[Principal], Awaitable[PreferencesRecord]], *, memory_s: float = MEMORY_S) -> None:
        self._read = read
        self._memory_s = memory_s
        self._known: OrderedDict[tuple[str, str], tuple[float, PreferencesRecord]] = OrderedDict()

    async def get(self, principal: Principal) -> PreferencesRecord:
        """Return what the caller prefers."""
        key = (principal.tenant_id, principal.owner_id)
        known = self._known.get(key)
        now_s = time.monotonic()
        if known is not None and now_s - known[0] < self._memory_s:
            return known[1]
        try:
            record = await self._read(principal)
        except UnavailableError:
            record = PreferencesRecord() if known is None else known[1]
        self._known[key] = (now_s, record)
        self._known.move_to_end(key)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return record

    async def favourite_model(self, principal: Principal) -> str | None:
        """Return the model that the caller wants `auto` to choose where it can."""
        return (await self.get(principal)).favourite_model
