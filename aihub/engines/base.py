"""The Protocols that pipelines are written against.

Real engines, Serve handles (`deployments/handles.py`) and the fakes (`aihub/engines/fake.py`) all satisfy them;
`tests/contract` runs one suite on every implementation.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

PartStatus = Literal["ok", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class PartHealth:
    """State of one part, with the reason whenever it is not `ok`."""

    status: PartStatus
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ChatModelCard:
    """What a pipeline must know of a chat model.

    Attributes:
        model_id: The name clients send in `model`.
        context_tokens: Prompt plus answer, in the model's tokens.
        created: Unix seconds.
        special_tokens: Tokens of its vocabulary that steer the model; neutralised in text from outside.
    """

    model_id: str
    context_tokens: int
    created: int
    owned_by: str = "aihub"
    special_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbedderCard:
    """What a pipeline must know of an embedder.

    Attributes:
        model_id: The name clients send in `model`.
        dimensions: Length of each vector; vectors have L2 norm 1.
        max_tokens: Longest input in the embedder's tokens, special tokens included; longer text is refused.
        vocabulary_size: Token ids must lie in [0, vocabulary_size).
        languages: ISO 639-1 codes the model was trained for; retrieval weighs vectors down for other languages.
        tokenizer_path: `tokenizer.json` of the model, for counting tokens outside the engine.
        created: Unix seconds.
    """

    model_id: str
    dimensions: int
    max_tokens: int
    vocabulary_size: int
    languages: tuple[str, ...]
    tokenizer_path: str
    created: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the inputs.

    Attributes:
        vectors: float32, shape (number of inputs, dimensions), each row of norm 1.
        token_counts: Tokens per input, special tokens included.
    """

    vectors: NDArray[np.float32]
    token_counts: list[int] = field(default_factory=list)


class ChatEngine(Protocol):
    """One chat model that can be asked now.

    `body` is an OpenAI chat completion (or completion) request as plain JSON values, already validated and bounded.
    Streams yield finished server-sent event text: one or more `data: {...}` frames, each ended by a blank line, the last
    `data: [DONE]`. Every method raises `HubError` children only; a stream raises before its first item or ends with an
    error frame. Closing a stream (`aclose`) stops the engine within a second.
    """

    async def card(self) -> ChatModelCard: ...

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]: ...

    def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]: ...

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]: ...

    def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]: ...

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Prompt tokens of a chat body (`messages` and `tools`) after the chat template."""
        ...

    async def health(self) -> PartHealth: ...


@runtime_checkable
class HeldEngine(Protocol):
    """A chat engine, found for one request, that keeps count of its requests."""

    def hold(self) -> AbstractContextManager[None]: ...


def hold(engine: ChatEngine) -> AbstractContextManager[None]:
    """Count a request as in flight at its engine until the context ends, whatever it asks the engine meanwhile, or nothing yet.

    Engines that keep no count are as they are.

    Raises:
        OverloadedError: On entering, when the engine holds as many requests as it may.
    """
    return engine.hold() if isinstance(engine, HeldEngine) else nullcontext()


class Embedder(Protocol):
    """Text to vectors.

    `inputs` are texts or lists of token ids. Raises `InvalidRequestError` for an input over `max_tokens` (naming its
    index), an empty input or an id outside the vocabulary.
    """

    async def card(self) -> EmbedderCard: ...

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings: ...

    async def health(self) -> PartHealth: ...
