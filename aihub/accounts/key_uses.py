"""When keys were last used, written in the background: at most once a minute for each key."""

import asyncio
import logging
import time
from collections.abc import Callable

from aihub.accounts.tables.recognition import RecognitionTable
from aihub.core.errors import HubError

logger = logging.getLogger(__name__)

WRITE_PAUSE_S = 60.0
_GATHER_S = 0.5
"""How long uses are gathered for one statement."""
_MOST_KEYS = 10_000


class KeyUses:
    """Notes uses without waiting; runs nothing while no key is used."""

    def __init__(self, table: RecognitionTable, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._clock = clock
        self._noted_at_s: dict[str, float] = {}
        self._unwritten: set[str] = set()
        self._work: asyncio.Task[None] | None = None

    def note(self, key_id: str) -> None:
        """Remember that a key was used just now."""
        now_s = self._clock()
        noted_at_s = self._noted_at_s.get(key_id)
        if noted_at_s is not None and now_s - noted_at_s < WRITE_PAUSE_S:
            return
        if len(self._noted_at_s) >= _MOST_KEYS:
            self._noted_at_s.clear()
        self._noted_at_s[key_id] = now_s
        self._unwritten.add(key_id)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_soon())

    async def close(self) -> None:
        """Write what is left."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self._write()

    async def _write_soon(self) -> None:
        while self._unwritten:
            await asyncio.sleep(_GATHER_S)
            await self._write()

    async def _write(self) -> None:
        key_ids, self._unwritten = self._unwritten, set()
        if not key_ids:
            return
        try:
            await self._table.note_uses(key_ids, pause_s=WRITE_PAUSE_S)
        except HubError as error:
            # Only `aihub keys list` shows it; the next use a minute later is written again.
            logger.warning("The last use of %d keys was not written: %s", len(key_ids), error.message)
