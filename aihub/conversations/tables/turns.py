"""Turns of conversations: who may write to one now, and the rows that one question and its answer become.

A conversation is claimed by a token that ends by itself when it is not renewed. Every write looks at the token in its own
transaction, so that whoever has lost a claim writes nothing. No connection is held between two calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from aihub.conversations.history import HistoryMessage
from aihub.conversations.messages import storable_text
from aihub.conversations.tables.conversations import create_conversation, get_conversation
from aihub.conversations.tables.messages import append_messages, find_message, not_found, read_messages, replace_message
from aihub.conversations.tables.records import MessageRecord, NewMessage
from aihub.core.errors import ConflictError
from aihub.core.postgres import Connection, Database
from aihub.core.principal import Principal

MAX_HISTORY_MESSAGES = 500
MAX_HISTORY_BYTES = 2**20
"""Newest messages that are read for one question; a model's context holds less."""

_MAX_INSTRUCTIONS = 16
_OWN = "tenant_id = %(tenant)s AND owner_id = %(owner)s AND id = %(id)s"


class TurnLostError(ConflictError):
    """The claim has ended, and somebody else may have written meanwhile."""

    code = "turn_lost"


@dataclass(frozen=True, slots=True)
class TurnClaim:
    """The right to write to one conversation."""

    principal: Principal
    conversation_id: str
    token: str

    @property
    def row(self) -> dict[str, str]:
        return {
            "tenant": self.principal.tenant_id,
            "owner": self.principal.owner_id,
            "id": self.conversation_id,
            "token": self.token,
        }


@dataclass(frozen=True, slots=True)
class ClaimedState:
    """A conversation as it was found when it was claimed.

    Attributes:
        found_version: Of the row before the claim: changes with every write, whoever made it.
        version: The same after the claim.
    """

    found_version: str
    version: str
    summary: str | None
    summary_position: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """What a write found and left; versions as in `ClaimedState`."""

    found_version: str
    version: str
    records: Sequence[MessageRecord] = ()


