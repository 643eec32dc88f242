"""Turns of conversations: requests to one come one after the other, and what was asked and said is stored.

A turn is claimed in PostgreSQL (`tables/turns.py`), so that replicas keep the order, too. While a model answers, the claim is
renewed, and with it what was said so far is stored; the claim of a process that was killed ends by itself.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aihub.conversations.history import HistoryMessage, StoredHistory
from aihub.conversations.late_turns import LateTurns
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.tables.turns import ClaimedState, TurnClaim, TurnTable
from aihub.conversations.turn import Turn, TurnParts, asked_messages, release_claim
from aihub.conversations.turn_line import TurnLine, conversation_busy
from aihub.core.errors import NotFoundError
from aihub.core.principal import Principal

LEASE_S = 30.0
RENEWAL_S = 5.0
"""Between two renewals of a claim; what a stream said since the last one is lost when the hub is killed."""
WAIT_S = 50.0
"""Longest wait for earlier requests to the same conversation; most proxies cut silence at 60 s."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


class Turns:
    """Opens the turns of one process.

    Args:
        lease_s: After which somebody else may go on where the claim is not renewed.
        note_request: Called at each turn.
    """

    def __init__(
        self,
        table: TurnTable,
        recent: RecentTurns,
        *,
        lease_s: float = LEASE_S,
        renewal_s: float = RENEWAL_S,
        wait_s: float = WAIT_S,
        note_request: Callable[[], None] = lambda: None,
    ) -> None:
        late = LateTurns(table, lease_s=lease_s)
        self._parts = TurnParts(table, recent, TurnLine(), late, lease_s, renewal_s)
        self._wait_s = wait_s
        self._note_request = note_request
        self._releasing: set[asyncio.Task[None]] = set()

    async def open(self, principal: Principal, conversation_id: str) -> Turn:
        """Wait for earlier requests to the conversation, claim it and read its history.

        Raises:
            NotFoundError: There is none, or it is somebody else's (`conversation_not_found`).
            RateLimitError: Too many requests wait for it, or it took too long (`conversation_busy`).
            StorageUnavailableError: PostgreSQL does not answer.
        """
        self._note_request()
        parts, deadline_s = self._parts, asyncio.get_running_loop().time() + self._wait_s
        try:
            async with asyncio.timeout_at(deadline_s):
                await parts.line.enter(principal, conversation_id)
        except TimeoutError as error:
            raise conversation_busy(f"Earlier requests took longer than {self._wait_s:g} s.") from error
        claim = TurnClaim(principal, conversation_id, secrets.token_hex(16))
        try:
            await parts.late.store_of(principal, conversation_id)
            state = await self._claim(claim, deadline_s)
            history = await self._history(claim, state)
        except BaseException as error:
            if not isinstance(error, NotFoundError):  # a write that was cancelled may be done
                self._in_background(release_claim(parts.table, claim))
            parts.line.leave(principal, conversation_id)
            raise
        return Turn(parts, claim, history, state.version)

    async def create(self, principal: Principal, metadata: dict[str, str] | None, sent: Sequence[dict[str, Any]]) -> Turn:
        """Begin a new conversation with its first messages; raises as `TurnTable.create`."""
        self._note_request()
        parts, messages = self._parts, asked_messages(sent)
        claim, written = await parts.table.create(
            principal, secrets.token_hex(16), parts.lease_s, metadata=metadata or {}, messages=messages
        )
        await parts.line.enter(principal, claim.conversation_id)  # nobody else knows it
        return Turn(parts, claim, StoredHistory(), written.version, asked=messages, written=written)

    async def save_summary(
        self,
        principal: Principal,
        conversation_id: str,
        summary: str,
        position: int,
        *,
        basis: Sequence[HistoryMessage],
        replaces: int | None,
    ) -> bool:
        """Keep a summary; see `TurnTable.save_summary`."""
        return await self._parts.table.save_summary(principal, conversation_id, summary, position, basis=basis, replaces=replaces)

    async def close(self) -> None:
        """Store what is late, and stop."""
        await asyncio.gather(*self._releasing)
        await self._parts.late.close()

    async def _claim(self, claim: TurnClaim, deadline_s: float) -> ClaimedState:
        loop, pause_s = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while (state := await self._parts.table.claim(claim, self._parts.lease_s)) is None:
            if loop.time() + pause_s > deadline_s:
                raise conversation_busy(f"Another request to this conversation took longer than {self._wait_s:g} s.")
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        return state

    async def _history(self, claim: TurnClaim, state: ClaimedState) -> StoredHistory:
        copy = await self._parts.recent.get(claim.principal, claim.conversation_id, state.found_version)
        if copy is not None:
            return copy
        return StoredHistory(await self._parts.table.history(claim), state.summary, state.summary_position)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
