"""Putting as many sources before the model as its context holds."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aihub.chat.content import AskedContent
from aihub.chat.service import ChatEngine
from aihub.core.errors import ContextLengthError, InvalidRequestError
from pipelines.prompts import PromptTemplate, question_message, source_block, sourceless_message

MAX_DEFAULT_RESERVE = 512
"""Tokens kept for the answer when the client sets no limit; a quarter of the context where that is less."""


@dataclass(frozen=True, slots=True)
class SourceText:
    """One retrieved text with the number the model is to call it by."""

    number: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class PackedPrompt:
    """A chat body with sources in it, and the numbers of those that fitted."""

    body: dict[str, Any]
    used: frozenset[int]


async def pack_sources(
    engine: ChatEngine,
    body: dict[str, Any],
    asked: AskedContent,
    *,
    template: PromptTemplate,
    sources: Sequence[SourceText],
    reserve: int | None,
) -> PackedPrompt:
    """Put the sources into the last user message, best first, as far as the context goes. Nothing is ever cut.

    In the common case, everything fits, this costs one token count. Otherwise each source is counted once, those that
    fit are taken by rank, and the result is counted again, as tokens of joined texts do not simply add up.

    Args:
        body: Engine body with at least one user message.
        asked: Content of the last one. Sources and instruction stand before its question, and all parts keep their order.
        sources: Best first.
        reserve: Tokens to keep for the answer; `default_reserve` when None.

    Raises:
        ContextLengthError: The conversation alone does not fit, or not even one source does; with the numbers.
    """
    context = (await engine.model_info()).context_tokens
    window = _Window(engine, body, asked, template, context, default_reserve(context) if reserve is None else reserve)
    if not sources:
        bare = window.sourceless()
        window.require_room(await engine.count_tokens(bare))
        return PackedPrompt(bare, frozenset())
    whole = window.filled(sources)
    if await engine.count_tokens(whole) > window.limit:
        return await _take_what_fits(window, sources)
    return PackedPrompt(whole, frozenset(source.number for source in sources))


def default_reserve(context_tokens: int) -> int:
    """Return the tokens kept for an answer without `max_tokens`."""
    return min(MAX_DEFAULT_RESERVE, context_tokens // 4)


@dataclass(frozen=True, slots=True)
class _Window:
    """The model's context, and the chat body that has to go into it."""

    engine: ChatEngine
    body: dict[str, Any]
    asked: AskedContent
    template: PromptTemplate
    context: int
    reserve: int

    @property
    def limit(self) -> int:
        return self.context - self.reserve

    def filled(self, sources: Sequence[SourceText]) -> dict[str, Any]:
        return self._asking(question_message(self.template, self.asked.question, [_block(source) for source in sources]))

    def sourceless(self) -> dict[str, Any]:
        return self._asking(sourceless_message(self.template, self.asked.question))

    def require_room(self, tokens: int) -> None:
        if tokens > self.limit:
            raise ContextLengthError(
                f"The conversation takes {tokens} tokens and {self.reserve} are kept for the answer, but the model's context "
                f"holds {self.context}. Send fewer or shorter messages, or a smaller 'max_tokens'.",
                param="messages",
            )

    def _asking(self, text: str) -> dict[str, Any]:
        messages = list(self.body["messages"])
        position = last_user_position(messages)
        messages[position] = messages[position] | {"content": self.asked.asking(text)}
        return self.body | {"messages": messages}


def last_user_position(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the index of the last user message.

    Raises:
        InvalidRequestError: There is none.
    """
    for position in range(len(messages) - 1, -1, -1):
        if messages[position]["role"] == "user":
            return position
    raise InvalidRequestError("Retrieval needs a message of role 'user' to search by; add the question.", param="messages")


async def _take_what_fits(window: _Window, sources: Sequence[SourceText]) -> PackedPrompt:
    engine = window.engine
    base, empty, *counts = await asyncio.gather(
        engine.count_tokens(window.filled([])),
        engine.count_tokens(_single("")),
        *(engine.count_tokens(_single(_block(source))) for source in sources),
    )
    window.require_room(base)
    taken: list[SourceText] = []
    free = window.limit - base
    for source, count in zip(sources, counts, strict=True):
        if count - empty <= free:
            taken.append(source)
            free -= count - empty
    while taken:
        body = window.filled(taken)
        if await engine.count_tokens(body) <= window.limit:
            return PackedPrompt(body, frozenset(source.number for source in taken))
        taken.pop()
    raise ContextLengthError(
        f"None of the {len(sources)} retrieved chunks fits: the smallest takes {min(counts) - empty} tokens, and of the model's "
        f"context of {window.context} only {window.limit - base} are left beside the conversation ({base}) and the answer "
        f"({window.reserve}). Lower 'max_tokens', shorten the conversation, or store the files with smaller chunks.",
        param="messages",
    )


def _single(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def _block(source: SourceText) -> str:
    return source_block(source.number, source.name, source.text)
