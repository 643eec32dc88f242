"""Turns of conversations: requests to one come one after the other, and what was asked and said is stored.

A turn is claimed in PostgreSQL (`tables/turns.py`), so that replicas keep the order, too. While a model answers, the claim is
renewed, and with it what was said so far is stored; the claim of a process that was killed ends by itself.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from aihub.conversations.history import HistoryMessage, StoredHistory
from aihub.conversations.late_turns import LateTurns
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.tables.records import NewMessage, new_message_id
from aihub.conversations.tables.turns import ClaimedState, TurnClaim, TurnLostError, TurnTable, Written
from aihub.conversations.turn_line import TurnLine, conversation_busy
from aihub.core.errors import HubError, NotFoundError, StorageUnavailableError
from aihub.core.logging import request_id
from aihub.core.principal import Principal

logger = logging.getLogger(__name__)

LEASE_S = 30.0
RENEWAL_S = 5.0
"""Between two renewals of a claim; what a stream said since the last one is lost when the hub is killed."""
WAIT_S = 50.0
"""Longest wait for earlier requests to the same conversation; most proxies cut silence at 60 s."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What turns are made with."""

    table: TurnTable
    recent: RecentTurns
    line: TurnLine
    late: LateTurns
    lease_s: float
    renewal_s: float


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

    async def open(self, principal: Principal, conversation_id: str) -> "Turn":
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
                self._in_background(_release(parts.table, claim))
            parts.line.leave(principal, conversation_id)
            raise
        return Turn(parts, claim, history, state.version)

    async def create(self, principal: Principal, metadata: dict[str, str] | None, sent: Sequence[dict[str, Any]]) -> "Turn":
        """Begin a new conversation with its first messages; raises `StorageUnavailableError`."""
        self._note_request()
        parts, messages = self._parts, _asked(sent)
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


class Turn:
    """One question and its answer, made by `Turns`. Ends with `finish` or `take_back`, which raise nothing.

    Attributes:
        conversation_id: Where it is stored.
        history: What was stored before it.
        answer_id: Id of the message that the answer becomes.
    """

    def __init__(
        self,
        parts: TurnParts,
        claim: TurnClaim,
        history: StoredHistory,
        version: str,
        *,
        asked: Sequence[NewMessage] = (),
        written: Written | None = None,
    ) -> None:
        self._parts = parts
        self._claim = claim
        self._version = version
        self._is_new = written is not None
        self._asked = list(asked)
        self._asked_records = () if written is None else written.records
        self._is_changed = False
        self._is_over = False
        self._ending = asyncio.Event()
        self._renewal: asyncio.Task[None] | None = None
        self.conversation_id = claim.conversation_id
        self.history = history
        self.answer_id = new_message_id()

    async def begin(self, sent: Sequence[dict[str, Any]]) -> None:
        """Store what was asked; it counts as part of the history once it has an answer.

        Raises:
            ConflictError: The conversation is full, or the claim was lost.
            InvalidRequestError: A message is too large to be stored.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        self._asked = _asked(sent)
        written = await self._parts.table.append(self._claim, self._asked, self._parts.lease_s)
        self._asked_records = written.records
        self._note(written)

    def keep_claimed(self, said: Callable[[], NewMessage | None]) -> None:
        """Renew the claim from now on, and store each time what `said` returns, the answer so far."""
        self._renewal = asyncio.create_task(self._renew(said))

    async def finish(self, answer: NewMessage) -> bool:
        """Store the answer and let the next request in; False when it is stored later, or never, which the log says."""
        if self._is_over:
            return False
        self._is_over = True
        await self._end_renewal()
        answer = replace(answer, id=self.answer_id)
        try:
            return await self._save(answer)
        finally:
            self._parts.line.leave(self._claim.principal, self.conversation_id)

    async def take_back(self, *, is_told: bool = False) -> None:
        """Forget what was asked, as there is no answer, and let the next request in.

        Args:
            is_told: The client has heard of the conversation, so that a new one stays, without messages.
        """
        if self._is_over:
            return
        self._is_over = True
        await self._end_renewal()
        try:
            asked = [message.id or "" for message in self._asked]
            await self._parts.table.take_back(self._claim, asked, is_new=self._is_new and not is_told)
        except HubError as error:  # without an answer it is in no history
            logger.warning("A question of conversation %s was not taken back: %s", self.conversation_id, error.message)
        finally:
            self._parts.line.leave(self._claim.principal, self.conversation_id)

    async def _save(self, answer: NewMessage) -> bool:
        asked = [message.id or "" for message in self._asked]
        try:
            self._note(written := await self._parts.table.save_answer(self._claim, asked, answer, None))
        except (StorageUnavailableError, TurnLostError):
            completed = [replace(message, status="completed") for message in self._asked]
            self._parts.late.add(self._claim, [*completed, answer])
            return False
        except HubError as error:
            logger.warning("An answer of conversation %s was not stored: %s", self.conversation_id, error.message)
            await _release(self._parts.table, self._claim)
            return False
        if not self._is_changed:
            await self._copy(written, answer)
        return True

    async def _copy(self, written: Written, answer: NewMessage) -> None:
        """Put the history with this turn into Redis, for the next one."""
        messages = [
            *self.history.messages,
            *(HistoryMessage(record.position, record.message) for record in self._asked_records),
            *(
                HistoryMessage(record.position, record.message, is_answer=True, is_complete=answer.status == "completed")
                for record in written.records
            ),
        ]
        history = replace(self.history, messages=messages)
        await self._parts.recent.put(self._claim.principal, self.conversation_id, written.version, history)

    async def _renew(self, said: Callable[[], NewMessage | None]) -> None:
        table, asked = self._parts.table, [message.id or "" for message in self._asked]
        saved: NewMessage | None = None
        while not await self._ends_within(self._parts.renewal_s):
            answer = said()
            try:
                if answer is None or answer == saved:
                    self._note(await table.renew(self._claim, self._parts.lease_s))
                else:
                    written = await table.save_answer(self._claim, asked, replace(answer, id=self.answer_id), self._parts.lease_s)
                    self._note(written)
                    saved = answer
            except TurnLostError:
                logger.warning("The claim of conversation %s was lost while it was answered.", self.conversation_id)
                return
            except HubError as error:
                logger.warning("The claim of conversation %s was not renewed: %s", self.conversation_id, error.message)

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()

    async def _end_renewal(self) -> None:
        """A write that is under way is waited for: cancelled, it might be done or not."""
        self._ending.set()
        if self._renewal is not None:
            await self._renewal

    def _note(self, written: Written) -> None:
        self._is_changed = self._is_changed or written.found_version != self._version
        self._version = written.version


def _asked(sent: Sequence[dict[str, Any]]) -> list[NewMessage]:
    current = request_id.get()
    return [NewMessage(message, "incomplete", request_id=current, id=new_message_id()) for message in sent]


async def _release(table: TurnTable, claim: TurnClaim) -> None:
    try:
        await table.release(claim)
    except HubError as error:  # it ends by itself
        logger.warning("The claim of conversation %s was not released: %s", claim.conversation_id, error.message)
