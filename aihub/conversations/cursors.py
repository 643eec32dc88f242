"""Where a listing goes on, as text that clients hand back: it survives changes and deletions in the meantime."""

import base64
import binascii
import json
import re
from typing import Any

from aihub.conversations.tables.records import ConversationRecord
from aihub.conversations.tables.search import SearchHit, SearchPlace
from aihub.core.errors import InvalidRequestError

_ID = re.compile(r"conv_[0-9a-f]{24}")
_INT64 = range(2**62)


def list_cursor(last: ConversationRecord) -> str:
    """Return the cursor behind this row of a listing."""
    return _encode([last.updated_at_us, last.id])


def search_cursor(last: SearchHit) -> str:
    """Return the cursor behind this hit of a search."""
    return _encode([last.is_exact, last.score, last.conversation.updated_at_us, last.conversation.id])


def read_list_cursor(cursor: str | None) -> tuple[int, str] | None:
    """Return what `list_cursor` put in.

    Raises:
        InvalidRequestError: It comes from elsewhere.
    """
    if cursor is None:
        return None
    match _decode(cursor):
        case [int(updated_at_us), str(conversation_id)] if updated_at_us in _INT64 and _ID.fullmatch(conversation_id):
            return updated_at_us, conversation_id
        case _:
            raise _foreign()


def read_search_cursor(cursor: str | None) -> SearchPlace | None:
    """Return what `search_cursor` put in.

    Raises:
        InvalidRequestError: It comes from elsewhere.
    """
    if cursor is None:
        return None
    match _decode(cursor):
        case [bool(is_exact), float(score), int(updated_at_us), str(conversation_id)] if (
            updated_at_us in _INT64 and _ID.fullmatch(conversation_id)
        ):
            return SearchPlace(is_exact, score, updated_at_us, conversation_id)
        case _:
            raise _foreign()


def _encode(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(cursor: str) -> Any:
    try:
        return json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _foreign() from error


def _foreign() -> InvalidRequestError:
    return InvalidRequestError(
        "'cursor' is not one of this listing. Send the 'next_cursor' of its last page, or none for the first.", param="cursor"
    )
