"""Search over the chunks of completed documents."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.storage.postgres import Database
from aihub.storage.records import ChunkHit, LexicalChanges


class ChunkTable:
    """Tables `chunks`, `chunk_vectors` and `lexical_segments`; every call is scoped by tenant."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def vector_search(
        self,
        tenant_id: str,
        store_ids: Sequence[str],
        query: NDArray[np.float32],
        limit: int,
        file_filter: Collection[str] | None = None,
    ) -> list[ChunkHit]:
        """Return the chunks most similar to `query`, best first; `score` is the cosine similarity cut to 0..1.

        Args:
            tenant_id: The caller's tenant; stores of others are as good as absent.
            store_ids: Stores to search together; they should share one embedding model.
            query: float32, shape (dimensions,). Chunks of other dimensions are never found.
            limit: Most hits returned.
            file_filter: Only chunks of these files (see `matching_files`); all when None.
        """
        raise NotImplementedError

    async def fetch(self, tenant_id: str, chunk_ids: Sequence[int]) -> list[ChunkHit]:
        """Return chunks in the order asked, with score 0; those that are gone meanwhile are left out."""
        raise NotImplementedError

    async def lexical_changes(self, tenant_id: str, store_id: str, after_version: int) -> LexicalChanges:
        """Return what became searchable or was removed after `after_version` (0 for everything), as one snapshot.

        Raises:
            NotFoundError: No such store.
        """
        raise NotImplementedError

    async def matching_files(self, tenant_id: str, store_ids: Sequence[str], filters: dict[str, Any] | None) -> set[str] | None:
        """Return ids of completed files whose attributes satisfy a filter (`aihub.schemas.filters`); None without a filter."""
        raise NotImplementedError
