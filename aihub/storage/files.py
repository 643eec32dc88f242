"""Uploaded files and the text extracted from them."""

from collections.abc import AsyncIterator
from typing import Literal

from aihub.storage.postgres import Database
from aihub.storage.records import FileRecord


class FileTable:
    """Tables `files`, `file_parts` and `file_texts`; every call is scoped by tenant."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self,
        tenant_id: str,
        filename: str,
        purpose: str,
        stream: AsyncIterator[bytes],
        max_bytes: int,
        *,
        expires_after_s: int | None = None,
    ) -> FileRecord:
        """Store a whole stream in one transaction.

        The stream should come from local memory or disk: a connection is held until it ends.

        Raises:
            PayloadTooLargeError: More than `max_bytes`; nothing is stored.
        """
        raise NotImplementedError

    async def get(self, tenant_id: str, file_id: str) -> FileRecord:
        """Raises: NotFoundError."""
        raise NotImplementedError

    async def list(
        self,
        tenant_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> tuple[list[FileRecord], bool]:
        """Return one page in upload order and whether more follow.

        Raises:
            InvalidRequestError: `after` names no file.
        """
        raise NotImplementedError

    def content(self, tenant_id: str, file_id: str) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces of at most 1 MiB.

        Raises:
            NotFoundError: At the first step.
        """
        raise NotImplementedError

    async def delete(self, tenant_id: str, file_id: str) -> None:
        """Delete the file, its text, and its chunks in every vector store.

        Raises:
            NotFoundError: No such file.
        """
        raise NotImplementedError

    async def save_text(self, tenant_id: str, file_id: str, text: str, text_format: str) -> None:
        """Store the extracted text, replacing an earlier one."""
        raise NotImplementedError

    async def get_text(self, tenant_id: str, file_id: str) -> str:
        """Raises: NotFoundError: No such file, or it was never processed."""
        raise NotImplementedError

    async def text_slice(self, tenant_id: str, file_id: str, start: int, end: int) -> str:
        """Return `text[start:end]` in characters.

        Raises:
            NotFoundError: No such file, or it was never processed.
        """
        raise NotImplementedError