class TurnTable:
    """Without PostgreSQL all methods raise `StorageUnavailableError`; of a conversation that is gone, `NotFoundError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, claim: TurnClaim, lease_s: float) -> ClaimedState | None:
        """Claim a conversation for `lease_s` seconds; None while somebody else has it. The same token may claim again."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "SELECT xmin::text, summary, summary_position, "  # noqa: S608  # constants
                "coalesce(turn_token <> %(token)s AND turn_until > clock_timestamp(), false) "
                f"FROM conversations WHERE {_OWN} FOR NO KEY UPDATE",
                claim.row,
            )
            found = await cursor.fetchone()
            if found is None:
                raise not_found(claim.conversation_id)
            found_version, summary, summary_position, is_busy = found
            if is_busy:
                return None
            return ClaimedState(found_version, await _keep(connection, claim, lease_s), summary, summary_position)

    async def create(
        self, principal: Principal, token: str, lease_s: float, *, metadata: dict[str, str], messages: Sequence[NewMessage]
    ) -> tuple[TurnClaim, Written]:
        """Store a new conversation with its first messages, claimed; raises `AuthenticationError` where the key was deleted."""
        async with self._database.transaction() as connection:
            conversation = await create_conversation(connection, principal, metadata=metadata)
            claim = TurnClaim(principal, conversation.id, token)
            records = await append_messages(connection, principal, conversation.id, messages)
            version = await _keep(connection, claim, lease_s)
        return claim, Written(version, version, records)

    async def history(self, claim: TurnClaim) -> list[HistoryMessage]:
        """Return the newest messages in their order, behind the instructions that the conversation began with."""
        tenant_id, conversation_id = claim.principal.tenant_id, claim.conversation_id
        async with self._database.transaction(snapshot=True) as connection:
            newest, is_cut = await read_messages(
                connection,
                tenant_id,
                conversation_id,
                limit=MAX_HISTORY_MESSAGES,
                order="desc",
                max_bytes=MAX_HISTORY_BYTES,
            )
            instructions = await _instructions(connection, claim, newest[-1].position) if is_cut else []
        return [*instructions, *(_history_message(record) for record in reversed(newest))]

    async def append(self, claim: TurnClaim, messages: Sequence[NewMessage], lease_s: float) -> Written:
        """Store what was asked; raises `TurnLostError` without a claim, `ConflictError` when the conversation is full."""
        async with self._database.transaction() as connection:
            found_version = await _require(connection, claim)
            records = await append_messages(connection, claim.principal, claim.conversation_id, messages)
            return Written(found_version, await _keep(connection, claim, lease_s), records)

    async def save_answer(self, claim: TurnClaim, asked: Sequence[str], answer: NewMessage, lease_s: float | None) -> Written:
        """Store an answer, or put it in the place of what was stored of it before; what was asked counts as complete from now on.

        Args:
            asked: Ids of the messages that it answers.
            answer: With its id.
            lease_s: How long the claim goes on; None ends it.

        Raises:
            TurnLostError: The claim has ended; nothing is written.
        """
        principal, conversation_id = claim.principal, claim.conversation_id
        async with self._database.transaction() as connection:
            found_version = await _require(connection, claim)
            known = await find_message(connection, principal.tenant_id, conversation_id, answer.id or "")
            if known is None:
                await _set_completed(connection, claim, asked)
                await append_messages(connection, principal, conversation_id, [answer])
            else:
                await replace_message(connection, principal, conversation_id, known.position, answer.message)
                await _set_answer(connection, claim, answer)
            stored = await find_message(connection, principal.tenant_id, conversation_id, answer.id or "")
            records = [] if stored is None else [stored]
            return Written(found_version, await _keep(connection, claim, lease_s), records)

    async def store_anew(self, claim: TurnClaim, messages: Sequence[NewMessage]) -> None:
        """Store a whole turn at the end, wherever parts of it were before, and end the claim; raises as `save_answer`."""
        async with self._database.transaction() as connection:
            await _require(connection, claim)
            await _delete(connection, claim, [message.id or "" for message in messages])
            await append_messages(connection, claim.principal, claim.conversation_id, messages)
            await _keep(connection, claim, None)

    async def renew(self, claim: TurnClaim, lease_s: float) -> Written:
        """Keep a claim for `lease_s` seconds more; raises `TurnLostError`."""
        async with self._database.transaction() as connection:
            found_version = await _require(connection, claim)
            return Written(found_version, await _keep(connection, claim, lease_s))

    async def take_back(self, claim: TurnClaim, message_ids: Sequence[str], *, is_new: bool) -> None:
        """Delete the messages of a turn without an answer (with `is_new` its conversation, too) and end the claim."""
        async with self._database.transaction() as connection:
            await _require(connection, claim)
            if is_new:
                await connection.execute(f"DELETE FROM conversations WHERE {_OWN}", claim.row)  # noqa: S608  # constant
                return
            await _delete(connection, claim, message_ids)
            await _keep(connection, claim, None)

    async def release(self, claim: TurnClaim) -> None:
        """End a claim that may have been made."""
        async with self._database.connection() as connection:
            await connection.execute(
                f"UPDATE conversations SET turn_token = NULL, turn_until = NULL WHERE {_OWN} AND turn_token = %(token)s",  # noqa: S608  # constants
                claim.row,
            )

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
        """Keep a summary of the messages up to `position`; False when another one has come, or its basis was changed or deleted.

        Args:
            basis: The messages that were summarised.
            replaces: Position of the summary that this one goes on from.
        """
        row = TurnClaim(principal, conversation_id, "").row
        async with self._database.transaction() as connection:
            found = await get_conversation(connection, principal, conversation_id, lock=True)
            cursor = await connection.execute(
                "SELECT position, message FROM conversation_messages WHERE tenant_id = %(tenant)s AND conversation_id = %(id)s "
                "AND position = ANY(%(positions)s)",
                row | {"positions": [message.position for message in basis]},
            )
            stored = dict(await cursor.fetchall())
            if found.summary_position != replaces or stored != {message.position: message.message for message in basis}:
                return False
            await connection.execute(
                f"UPDATE conversations SET summary = %(summary)s, summary_position = %(position)s WHERE {_OWN}",  # noqa: S608  # constants
                row | {"summary": storable_text(summary), "position": position},
            )
            return True


