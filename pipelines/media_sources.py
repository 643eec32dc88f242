"""The bytes of content parts: base64 of the request, uploaded files of the caller, and web addresses where they are allowed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aihub.chat.parts import InlineSource, MediaPart, MediaSource, RemoteSource
from aihub.core.base64_text import decode_slices
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_MEDIA_BYTES, MAX_TEXT_CHARS
from aihub.core.principal import Principal
from aihub.documents.service import FileService

_QUICK_CHARS = 64 * 2**10
"""Longer base64 is decoded in a thread."""


class MediaFetcher(Protocol):
    """Gets what a web address names, and only where that is no address of this network."""

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Return the bytes; `InvalidRequestError` for an address that is refused or does not answer with a file."""
        ...


@dataclass(frozen=True, slots=True)
class MediaFile:
    """What a part holds; `name` is for people alone."""

    data: bytes
    name: str = ""


@dataclass(slots=True)
class ByteBudget:
    """What one request may still make the hub read beside its body."""

    left: int = field(default=MAX_MEDIA_BYTES)

    def take(self, size_bytes: int) -> None:
        """Count bytes.

        Raises:
            InvalidRequestError: They are more than is left (`media_too_large`).
        """
        if size_bytes > self.left:
            raise InvalidRequestError(
                f"The files and addresses of one request may hold {MAX_MEDIA_BYTES} bytes together; this one brings more. "
                "Send fewer or smaller ones.",
                code="media_too_large",
            )
        self.left -= size_bytes


@dataclass(slots=True)
class TextBudget:
    """Characters that the parts of one request may still bring, the texts it was sent with taken off.

    Attributes:
        turn: Documents of one request are read one after the other: each knows what is left, what is too much ends no reading
            that has begun (which costs a process of the parser), and other callers' documents wait for one of them alone.
    """

    left: int = field(default=MAX_TEXT_CHARS)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def require_some(self) -> None:
        """Refuse to read on when nothing is left; raises as `take`."""
        self.take(0 if self.left > 0 else 1)

    def take(self, chars: int) -> None:
        """Count characters.

        Raises:
            InvalidRequestError: They are more than is left (`context_length_exceeded`).
        """
        if chars > self.left:
            self.left = 0  # the request is refused, so nothing more is read for it
            raise InvalidRequestError(
                f"The messages of a request hold at most {MAX_TEXT_CHARS:,} characters, the text of its files and recordings "
                "included; with this one they hold more. Send less, or put files into a vector store and ask with 'retrieval'.",
                code="context_length_exceeded",
            )
        self.left -= chars


class SourceReader:
    """Reads parts.

    Args:
        fetcher: None refuses web addresses.
    """

    def __init__(self, files: FileService, fetcher: MediaFetcher | None) -> None:
        self._files = files
        self._fetcher = fetcher

    def require_readable(self, part: MediaPart, param: str) -> None:
        """Refuse a part whose content is never read here.

        Raises:
            InvalidRequestError: It names a web address, and those are not fetched (`remote_media_off`).
        """
        if isinstance(part.source, RemoteSource) and self._fetcher is None:
            raise InvalidRequestError(
                "Web addresses of images and videos are not fetched here. Send the content as a data URL "
                "(data:image/png;base64,...) or upload it and send its 'file_id'; the hub's operator may allow hosts with "
                "AIHUB_REMOTE_MEDIA_HOSTS.",
                param=param,
                code="remote_media_off",
            )

    async def read(self, principal: Principal, part: MediaPart, param: str, *, max_bytes: int, budget: ByteBudget) -> MediaFile:
        """Return the content of a part.

        Raises:
            InvalidRequestError: It is no base64, empty, too large, or cannot be fetched; `param` names the field.
            NotFoundError: The caller has no such file.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        with blaming(param):
            file = await self._read(principal, part.source, max_bytes, budget)
            if not file.data:
                raise InvalidRequestError("The file is empty.", code="media_empty")
            return file

    async def _read(self, principal: Principal, source: MediaSource, max_bytes: int, budget: ByteBudget) -> MediaFile:
        if isinstance(source, InlineSource):
            if len(source.base64) <= _QUICK_CHARS:
                return MediaFile(decode_base64(source.base64))
            return MediaFile(await asyncio.to_thread(decode_base64, source.base64))
        if isinstance(source, RemoteSource):
            if self._fetcher is None:
                raise InvalidRequestError("Web addresses are not fetched here.", code="remote_media_off")
            limit = min(max_bytes, budget.left)
            budget.take(limit)  # of several at a time, each has its share
            data = await self._fetcher.fetch(source.url, max_bytes=limit)
            budget.left += limit - len(data)
            return MediaFile(data)
        return await self._read_upload(principal, source.file_id, max_bytes, budget)

    async def _read_upload(self, principal: Principal, file_id: str, max_bytes: int, budget: ByteBudget) -> MediaFile:
        file = await self._files.get(principal, file_id)
        if file.bytes > max_bytes:
            raise InvalidRequestError(
                f"The file {file_id} holds {file.bytes} bytes; at most {max_bytes} are allowed here.", code="media_too_large"
            )
        budget.take(file.bytes)
        _, pieces = await self._files.content(principal, file_id)
        return MediaFile(b"".join([piece async for piece in pieces]), file.filename)


def decode_base64(text: str) -> bytes:
    """Decode strict base64: no blanks, no other letters, padded.

    Raises:
        InvalidRequestError: It is none (`invalid_base64`).
    """
    try:
        return b"".join(decode_slices(text))
    except ValueError as error:
        raise InvalidRequestError(
            "The data is not valid base64: send the letters A-Z a-z 0-9 + / with padding and without blanks or line breaks.",
            code="invalid_base64",
        ) from error


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Let what is wrong with a part's content name the part's field."""
    try:
        yield
    except InvalidRequestError as error:
        error.param = param
        raise
