"""`/api/v1/chat/conversations` and `/api/v1/chat/preferences`, and OpenAI's `/v1/conversations`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from aihub.conversations.schemas import (
    MAX_QUERY_CHARACTERS,
    ConversationCreate,
    ConversationDetails,
    ConversationMetadata,
    ConversationObject,
    ConversationPage,
    ConversationUpdate,
    ItemsCreate,
    OpenAIConversation,
    PreferencesObject,
    PreferencesUpdate,
)
from aihub.core.schemas import DeletedObject, ObjectId, Page
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]
Item = dict[str, Any]

router = APIRouter(route_class=StrictRoute, prefix="/api/v1/chat", tags=["conversations"])


@router.get("/conversations")
async def search_conversations(
    services: ServicesDep,
    principal: PrincipalDep,
    q: Annotated[str | None, Query(max_length=MAX_QUERY_CHARACTERS, description="Words to look for.")] = None,
    limit: Limit = 20,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> ConversationPage:
    """The caller's conversations, the last changed first; with `q` those that have all its words in one message or in the title.

    Words match with and without diacritics; what was written as it is asked for comes first.
    """
    return await services.conversations.search(principal, limit=limit, cursor=cursor, query=q)


@router.get("/conversations/{conversation_id}")
async def read_conversation(
    conversation_id: str,
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 100,
    after: ObjectId | None = None,
    order: Order = "asc",
) -> ConversationDetails:
    """One conversation with its messages; those behind the message `after` where there are more than fit one page."""
    return await services.conversations.read(principal, conversation_id, limit=limit, after=after, order=order)


@router.patch("/conversations/{conversation_id}")
async def update_conversation(
    conversation_id: str, body: ConversationUpdate, services: ServicesDep, principal: PrincipalDep
) -> ConversationObject:
    """Rename a conversation, or replace its metadata."""
    return await services.conversations.update(principal, conversation_id, body)


@router.delete("/conversations/{conversation_id}")
async def delete_conversation(conversation_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Delete a conversation with its messages. An answer that is on its way is still given and not stored."""
    return await services.conversations.delete(principal, conversation_id)


@router.get("/conversations/{conversation_id}/export", response_class=StreamingResponse)
async def export_conversation(conversation_id: str, services: ServicesDep, principal: PrincipalDep) -> StreamingResponse:
    """Everything of a conversation as a JSON file."""
    content = await services.conversations.export(principal, conversation_id)
    headers = {"content-disposition": f'attachment; filename="{conversation_id}.json"', "x-content-type-options": "nosniff"}
    return StreamingResponse(content, media_type="application/json", headers=headers)


@router.get("/preferences")
async def get_preferences(services: ServicesDep, principal: PrincipalDep) -> PreferencesObject:
    """What the caller prefers."""
    return await services.conversations.preferences(principal)


@router.put("/preferences")
async def set_preferences(body: PreferencesUpdate, services: ServicesDep, principal: PrincipalDep) -> PreferencesObject:
    """Change what the caller prefers; fields that are absent stay, null clears."""
    return await services.conversations.set_preferences(principal, body)


openai_router = APIRouter(route_class=StrictRoute, prefix="/v1/conversations", tags=["conversations"])


@openai_router.post("", operation_id="create_openai_conversation")
async def create(body: ConversationCreate, services: ServicesDep, principal: PrincipalDep) -> OpenAIConversation:
    """Begin a conversation, with items where it has some already."""
    return _openai(await services.conversations.create(principal, body))


@openai_router.get("/{conversation_id}", operation_id="get_openai_conversation")
async def get(conversation_id: str, services: ServicesDep, principal: PrincipalDep) -> OpenAIConversation:
    return _openai(await services.conversations.get(principal, conversation_id))


@openai_router.post("/{conversation_id}", operation_id="update_openai_conversation")
async def update(
    conversation_id: str, body: ConversationMetadata, services: ServicesDep, principal: PrincipalDep
) -> OpenAIConversation:
    """Replace the metadata."""
    changes = ConversationUpdate(metadata=body.metadata)
    return _openai(await services.conversations.update(principal, conversation_id, changes))


@openai_router.delete("/{conversation_id}", operation_id="delete_openai_conversation")
async def delete(conversation_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    return await services.conversations.delete(principal, conversation_id)


@openai_router.get("/{conversation_id}/items")
async def list_items(
    conversation_id: str,
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 20,
    after: ObjectId | None = None,
    order: Order = "desc",
) -> Page[Item]:
    """Messages, tool calls and their results."""
    return await services.conversations.items(principal, conversation_id, limit=limit, after=after, order=order)


@openai_router.post("/{conversation_id}/items")
async def add_items(conversation_id: str, body: ItemsCreate, services: ServicesDep, principal: PrincipalDep) -> Page[Item]:
    """Add items at the end, all or none: messages, function calls and their outputs, or chat messages without `type`."""
    return await services.conversations.add_items(principal, conversation_id, body)


@openai_router.get("/{conversation_id}/items/{item_id}")
async def get_item(conversation_id: str, item_id: str, services: ServicesDep, principal: PrincipalDep) -> Item:
    return await services.conversations.get_item(principal, conversation_id, item_id)


@openai_router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(conversation_id: str, item_id: str, services: ServicesDep, principal: PrincipalDep) -> OpenAIConversation:
    """Delete one item; the summary of what it was part of is forgotten."""
    return _openai(await services.conversations.delete_item(principal, conversation_id, item_id))


def _openai(conversation: ConversationObject) -> OpenAIConversation:
    return OpenAIConversation(id=conversation.id, created_at=conversation.created_at, metadata=conversation.metadata)
