"""Short ways to write what conversations are made of."""

from typing import Any

from aihub.conversations.storage import Storage
from aihub.conversations.tables.records import ConversationRecord, NewMessage
from aihub.core.principal import Principal


def question(text: str) -> NewMessage:
    return NewMessage({"role": "user", "content": text})


def answer(text: str, model: str = "qwen") -> NewMessage:
    return NewMessage({"role": "assistant", "content": text}, model=model, usage={"total_tokens": 7}, request_id="req_1")


async def begin(storage: Storage, principal: Principal, *texts: str) -> ConversationRecord:
    """A conversation of questions."""
    return await storage.create(principal, metadata={}, title=None, new=[question(text) for text in texts])


async def texts_of(storage: Storage, principal: Principal, conversation_id: str, **page: Any) -> list[Any]:
    found = await storage.page(principal, conversation_id, **({"limit": 100} | page))
    return [message.message["content"] for message in found.messages]
