"""Rows as wire types."""

from typing import Any

from aihub.conversations.items import make_items
from aihub.conversations.schemas import (
    ConversationDetails,
    ConversationObject,
    FoundConversation,
    PreferencesObject,
    SearchMatch,
    StoredMessage,
)
from aihub.conversations.search import TextQuery, make_snippet
from aihub.conversations.storage import MessagePage
from aihub.conversations.tables.records import ConversationRecord, MessageRecord, PreferencesRecord
from aihub.conversations.tables.search import SearchHit
from aihub.core.schemas import Page


def conversation_object(record: ConversationRecord) -> ConversationObject:
    return ConversationObject(**_fields(record))


def listed_conversation(record: ConversationRecord) -> FoundConversation:
    return FoundConversation(**_fields(record))


def found_conversations(hits: list[SearchHit], query: TextQuery) -> list[FoundConversation]:
    """Show hits with a piece of the text; takes some milliseconds where texts are long."""
    return [
        FoundConversation(
            **_fields(hit.conversation), match=SearchMatch(message_id=hit.message_id, snippet=make_snippet(hit.text, query))
        )
        for hit in hits
    ]


def conversation_details(page: MessagePage) -> ConversationDetails:
    messages = [stored_message(message) for message in page.messages]
    return ConversationDetails(
        **_fields(page.conversation),
        summary=page.conversation.summary,
        messages=Page(
            data=messages,
            first_id=messages[0].id if messages else None,
            last_id=messages[-1].id if messages else None,
            has_more=page.has_more,
        ),
    )


def stored_message(record: MessageRecord) -> StoredMessage:
    return StoredMessage(
        id=record.id,
        message=record.message,
        status=record.status,
        model=record.model,
        usage=record.usage,
        request_id=record.request_id,
        created_at=record.created_at,
    )


def item_page(items: list[dict[str, Any]], *, has_more: bool) -> Page[dict[str, Any]]:
    return Page(
        data=items,
        first_id=items[0]["id"] if items else None,
        last_id=items[-1]["id"] if items else None,
        has_more=has_more,
    )


def items_in_order(messages: list[MessageRecord], order: str) -> list[dict[str, Any]]:
    """Return the items of messages; those of one message run the way the messages do."""
    return [item for message in messages for item in make_items(message)[:: 1 if order == "asc" else -1]]


def preferences_object(record: PreferencesRecord) -> PreferencesObject:
    return PreferencesObject(favourite_model=record.favourite_model, language=record.language, style=record.style)


def _fields(record: ConversationRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "title": record.title,
        "model": record.model,
        "metadata": record.metadata,
        "message_count": record.message_count,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
