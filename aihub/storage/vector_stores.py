"""Vector stores and the files attached to them."""

from collections.abc import Sequence
from typing import Any, Literal

from aihub.storage.postgres import Database
from aihub.storage.records import Attributes, ChunkRow, StoreChanges, StoreFileStatus, VectorStoreFileRecord, VectorStoreRecord


class VectorStoreTable:
    """Table `vector_stores`; every call is scoped by tenant."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self,
        tenant_id: str,
        *,
        name: str | None,
        description: str | None,
        metadata: dict[str, str],
        embedding_model: str,
        dimensions: int,
        expires_after: dict[str, Any] | None,
    ) -> VectorStoreRecord:
        """Create an empty store, with a vector index for `dimensions` where none exists yet."""
        raise NotImplementedError

    async def get(self, tenant_id: str, store_id: str) -> VectorStoreRecord:
        """Raises: NotFoundError."""
        raise NotImplementedError

    async def get_many(self, tenant_id: str, store_ids: Sequence[str]) -> list[VectorStoreRecord]:
        """Return the stores in the order asked.

        Raises:
            NotFoundError: One of them does not exist; the message names it.
        """
        raise NotImplementedError

    async def list(
        self,
        tenant_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> tuple[list[VectorStoreRecord], bool]:
        """Return one page in creation order and whether more follow.

        Raises:
            InvalidRequestError: `after` or `before` names no store.
        """
        raise NotImplementedError

    async def update(self, tenant_id: str, store_id: str, changes: StoreChanges) -> VectorStoreRecord:
        """Raises: NotFoundError."""
        raise NotImplementedError

    async def delete(self, tenant_id: str, store_id: str) -> None:
        """Delete the store with its chunks; the files stay.

        Raises:
            NotFoundError: No such store.
        """
        raise NotImplementedError

    async def touch(self, tenant_id: str, store_ids: Sequence[str]) -> None:
        """Note that the stores were used just now (written at most once a minute)."""
        raise NotImplementedError


class VectorStoreFileTable:
    """Table `vector_store_files`, which is also the queue of documents to process."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def attach(
        self, tenant_id: str, store_id: str, file_id: str, *, attributes: Attributes, chunking_strategy: dict[str, Any]
    ) -> VectorStoreFileRecord:
        """Attach a file as `in_progress`; one that is attached already is returned as it is.

        Raises:
            NotFoundError: No such store or file.
        """
        raise NotImplementedError

    async def get(self, tenant_id: str, store_id: str, file_id: str) -> VectorStoreFileRecord:
        """Raises: NotFoundError."""
        raise NotImplementedError

    async def list(
        self,
        tenant_id: str,
        store_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        status: StoreFileStatus | None = None,
    ) -> tuple[list[VectorStoreFileRecord], bool]:
        """Return one page in attachment order and whether more follow.

        Raises:
            NotFoundError: No such store.
            InvalidRequestError: `after` or `before` names no file of the store.
        """
        raise NotImplementedError

    async def update_attributes(
        self, tenant_id: str, store_id: str, file_id: str, attributes: Attributes
    ) -> VectorStoreFileRecord:
        """Replace all attributes.

        Raises:
            NotFoundError: The file is not attached.
        """
        raise NotImplementedError

    async def detach(self, tenant_id: str, store_id: str, file_id: str) -> None:
        """Remove the file from the store, searchable or not; the file itself stays.

        Raises:
            NotFoundError: The file is not attached.
        """
        raise NotImplementedError

    async def cancel(self, tenant_id: str, store_id: str, file_id: str) -> VectorStoreFileRecord:
        """Stop processing: `in_progress` becomes `cancelled`, any other status stays.

        Raises:
            NotFoundError: The file is not attached.
        """
        raise NotImplementedError

    async def claim(self, lease_s: float, worker_id: str) -> VectorStoreFileRecord | None:
        """Take the oldest waiting file of any tenant for `lease_s` seconds, or None when none waits.

        No two workers hold the same file. A file whose lease ran out is given out again; after 3 attempts it fails with
        code `server_error`.
        """
        raise NotImplementedError

    async def heartbeat(self, record: VectorStoreFileRecord, lease_s: float) -> bool:
        """Prolong a claim; False when it is lost (cancelled, detached, or taken over), so that work can stop."""
        raise NotImplementedError

    async def complete(self, record: VectorStoreFileRecord, text: str, text_format: str, chunks: Sequence[ChunkRow]) -> bool:
        """Make a claimed document searchable, all of it or nothing, in one transaction.

        Returns:
            False, with nothing written, when the claim is lost (cancelled, detached, or taken over).
        """
        raise NotImplementedError

    async def complete_from_duplicate(self, record: VectorStoreFileRecord) -> bool:
        """Complete a claimed document by copying the chunks of the same content, if the tenant has it processed already.

        The source is a completed file with the same bytes and file name suffix, in a store with the same embedding model,
        under the same chunking strategy.

        Returns:
            False, with nothing written, when there is none or the claim is lost.
        """
        raise NotImplementedError

    async def fail(self, record: VectorStoreFileRecord, code: str, message: str) -> bool:
        """Mark a claimed document as failed; False when the claim is lost."""
        raise NotImplementedError
