"""The embedder as pipelines and routes see it. Like all services it raises `HubError` only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.core.health import PartHealth


@dataclass(frozen=True, slots=True)
class EmbedderInfo:
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


class Embedder(Protocol):
    """Text to vectors.

    `inputs` are texts or lists of token ids. Raises `InvalidRequestError` for an input over `max_tokens` (naming its
    index), an empty input or an id outside the vocabulary.
    """

    async def model_info(self) -> EmbedderInfo: ...

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings: ...

    async def health(self) -> PartHealth: ...
