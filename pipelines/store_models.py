"""What a vector store and the active embedding model must agree on."""

from typing import Any

from aihub.engines.base import EmbedderCard
from aihub.errors import ConflictError
from aihub.schemas.vector_stores import AutoChunking, StaticChunking
from aihub.storage.records import VectorStoreRecord

AUTO_MAX_TOKENS = 512
# Room for special tokens, and for a text to count a little differently alone than inside its document.
AUTO_MARGIN_TOKENS = 16
AUTO_OVERLAP_SHARE = 8


def require_same_model(store: VectorStoreRecord, card: EmbedderCard) -> None:
    """Refuse to mix vectors of two models.

    Raises:
        ConflictError: The store was built with another model than the active one; the message names both.
    """
    if (store.embedding_model, store.dimensions) != (card.model_id, card.dimensions):
        raise ConflictError(
            f"Vector store {store.id} was built with embedding model {store.embedding_model!r} ({store.dimensions} dimensions), "
            f"but {card.model_id!r} ({card.dimensions}) is active. Create a new vector store and attach the files to it, "
            f"or start the hub with {store.embedding_model!r}.",
            code="embedding_model_mismatch",
        )


def chunking_for(strategy: AutoChunking | StaticChunking | None, card: EmbedderCard) -> dict[str, Any]:
    """Return the sizes to use, in OpenAI's `static` form.

    `auto` (and none) takes chunks the embedder reads whole, at most 512 tokens, an eighth of them repeated from the chunk before.
    """
    if isinstance(strategy, StaticChunking):
        return strategy.model_dump()
    size = max(100, min(AUTO_MAX_TOKENS, card.max_tokens - AUTO_MARGIN_TOKENS))
    return {
        "type": "static",
        "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": size // AUTO_OVERLAP_SHARE},
    }
