"""Questions asked by voice: heard while they are spoken, searched for before they end, answered from the caller's documents."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aihub.chat.sampling import REFUSED_FIELDS
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.core.sse import data_event
from aihub.http.form_values import read_form_values
from aihub.speech.service import SpeechService, VoiceQuestion
from pipelines.chat import ChatPipeline
from pipelines.early_retrieval import EarlyRetrieval, StableText
from pipelines.limited_chat import LimitedChat
from pipelines.listening import HeardQuestion, Listener
from pipelines.rag import RagPipeline

_MOST_SHOWN_CHARS = 64


class VoicePipeline:
    """Implements `aihub.speech.service.VoiceService`.

    Sources are searched for as soon as what was heard is stable, and again each time more is. The answer is made as for a
    question in writing; a search whose every argument is that of an early one takes its result, so answers do not depend on it.

    Args:
        chat: Answers.
        rag: What `chat` finds sources by.
    """

    def __init__(self, speech: SpeechService, chat: ChatPipeline | LimitedChat, rag: RagPipeline) -> None:
        self._speech = speech
        self._chat = chat
        self._rag = rag

    async def ask(self, principal: Principal, question: VoiceQuestion, audio: AsyncGenerator[bytes, None]) -> dict[str, Any]:
        """Return OpenAI's `chat.completion` object with what was heard as `transcript`."""
        early = await self._early(principal, question, stream=False)
        listener = self._listener(principal, question, audio, early)
        try:
            listener.start()
            heard = await listener.question()
            await early.settle(heard.text)
            answer = await self._chat.with_rag(early.rag).chat(principal, _request(question, heard.text, stream=False))
            return answer | {"transcript": heard.to_dict()}
        finally:
            await _end(listener, early)

    async def open_ask_stream(
        self, principal: Principal, question: VoiceQuestion, audio: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[str, None]:
        """Wait for the first event, then return the stream with it."""
        stream = self._stream(principal, question, audio)
        # A generator that was never started runs no `finally` when closed, so it is brought to its first event here.
        await anext(stream)
        return stream

    async def _stream(
        self, principal: Principal, question: VoiceQuestion, audio: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[str, None]:
        early = await self._early(principal, question, stream=True)
        listener = self._listener(principal, question, audio, early)
        try:
            listener.start()
            has_begun = False
            async with aclosing(listener.events()) as events:
                async for event in events:
                    if not has_begun:
                        has_begun = True
                        yield ""
                    yield data_event(event)
            heard = await listener.question()
            if not has_begun:
                yield ""
            yield data_event(_done(heard))
            await early.settle(heard.text)
            chat = self._chat.with_rag(early.rag)
            frames = await chat.open_chat_stream(principal, _request(question, heard.text, stream=True))
            async with aclosing(frames):
                async for frame in frames:
                    yield frame
        finally:
            await _end(listener, early)

    async def _early(self, principal: Principal, question: VoiceQuestion, *, stream: bool) -> EarlyRetrieval:
        # What is wrong with the request is told before anything is heard, and so is a model or a store that is not there.
        request = _request(question, "?", stream=stream)
        await self._chat.require(principal, request)
        return EarlyRetrieval(self._rag, principal, request.retrieval if question.early_retrieval else None)

    def _listener(
        self, principal: Principal, question: VoiceQuestion, audio: AsyncGenerator[bytes, None], early: EarlyRetrieval
    ) -> Listener:
        stable = StableText()

        def on_text(text: str, is_final: bool) -> None:
            if stable.observe(text, is_final=is_final):
                early.begin(text)

        return Listener(self._speech, principal, question.recognition, audio, on_text)


async def _end(listener: Listener, early: EarlyRetrieval) -> None:
    try:
        await listener.close()
    finally:
        await early.close()


def _done(heard: HeardQuestion) -> dict[str, Any]:
    return {"type": "transcript.done", "text": heard.text, "model": heard.model_id, "language": heard.language}


def _request(question: VoiceQuestion, text: str, *, stream: bool) -> ChatCompletionRequest:
    """Return the chat request that asks `text` after the earlier turns.

    Raises:
        InvalidRequestError: A field is wrong.
    """
    unknown = question.chat.keys() - ChatCompletionRequest.model_fields.keys() - REFUSED_FIELDS.keys()
    if unknown:
        name = min(unknown)[:_MOST_SHOWN_CHARS]
        raise InvalidRequestError(
            f"The option `{name}` is none of a spoken question's and no field of a chat request; check its spelling.",
            param=name,
            code="unknown_parameter",
        )
    chat = read_form_values(ChatCompletionRequest, question.chat)
    earlier = chat.get("messages") or []
    if not isinstance(earlier, list):
        raise InvalidRequestError("'messages' must be a list: the turns before the question.", param="messages")
    messages = [*earlier, {"role": "user", "content": text}]
    return validate(ChatCompletionRequest, chat | {"messages": messages, "stream": stream})
