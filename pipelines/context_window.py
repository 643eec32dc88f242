"""How much of a conversation fits before a model: whole turns, the newest first, with room left for the answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aihub.chat.assistants import Assistant
from aihub.chat.routing import AUTO, Decision, ModelCandidate
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatEngine, ChatModelInfo, estimate_tokens
from aihub.core.errors import HubError
from aihub.core.principal import Principal
from pipelines.context_packing import default_reserve

UNKNOWN_CONTEXT_TOKENS = 8_192
"""Of a provider's model that its list does not name."""


class ChoosingDirectory(Protocol):
    """`pipelines.directory.ProviderDirectory`."""

    async def resolve(self, principal: Principal, model_id: str) -> ChatEngine: ...

    async def list(self, principal: Principal) -> list[ChatModelInfo]: ...

    async def decide(self, principal: Principal, body: Mapping[str, Any]) -> Decision: ...


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """The context of the model that is asked.

    Attributes:
        engine: Where tokens are counted; None for a model that is not loaded, whose tokens are estimated.
        is_shared: Sources or results of the hub's tools are put into it later.
    """

    context_tokens: int
    engine: ChatEngine | None = None
    is_shared: bool = False

    def room_tokens(self, answer_tokens: int | None) -> int:
        """Return the tokens for a request and its past: what the answer leaves, half of that where the window is shared."""
        answer = default_reserve(self.context_tokens) if answer_tokens is None else answer_tokens
        room = max(self.context_tokens - answer, 0)
        return room // 2 if self.is_shared else room


class ContextWindows:
    """Finds the context of a request's model, without loading one.

    Args:
        candidates: The local models and their states.
        assistants: Names that stand for a model with tools.
    """

    def __init__(
        self,
        engines: ChoosingDirectory,
        candidates: Callable[[], Awaitable[Sequence[ModelCandidate]]],
        assistants: Mapping[str, Assistant] | None = None,
    ) -> None:
        self._engines = engines
        self._candidates = candidates
        self._assistants = assistants or {}

    async def find(self, principal: Principal, request: ChatCompletionRequest, body: Mapping[str, Any]) -> ContextWindow:
        """Return the window of the model that a request goes to; for `auto`, of the one that this body alone would go to."""
        assistant = self._assistants.get(request.model)
        model_id = request.model if assistant is None else assistant.model
        is_shared = assistant is not None or request.retrieval is not None or bool(request.hub_tools)
        try:
            if model_id == AUTO:
                model_id = (await self._engines.decide(principal, body)).model_id
            models = {info.model_id: info.context_tokens for info in await self._engines.list(principal)}
            context_tokens = models.get(model_id, UNKNOWN_CONTEXT_TOKENS)
            loaded = any(each.model_id == model_id and each.state == "loaded" for each in await self._candidates())
            engine = await self._engines.resolve(principal, model_id) if loaded else None
        except HubError:  # the chat itself says what is wrong
            return ContextWindow(UNKNOWN_CONTEXT_TOKENS, is_shared=is_shared)
        return ContextWindow(context_tokens, engine, is_shared)


async def count_fitting_turns(
    window: ContextWindow, room_tokens: int, turn_tokens: Sequence[int], body_with: Callable[[int], Mapping[str, Any]]
) -> int:
    """Return how many of the newest turns fit beside the request.

    Estimates decide where all turns fit by them, as they err on the large side; else the model's own tokens are counted.

    Args:
        room_tokens: For the whole prompt.
        turn_tokens: Estimates, oldest first.
        body_with: Makes the engine's body with so many of the newest turns.
    """
    free = room_tokens - estimate_tokens(body_with(0))
    estimated, possible, total = 0, 0, 0
    for number, tokens in enumerate(reversed(turn_tokens), start=1):
        total += tokens
        estimated = number if total <= free else estimated
        possible = number if total <= 2 * room_tokens else possible  # no tokenizer halves what is estimated
    if window.engine is None or estimated == len(turn_tokens):
        return estimated
    try:
        while estimated < possible:
            middle = (estimated + possible + 1) // 2
            if await window.engine.count_tokens(dict(body_with(middle))) <= room_tokens:
                estimated = middle
            else:
                possible = middle - 1
    except HubError:  # counting is no reason not to answer
        return estimated
    return estimated
