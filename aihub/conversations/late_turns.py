"""Turns that were answered while PostgreSQL was away: kept in memory, and stored as soon as it is back."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from aihub.conversations.messages import message_json
from aihub.conversations.tables.records import NewMessage
from aihub.conversations.tables.turns import TurnClaim, TurnLostError, TurnTable
from aihub.core.concurrency import cancel
from aihub.core.errors import HubError, UnavailableError
from aihub.core.principal import Principal

logger = logging.getLogger(__name__)

MAX_LATE_TURNS = 256
MAX_LATE_BYTES = 64 * 2**20
"""All that waits together, as JSON."""

KEPT_S = 900.0
MAX_PAUSE_S = 15.0


@dataclass(frozen=True, slots=True)
class LateTurn:
    """One whole turn, and when it is given up (the loop's clock)."""

    claim: TurnClaim
    messages: Sequence[NewMessage]
    size_bytes: int
    until_s: float


class LateTurns:
    """Stores turns late. What is not stored after a quarter of an hour, or when the process ends, is lost, which the log says.

    Args:
        lease_s: How long a conversation is claimed for a turn to be stored.
        first_pause_s: Before the first try; the pauses double up to `MAX_PAUSE_S`.
    """

    def __init__(self, table: TurnTable, *, lease_s: float, first_pause_s: float = 1.0) -> None:
        self._table = table
        self._lease_s = lease_s
        self._first_pause_s = first_pause_s
        self._turns: list[LateTurn] = []
        self._storing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def add(self, claim: TurnClaim, messages: Sequence[NewMessage]) -> None:
        """Take a turn to be stored at the end of its conversation."""
        size_bytes = sum(len(message_json(message.message).encode()) for message in messages)
        waiting_bytes = sum(turn.size_bytes for turn in self._turns)
        if len(self._turns) >= MAX_LATE_TURNS or waiting_bytes + size_bytes > MAX_LATE_BYTES:
            logger.error("An answer of conversation %s was not stored: too many wait for PostgreSQL.", claim.conversation_id)
            return
        logger.warning("An answer of conversation %s is stored later.", claim.conversation_id)
        self._turns.append(LateTurn(claim, messages, size_bytes, asyncio.get_running_loop().time() + KEPT_S))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def store_of(self, principal: Principal, conversation_id: str) -> None:
        """Store what waits for one conversation, before it goes on.

        Raises:
            StorageUnavailableError: PostgreSQL is still away.
        """
        for turn in list(self._turns):
            if turn.claim.conversation_id == conversation_id and turn.claim.principal.tenant_id == principal.tenant_id:
                await self._store(turn)

    async def close(self) -> None:
        """Try once more, and stop."""
        if self._task is not None:
            await cancel(self._task)
        await self._store_all()
        for turn in self._turns:
            logger.error("An answer of conversation %s is lost: it could not be stored.", turn.claim.conversation_id)

    async def _run(self) -> None:
        pause_s = self._first_pause_s
        while self._turns:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            await self._store_all()

    async def _store_all(self) -> None:
        for turn in list(self._turns):
            with suppress(UnavailableError):  # the next round tries again
                await self._store(turn)
            if turn in self._turns and asyncio.get_running_loop().time() > turn.until_s:
                self._turns.remove(turn)
                logger.error("An answer of conversation %s is lost: it could not be stored.", turn.claim.conversation_id)

    async def _store(self, turn: LateTurn) -> None:
        async with self._storing:
            if turn not in self._turns:
                return
            try:
                if await self._table.claim(turn.claim, self._lease_s) is None:
                    return
                await self._table.store_anew(turn.claim, turn.messages)
            except TurnLostError:
                return  # the next round claims it anew
            except UnavailableError:
                raise
            except HubError as error:
                logger.warning("An answer of conversation %s was not stored: %s", turn.claim.conversation_id, error.message)
            self._turns.remove(turn)