async def _require(connection: Connection, claim: TurnClaim) -> str:
    """Lock a claimed conversation and return its version."""
    cursor = await connection.execute(
        f"SELECT xmin::text, turn_token FROM conversations WHERE {_OWN} FOR NO KEY UPDATE",  # noqa: S608  # constant
        claim.row,
    )
    found = await cursor.fetchone()
    if found is None:
        raise not_found(claim.conversation_id)
    if found[1] != claim.token:
        raise TurnLostError("Another request has gone on with this conversation meanwhile.")
    return str(found[0])


async def _keep(connection: Connection, claim: TurnClaim, lease_s: float | None) -> str:
    """Set the end of a claim, None for now, and return the version that this leaves."""
    cursor = await connection.execute(
        "UPDATE conversations SET turn_token = CASE WHEN %(lease)s::float8 IS NULL THEN NULL ELSE %(token)s END, "  # noqa: S608  # constants
        f"turn_until = clock_timestamp() + make_interval(secs => %(lease)s::float8) WHERE {_OWN} RETURNING xmin::text",
        claim.row | {"lease": lease_s},
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found(claim.conversation_id)
    return str(row[0])


async def _instructions(connection: Connection, claim: TurnClaim, before: int) -> list[HistoryMessage]:
    cursor = await connection.execute(
        "SELECT position, message FROM conversation_messages WHERE tenant_id = %(tenant)s AND conversation_id = %(id)s "
        "AND position < %(before)s AND role IN ('system', 'developer') ORDER BY position LIMIT %(most)s",
        claim.row | {"before": before, "most": _MAX_INSTRUCTIONS},
    )
    return [HistoryMessage(position, message) for position, message in await cursor.fetchall()]


async def _set_completed(connection: Connection, claim: TurnClaim, message_ids: Sequence[str]) -> None:
    await connection.execute(
        "UPDATE conversation_messages SET status = 'completed' "
        "WHERE tenant_id = %(tenant)s AND conversation_id = %(id)s AND id = ANY(%(messages)s)",
        claim.row | {"messages": list(message_ids)},
    )


async def _set_answer(connection: Connection, claim: TurnClaim, answer: NewMessage) -> None:
    await connection.execute(
        "UPDATE conversation_messages SET status = %(status)s, model = %(model)s, usage = %(usage)s "
        "WHERE tenant_id = %(tenant)s AND conversation_id = %(id)s AND id = %(message)s",
        claim.row
        | {
            "status": answer.status,
            "model": answer.model,
            "usage": None if answer.usage is None else Jsonb(answer.usage),
            "message": answer.id,
        },
    )


async def _delete(connection: Connection, claim: TurnClaim, message_ids: Sequence[str]) -> None:
    cursor = await connection.execute(
        "DELETE FROM conversation_messages WHERE tenant_id = %(tenant)s AND conversation_id = %(id)s AND id = ANY(%(messages)s)",
        claim.row | {"messages": list(message_ids)},
    )
    await connection.execute(
        f"UPDATE conversations SET message_count = message_count - %(deleted)s WHERE {_OWN}",  # noqa: S608  # constant
        claim.row | {"deleted": cursor.rowcount},
    )


def _history_message(record: MessageRecord) -> HistoryMessage:
    return HistoryMessage(
        record.position, record.message, is_answer=record.model is not None, is_complete=record.status == "completed"
    )
