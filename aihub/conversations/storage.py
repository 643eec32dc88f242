"""What keeps conversations, as the service sees it.

Every call is scoped by tenant and owner, `delete_unused` alone is not. All raise `StorageUnavailableError` when PostgreSQL does
not answer, and `NotFoundError` for a conversation that is not there or is somebody else's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aihub.conversations.search import TextQuery
from aihub.conversations.tables.records import (
    ConversationChanges,
    ConversationRecord,
    MessageRecord,
    NewMessage,
    Order,
    PreferencesRecord,
)
from aihub.conversations.tables.search import SearchHit, SearchPlace
from aihub.core.principal import Principal


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A conversation and some of its messages, both from the same moment."""

    conversation: ConversationRecord
    messages: list[MessageRecord]
    has_more: bool


class Storage(Protocol):
    """`aihub.conversations.tables.store.ConversationStore`, or the memory of a test."""

    async def create(
        self, principal: Principal, *, metadata: dict[str, str], title: str | None, new: Sequence[NewMessage]
    ) -> ConversationRecord: ...

    async def get(self, principal: Principal, conversation_id: str) -> ConversationRecord: ...

    async def recent(
        self, principal: Principal, *, limit: int, behind: tuple[int, str] | None
    ) -> tuple[list[ConversationRecord], bool]:
        """Return one page, the last changed first, behind this `updated_at_us` and id."""
        ...

    async def search(
        self, principal: Principal, query: TextQuery, *, limit: int, behind: SearchPlace | None
    ) -> tuple[list[SearchHit], bool]:
        """Return one page of those that have all words of the query in one message or in the title, best first."""
        ...

    async def update(self, principal: Principal, conversation_id: str, changes: ConversationChanges) -> ConversationRecord: ...

    async def delete(self, principal: Principal, conversation_id: str) -> None: ...

    async def delete_unused(self, days: int) -> int:
        """Delete some conversations of all tenants in which nothing happened for so many days; 0 when none is left."""
        ...

    async def page(
        self,
        principal: Principal,
        conversation_id: str,
        *,
        limit: int,
        order: Order = "asc",
        after: str | int | None = None,
        is_inclusive: bool = False,
    ) -> MessagePage:
        """Return at most `limit` messages behind the one of this id, or from it on where `is_inclusive`; or behind a position.

        Raises:
            InvalidRequestError: `after` is the id of none.
        """
        ...

    async def find(self, principal: Principal, conversation_id: str, message_id: str) -> MessageRecord | None: ...

    async def append(self, principal: Principal, conversation_id: str, new: Sequence[NewMessage]) -> Sequence[MessageRecord]:
        """Store messages at the end, all or none.

        Raises:
            ConflictError: The conversation is full.
            InvalidRequestError: A message is too large.
        """
        ...

    async def edit(
        self,
        principal: Principal,
        conversation_id: str,
        message_id: str,
        change: Callable[[MessageRecord], dict[str, Any] | None],
    ) -> ConversationRecord | None:
        """Put what `change` returns in the place of a message, and nothing where that is None; None where there is no such."""
        ...

    async def read_preferences(self, principal: Principal) -> PreferencesRecord: ...

    async def write_preferences(self, principal: Principal, changes: dict[str, str | None]) -> PreferencesRecord:
        """Change the given fields; None clears one."""
        ...
