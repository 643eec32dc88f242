"""Chat in stored conversations: the past is put before a request, and what is asked and said is kept."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from aihub.chat.completions import CompletionRequest
from aihub.chat.messages import SystemMessage
from aihub.chat.routing import AUTO
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatService
from aihub.conversations.remembered_preferences import RememberedPreferences
from aihub.conversations.turn import Turn
from aihub.conversations.turns import Turns
from aihub.core.concurrency import complete
from aihub.core.errors import ContextLengthError, InvalidRequestError
from aihub.core.logging import add_response_header
from aihub.core.principal import Principal
from aihub.core.sse import DONE, data_event, events, payload
from pipelines.context_window import UNKNOWN_CONTEXT_TOKENS, ContextWindow, ContextWindows, count_fitting_turns
from pipelines.conversation_request import ConversationRequest, PastTurn, continue_conversation, countable_body, with_wishes
from pipelines.conversation_summary import ConversationSummaries, SummaryJob
from pipelines.stored_messages import HeardAnswer, answer_message, stored_messages

Answer = TypeVar("Answer")

CONVERSATION_HEADER = "x-aihub-conversation-id"
HISTORY_HEADER = "x-aihub-history"


@dataclass(slots=True)
class _Asked:
    """A turn with what is asked in it.

    Attributes:
        count: Turns of the past that are put before the request.
        is_over: Whether the answer has been stored.
    """

    principal: Principal
    turn: Turn
    conversation: ConversationRequest
    window: ContextWindow
    count: int
    is_over: bool = False

    @property
    def request(self) -> ChatCompletionRequest:
        return self.conversation.with_turns(self.count)

    @property
    def left_out(self) -> Sequence[PastTurn]:
        return self.conversation.turns[: len(self.conversation.turns) - self.count]

    def history(self) -> dict[str, Any]:
        """What the client is told of the past."""
        has_summary = bool(self.left_out and self.conversation.summary)
        return {"turns": self.count, "turns_left_out": len(self.left_out), "summary": has_summary}

    def mark(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return an answer or a first chunk with the conversation's id and what was put before the request."""
        aihub = {**(value.get("aihub") or {}), "history": self.history()}
        return value | {"conversation_id": self.turn.conversation_id, "aihub": aihub}


