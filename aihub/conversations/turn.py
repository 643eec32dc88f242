"""One question and its answer, on its way into a stored conversation."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from aihub.conversations.history import HistoryMessage, StoredHistory
from aihub.conversations.late_turns import LateTurns
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.tables.records import NewMessage, new_message_id
from aihub.conversations.tables.turns import TurnClaim, TurnLostError, TurnTable, Written
from aihub.conversations.turn_line import TurnLine
from aihub.core.errors import HubError, StorageUnavailableError
from aihub.core.logging import request_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What turns are made with."""

    table: TurnTable
    recent: RecentTurns
    line: TurnLine
    late: LateTurns
    lease_s: float
    renewal_s: float


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
        self._request_id = request_id.get()

    async def begin(self, sent: Sequence[dict[str, Any]]) -> None:
        """Store what was asked; it counts as part of the history once it has an answer.

        Raises:
            ConflictError: The conversation is full, or the claim was lost.
            InvalidRequestError: A message is too large to be stored.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        self._asked = asked_messages(sent)
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
        try:
            return await self._save(self._named(answer))
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
            await release_claim(self._parts.table, self._claim)
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
                    written = await table.save_answer(self._claim, asked, self._named(answer), self._parts.lease_s)
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
            await asyncio.wait({self._renewal})
            if not self._renewal.cancelled() and (failure := self._renewal.exception()) is not None:
                logger.error("The claim of conversation %s was not renewed.", self.conversation_id, exc_info=failure)

    def _named(self, answer: NewMessage) -> NewMessage:
        return replace(answer, id=self.answer_id, request_id=self._request_id)

    def _note(self, written: Written) -> None:
        self._is_changed = self._is_changed or written.found_version != self._version
        self._version = written.version


def asked_messages(sent: Sequence[dict[str, Any]]) -> list[NewMessage]:
    """Return what was asked, to be stored while it has no answer."""
    current = request_id.get()
    return [NewMessage(message, "incomplete", request_id=current, id=new_message_id()) for message in sent]


async def release_claim(table: TurnTable, claim: TurnClaim) -> None:
    """End a claim that may have been made; raises nothing."""
    try:
        await table.release(claim)
    except HubError as error:  # it ends by itself
        logger.warning("The claim of conversation %s was not released: %s", claim.conversation_id, error.message)
