"""Summaries of what no longer fits before a model, made in the background by the model that answers."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aihub.chat.messages import Message
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatService
from aihub.conversations.history import StoredHistory
from aihub.conversations.turns import Turns
from aihub.core.errors import HubError
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record
from aihub.core.schemas import validate
from pipelines.conversation_request import PastTurn

logger = logging.getLogger(__name__)

MAX_WAITING = 16
MAX_SUMMARY_CHARS = 4_000
MAX_SUMMARY_TOKENS = 300
ROUTE = "summary of a conversation"

_INSTRUCTION = (
    "Summarise the conversation below in a few sentences, in its own language. Keep names, numbers, wishes and decisions. "
    "Write the summary alone."
)
_CUT = " …"


@dataclass(frozen=True, slots=True)
class SummaryJob:
    """Turns that did not fit, and the summary that they continue.

    Attributes:
        context_tokens: Of the model.
        history: As it was stored.
    """

    principal: Principal
    conversation_id: str
    model: str
    context_tokens: int
    turns: Sequence[PastTurn]
    history: StoredHistory


class ConversationSummaries:
    """Makes one summary at a time. One that fails, or is lost with the process, is made after the next answer.

    Args:
        turns: Where summaries are kept.
        record: Gets what each cost.
    """

    def __init__(self, turns: Turns, record: Callable[[RequestRecord], None] | None = None) -> None:
        self._turns = turns
        self._record = record
        self._waiting: dict[tuple[str, str], tuple[ChatService, SummaryJob]] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self, chat: ChatService, job: SummaryJob) -> None:
        """Take a job; the newest of a conversation counts, and none is taken while many wait."""
        key = (job.principal.tenant_id, job.conversation_id)
        if len(self._waiting) >= MAX_WAITING and key not in self._waiting:
            return
        self._waiting[key] = (chat, job)
        if self._task is None or self._task.done():
            # An empty context: what it costs is no part of the request that it came from.
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    async def settle(self) -> None:
        """Wait for all that were taken."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """Stop; what is not made now is made later."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            chat, job = self._waiting.pop(next(iter(self._waiting)))
            record = RequestRecord(principal=job.principal, route=ROUTE, task="chat")
            token = current_record.set(record)
            try:
                await self._summarise(chat, job)
            except HubError as error:
                record.status, record.error_code = error.status, error.code
                logger.warning("No summary of conversation %s was made: %s", job.conversation_id, error.message)
            except Exception:  # the chats go on without
                record.status = 500
                logger.exception("No summary of conversation %s was made.", job.conversation_id)
            finally:
                current_record.reset(token)
                if self._record is not None:
                    self._record(record)

    async def _summarise(self, chat: ChatService, job: SummaryJob) -> None:
        text, position = transcript_of(job)
        answer = await chat.chat(job.principal, _request(job, text))
        summary = (answer["choices"][0]["message"].get("content") or "").strip()
        if not summary:
            return
        summary = summary if len(summary) <= MAX_SUMMARY_CHARS else summary[:MAX_SUMMARY_CHARS] + _CUT
        replaces = job.history.summary_position
        first = -1 if replaces is None else replaces
        basis = [message for message in job.history.messages if first < message.position <= position]
        await self._turns.save_summary(job.principal, job.conversation_id, summary, position, basis=basis, replaces=replaces)


def transcript_of(job: SummaryJob) -> tuple[str, int]:
    """Return what is to be summarised, half a context at most, and the position that it goes up to."""
    free_bytes = 3 * job.context_tokens // 2
    pieces = [f"Summary so far: {job.history.summary}"] if job.history.summary else []
    position = job.turns[0].last_position
    for number, turn in enumerate(job.turns):
        text = "\n".join(_line(message) for message in turn.messages)
        size_bytes = len(text.encode("utf-8", "replace"))
        if number and size_bytes > free_bytes:
            break
        if size_bytes > free_bytes:
            text = text.encode("utf-8", "replace")[:free_bytes].decode("utf-8", "ignore") + _CUT
        pieces.append(text)
        free_bytes -= size_bytes
        position = turn.last_position
    return "\n\n".join(pieces), position


def _line(message: Message) -> str:
    name = {"user": "User", "assistant": "Assistant", "tool": "Tool"}.get(message.role, "System")
    calls = [call.function.name for call in getattr(message, "tool_calls", None) or ()]
    said = message.content or (f"(asks {', '.join(calls)})" if calls else "")
    return f"{name}: {said}"


def _request(job: SummaryJob, text: str) -> ChatCompletionRequest:
    body = {
        "model": job.model,
        "messages": [{"role": "user", "content": f"{_INSTRUCTION}\n\n{text}"}],
        "max_completion_tokens": max(min(MAX_SUMMARY_TOKENS, job.context_tokens // 8), 1),
        "temperature": 0.0,
    }
    return validate(ChatCompletionRequest, body)
