"""The hub's own `retrieval` field of a chat request."""

from typing import Annotated, Literal

from pydantic import Field

from aihub.schemas.common import ClosedModel, ObjectId
from aihub.schemas.filters import Filters
from aihub.security.limits import MAX_RETRIEVED_CHUNKS, MAX_STORES_PER_QUESTION


class RetrievalOptions(ClosedModel):
    """Where to look for sources before answering.

    Attributes:
        top_k: Chunks to put before the model, best first.
        mode: `vector` by meaning, `text` by words, `hybrid` both.
        score_threshold: Chunks that score less are not put before the model; without it, in `hybrid`, the hub's own.
        filters: OpenAI attribute filters over the files' attributes.
    """

    vector_store_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=MAX_STORES_PER_QUESTION)]
    top_k: Annotated[int, Field(ge=1, le=MAX_RETRIEVED_CHUNKS)] = 5
    mode: Literal["hybrid", "vector", "text"] = "hybrid"
    score_threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    filters: Filters | None = None