class StoredChat:
    """Implements `aihub.chat.service.ChatService` around another one; requests outside of conversations go straight through.

    Args:
        preferences: What callers prefer, for conversations and for `auto`.
        summaries: Makes summaries of what no longer fits; None makes none.
    """

    def __init__(
        self,
        chat: ChatService,
        turns: Turns,
        windows: ContextWindows,
        preferences: RememberedPreferences,
        summaries: ConversationSummaries | None = None,
    ) -> None:
        self._chat = chat
        self._turns = turns
        self._windows = windows
        self._preferences = preferences
        self._summaries = summaries

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer, and keep question and answer where the request asks for it.

        Raises:
            NotFoundError: No such conversation of the caller (`conversation_not_found`).
            RateLimitError: Too many requests wait for it (`conversation_busy`).
            StorageUnavailableError: PostgreSQL does not answer; the model is not asked.
            HubError: Whatever the chat inside raises; then nothing of the request is kept.
        """
        if not request.is_stored:
            return await self._chat.chat(principal, await self._with_wishes(principal, request))
        asked = await self._begin(principal, request)
        try:
            asked.turn.keep_claimed(lambda: None)
            answer = await self._ask(asked, lambda shorter: self._chat.chat(principal, shorter))
            said = answer_message(answer, request.model)
        except BaseException:
            await complete(asked.turn.take_back())
            raise
        is_stored = await complete(asked.turn.finish(said))
        self._summarise(asked)
        told = asked.mark(answer)
        if not is_stored:
            told["aihub"]["stored"] = False
        return told

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Open a stream that is kept as it goes; raises as `chat`.

        What was said is stored before `[DONE]` is sent, and when the stream is closed or fails in the middle.
        """
        if not request.is_stored:
            return await self._chat.open_chat_stream(principal, await self._with_wishes(principal, request))
        asked = await self._begin(principal, request)
        heard = HeardAnswer(request.model)
        try:
            asked.turn.keep_claimed(heard.said)
            frames = await self._ask(asked, lambda shorter: self._chat.open_chat_stream(principal, shorter))
        except BaseException:
            await complete(asked.turn.take_back())
            raise
        relay = self._relay(asked, heard, frames)
        await anext(relay)  # a generator that was never started runs no `finally` when closed
        return relay

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        """Completions belong to no conversation."""
        return await self._chat.complete(principal, request)

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        """Completions belong to no conversation."""
        return await self._chat.open_complete_stream(principal, request)

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """The models of the chat inside."""
        return await self._chat.models(principal)

    async def _with_wishes(self, principal: Principal, request: ChatCompletionRequest) -> ChatCompletionRequest:
        return with_wishes(request, await self._preferences.get(principal)) if request.model == AUTO else request

    async def _begin(self, principal: Principal, request: ChatCompletionRequest) -> _Asked:
        """Get the turn, choose what of the past fits, and store what is asked."""
        if request.continued_id is None:
            turn = await self._turns.create(principal, request.metadata, stored_messages(request.messages))
        else:
            turn = await self._turns.open(principal, request.continued_id)
        try:
            conversation = continue_conversation(request, turn.history, await self._preferences.get(principal))
            if not conversation.said:
                raise InvalidRequestError("A conversation goes on with a message that is no instruction.", param="messages")
            asked = _Asked(principal, turn, conversation, *await self._fit(principal, conversation))
            if request.continued_id is not None:
                # Instructions hold for their request; a conversation keeps those that it began with.
                said = [message for message in conversation.said if not isinstance(message, SystemMessage)]
                await turn.begin(stored_messages(said))
        except BaseException:
            await complete(turn.take_back())
            raise
        add_response_header(CONVERSATION_HEADER, turn.conversation_id)
        add_response_header(HISTORY_HEADER, "; ".join(f"{name}={int(value)}" for name, value in asked.history().items()))
        return asked

    async def _fit(self, principal: Principal, conversation: ConversationRequest) -> tuple[ContextWindow, int]:
        if not conversation.turns:
            return ContextWindow(UNKNOWN_CONTEXT_TOKENS), 0
        least = int(conversation.awaits_results)

        def body(count: int) -> dict[str, Any]:
            return countable_body(conversation.with_turns(max(count, least)))

        window = await self._windows.find(principal, conversation.request, body(least))
        sizes = [turn.tokens for turn in conversation.turns]
        count = await count_fitting_turns(window, window.room_tokens(conversation.request.answer_tokens), sizes, body)
        return window, max(count, least)

    async def _ask(self, asked: _Asked, ask: Callable[[ChatCompletionRequest], Awaitable[Answer]]) -> Answer:
        """Ask with ever less of the past while the model finds the prompt too long, as estimates and sources may be wrong."""
        least = int(asked.conversation.awaits_results)
        while True:
            try:
                return await ask(asked.request)
            except ContextLengthError:
                if asked.count <= least:
                    raise
                asked.count = max(asked.count // 2, least)

    async def _relay(self, asked: _Asked, heard: HeardAnswer, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Pass frames on; the first item is empty."""
        has_begun = False
        try:
            yield ""
            async with aclosing(frames):
                async for frame in frames:
                    for event in events(frame):
                        if event == DONE and not await complete(self._conclude(asked, heard)):
                            yield _not_stored(asked)
                        chunk = payload(event)
                        if chunk is None or "error" in chunk:
                            yield event
                            continue
                        heard.listen(chunk)
                        yield _marked(asked, event, chunk, is_first=not has_begun, is_last=heard.finish_reason is not None)
                        has_begun = True
        finally:
            await complete(self._conclude(asked, heard))

    async def _conclude(self, asked: _Asked, heard: HeardAnswer) -> bool:
        """Store what was said, once; False when there was something and it is not stored."""
        if asked.is_over:
            return True
        asked.is_over = True
        answer = heard.said()
        if answer is None:
            await asked.turn.take_back(is_told=True)
            return True
        is_stored = await asked.turn.finish(answer)
        self._summarise(asked)
        return is_stored

    def _summarise(self, asked: _Asked) -> None:
        history, left_out = asked.turn.history, asked.left_out
        position = -1 if history.summary_position is None else history.summary_position
        new = [turn for turn in left_out if turn.last_position > position]
        if self._summaries is None or not new:
            return
        job = SummaryJob(
            asked.principal,
            asked.turn.conversation_id,
            asked.conversation.request.model,
            asked.window.context_tokens,
            new,
            history,
        )
        self._summaries.begin(self._chat, job)


def _marked(asked: _Asked, event: str, chunk: dict[str, Any], *, is_first: bool, is_last: bool) -> str:
    """Return an event with the conversation's id where it is the first, or one of those at the end."""
    if is_first:
        return data_event(asked.mark(chunk))
    return data_event(chunk | {"conversation_id": asked.turn.conversation_id}) if is_last else event


def _not_stored(asked: _Asked) -> str:
    chunk = {"object": "chat.completion.chunk", "choices": [], "conversation_id": asked.turn.conversation_id}
    return data_event(chunk | {"aihub": {"stored": False}})
