"""How a spoken question is received: a multipart body whose options come first and whose last part is read while it arrives."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Message

from aihub.core.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedMediaError
from aihub.http.bodies import body_chunks

FILE = "file"
MAX_FIELDS = 64
MAX_FIELDS_BYTES = 2 * 2**20
"""Names and values of all options together; earlier turns are among them."""


class VoiceBody:
    """One body, read once: first `read_fields`, then `audio`.

    Args:
        max_bytes: Of the whole body.
        stall_s: Longest wait for the next piece.
    """

    def __init__(self, request: Request, *, max_bytes: int, stall_s: float) -> None:
        self._request = request
        self._parts = _Parts(_boundary(request))
        # Speech in a narrow codec, or a pause in it, is slower than any least speed.
        self._chunks = body_chunks(request, max_bytes=max_bytes, stall_s=stall_s, min_bytes_per_s=None)
        self._is_over = asyncio.Event()
        self._has_left = False

    async def read_fields(self) -> dict[str, str]:
        """Return the options by name, as they were sent; the first bytes of the file may have arrived with them.

        Raises:
            InvalidRequestError: The body is broken, holds an option twice, or no part `file`.
            PayloadTooLargeError: There are too many options, or the body is too large by its Content-Length.
            RequestTimeoutError: It stalled.
            ClientDisconnect: The client left.
        """
        while not self._parts.has_file:
            if not await self._read():
                raise InvalidRequestError("The body holds no speech. Send it as the last part, named `file`.", param=FILE)
        return self._parts.fields

    async def audio(self) -> AsyncGenerator[bytes, None]:
        """Yield the file in pieces as they arrive.

        When the client leaves, this waits to be cancelled by whoever waits for `receive_after`.

        Raises:
            InvalidRequestError: The body is broken, ends in the middle, goes on after the file, or the file is empty.
            PayloadTooLargeError: It is too large.
            RequestTimeoutError: It stalled.
        """
        is_empty = True
        try:
            async with aclosing(self._chunks):
                while True:
                    if piece := self._parts.take():
                        is_empty = False
                        yield piece
                    if self._parts.is_complete:
                        break
                    if not await self._read():
                        raise InvalidRequestError("The body ends in the middle of the speech. Send it whole.", param=FILE)
        except ClientDisconnect:
            self._has_left = True
            self._is_over.set()
            await asyncio.Event().wait()
        if is_empty:
            raise InvalidRequestError("The file is empty. Send recorded speech.", param=FILE, code="empty_file")
        self._is_over.set()

    async def receive_after(self) -> Message:
        """ASGI `receive` for those who wait until the client leaves: it takes nothing of the file."""
        await self._is_over.wait()
        return {"type": "http.disconnect"} if self._has_left else await self._request.receive()

    async def _read(self) -> bool:
        chunk = await anext(self._chunks, None)
        if chunk is not None:
            self._parts.write(chunk)
        return chunk is not None


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaError("Send the speech as multipart/form-data: the options first, then the part `file`.")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidRequestError("The Content-Type of the multipart body names no boundary.")
    return boundary


class _Parts:
    """What the parser has found so far."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.has_file = False
        self.is_complete = False
        self._name = ""
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._value = bytearray()
        self._fields_bytes = 0
        self._audio = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise InvalidRequestError(f"The multipart body is broken: {error}") from error

    def take(self) -> bytes:
        """Return what has come of the file since the last call."""
        piece = bytes(self._audio)
        self._audio.clear()
        return piece

    def _begin_part(self) -> None:
        if self.has_file:
            raise InvalidRequestError("Send every option before the part `file`, which is heard while it arrives.", param=FILE)
        if len(self.fields) >= MAX_FIELDS:
            raise PayloadTooLargeError(f"A spoken question has at most {MAX_FIELDS} options.")
        self._disposition = b""
        self._value.clear()

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name:
            raise InvalidRequestError("A part of the body has no name. Name each option, and the speech `file`.")
        self.has_file = self._name == FILE
        if not self.has_file and b"filename" in options:
            raise InvalidRequestError("The speech is the only file of the body; name its part `file`.", param=FILE)
        if self._name in self.fields:
            raise InvalidRequestError(f"The option `{self._name[:64]}` is given more than once.", param=self._name[:64])

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self.has_file:
            self._audio += data[start:end]
            return
        self._fields_bytes += end - start
        if self._fields_bytes > MAX_FIELDS_BYTES:
            raise PayloadTooLargeError(f"The options of a spoken question may hold {MAX_FIELDS_BYTES} bytes together.")
        self._value += data[start:end]

    def _end_part(self) -> None:
        if self.has_file:
            return
        try:
            self.fields[self._name] = self._value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequestError("An option is not UTF-8.", param=self._name[:64]) from error

    def _end(self) -> None:
        self.is_complete = True
