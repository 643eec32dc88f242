"""Files, vector stores and batches as the routes see them. Like all services: principal first, `HubError` only."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from aihub.core.principal import Principal
from aihub.media.service import MediaKind

if TYPE_CHECKING:
    from aihub.core.schemas import DeletedObject, Page
    from aihub.documents.schemas import (
        FileBatchCreate,
        FileBatchObject,
        FileContentPage,
        FileObject,
        SearchRequest,
        SearchResults,
        VectorStoreCreate,
        VectorStoreFileCreate,
        VectorStoreFileObject,
        VectorStoreFileUpdate,
        VectorStoreObject,
        VectorStoreUpdate,
    )


Order = Literal["asc", "desc"]
FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """When a piece of a transcript was said: characters of the text, seconds of the recording."""

    start_char: int
    end_char: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class MediaText:
    """What a recording says or an image shows.

    Attributes:
        text: As `aihub.documents.parsing.clean.clean` leaves text.
        spans: One per word, in order; none for images.
    """

    text: str
    kind: MediaKind
    spans: tuple[TimeSpan, ...] = ()


class MediaReader(Protocol):
    """Turns recordings and images into text, so that they can be searched."""

    async def read(self, principal: Principal, data: bytes) -> MediaText:
        """Return the text of a recording or an image. Cancelling ends the work at once.

        Args:
            data: A file that begins as media do (`aihub.documents.parsing.formats.media`).

        Raises:
            DocumentError: It cannot be read, or never will be with the models that are installed; the message says why.
            HubError: A `retryable` one: what reads it is away for now.
        """
        ...


class FileService(Protocol):
    """Uploaded files."""

    async def upload(
        self,
        principal: Principal,
        *,
        filename: str,
        purpose: str,
        content: AsyncIterator[bytes],
        expires_after_s: int | None = None,
        text_encoding: str | None = None,
    ) -> "FileObject":
        """Store the bytes; `PayloadTooLargeError` over the limit, nothing is left behind then."""
        ...

    async def list(
        self, principal: Principal, *, limit: int, after: str | None, order: Order, purpose: str | None
    ) -> "Page[FileObject]": ...

    async def get(self, principal: Principal, file_id: str) -> "FileObject": ...

    async def content(self, principal: Principal, file_id: str) -> "tuple[FileObject, AsyncIterator[bytes]]": ...

    async def delete(self, principal: Principal, file_id: str) -> "DeletedObject": ...


class VectorStoreService(Protocol):
    """Vector stores, the files attached to them, and search."""

    async def create(self, principal: Principal, request: "VectorStoreCreate") -> "VectorStoreObject": ...

    async def list(
        self, principal: Principal, *, limit: int, after: str | None, before: str | None, order: Order
    ) -> "Page[VectorStoreObject]": ...

    async def get(self, principal: Principal, store_id: str) -> "VectorStoreObject": ...

    async def update(self, principal: Principal, store_id: str, request: "VectorStoreUpdate") -> "VectorStoreObject": ...

    async def delete(self, principal: Principal, store_id: str) -> "DeletedObject": ...

    async def attach_file(
        self, principal: Principal, store_id: str, request: "VectorStoreFileCreate"
    ) -> "VectorStoreFileObject": ...

    async def list_files(
        self,
        principal: Principal,
        store_id: str,
        *,
        limit: int,
        after: str | None,
        before: str | None,
        order: Order,
        status: FileStatus | None,
    ) -> "Page[VectorStoreFileObject]": ...

    async def get_file(self, principal: Principal, store_id: str, file_id: str) -> "VectorStoreFileObject": ...

    async def update_file(
        self, principal: Principal, store_id: str, file_id: str, request: "VectorStoreFileUpdate"
    ) -> "VectorStoreFileObject": ...

    async def detach_file(self, principal: Principal, store_id: str, file_id: str) -> "DeletedObject": ...

    async def file_content(self, principal: Principal, store_id: str, file_id: str) -> "FileContentPage":
        """The text the file was parsed to."""
        ...

    async def search(self, principal: Principal, store_id: str, request: "SearchRequest") -> "SearchResults": ...


MAX_CONCURRENT_UPLOADS = 8
"""Bounds the temporary disk space of one process to this many files."""


def new_upload_slots() -> asyncio.Semaphore:
    """One for each upload that may be received at a time."""
    return asyncio.Semaphore(MAX_CONCURRENT_UPLOADS)


class FileBatchService(Protocol):
    """Files attached to a vector store together."""

    async def create(self, principal: Principal, store_id: str, request: "FileBatchCreate") -> "FileBatchObject": ...

    async def get(self, principal: Principal, store_id: str, batch_id: str) -> "FileBatchObject": ...

    async def cancel(self, principal: Principal, store_id: str, batch_id: str) -> "FileBatchObject": ...

    async def list_files(
        self,
        principal: Principal,
        store_id: str,
        batch_id: str,
        *,
        limit: int,
        after: str | None,
        before: str | None,
        order: Order,
        status: FileStatus | None,
    ) -> "Page[VectorStoreFileObject]": ...
