"""How a multipart upload is read: one file and a few short fields, at most 1 MiB of it in memory.

The file goes to an unnamed temporary file of bounded size, because fields may follow it in the body and a slow client must not
hold anything else meanwhile. The client's filename is only a label and never a path; clients write it in several ways.
"""

import asyncio
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Any
from urllib.parse import unquote

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from aihub.core.errors import (
    InvalidRequestError,
    OverloadedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnavailableError,
    UnsupportedMediaError,
)
from aihub.http.bodies import body_chunks
from aihub.http.services import Services

ENVELOPE_BYTES = 64 * 2**10  # boundaries, part headers and fields around the file
MAX_FILENAME_CHARS = 255
SLOT_WAIT_S = 10.0
UPLOAD_TIMEOUT_S = 600.0
READ_BYTES = 2**20

# RFC 7578 forbids it in forms; .NET, aiohttp and others send it beside `filename`, or alone.
_EXTENDED = re.compile(r"""(?:^|;)\s*filename\*\s*=\s*"?([\w.:-]{1,40})'[\w-]*'([^;"]*)"?""", re.IGNORECASE)
_QUOTED = re.compile(r'(?<=name)\s*=\s*"(?:[^"\\]|\\.)*"', re.IGNORECASE)
_PLAIN = re.compile(rb"(?:^|;)\s*filename\s*=", re.IGNORECASE)
# Browsers and httpx write these three so inside quotes (WHATWG), and nothing else.
_FORM_ESCAPES = re.compile("%(22|0D|0A)", re.IGNORECASE)
_ENCODED_WORD = re.compile(r"=\?[\w-]{2,40}\?[bq]\?[^?]*\?=", re.IGNORECASE)
_FIELD_NAME = re.compile(r"([a-z_]{1,64})(?:\[([a-z_]{0,64})\])?")


@dataclass(frozen=True, slots=True)
class FieldLimits:
    """What an upload may hold beside its file.

    Attributes:
        fields: How many at most.
        field_bytes: Longest value.
        lists: Fields that may come again, with or without `[]` behind the name; their values are lists.
    """

    fields: int = 8
    field_bytes: int = 4096
    lists: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Upload:
    """One received file and the text fields around it.

    Attributes:
        filename: The client's name for it, reduced to a harmless label.
        size_bytes: At least 1.
        fields: Text fields; `expires_after[seconds]` becomes `{"expires_after": {"seconds": ...}}`.
        file: The spooled content, at its start.
        content_type: The Content-Type of the file's part; empty without one.
    """

    filename: str
    size_bytes: int
    fields: dict[str, Any]
    file: UploadFile
    content_type: str = ""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content in pieces of at most 1 MiB."""
        while piece := await self.file.read(READ_BYTES):
            yield piece


_DEFAULT_LIMITS = FieldLimits()


@asynccontextmanager
async def read_upload(
    request: Request, *, max_bytes: int, stall_s: float, limits: FieldLimits = _DEFAULT_LIMITS
) -> AsyncIterator[Upload]:
    """Receive the multipart body of `request`; the temporary file is gone when the context ends.

    Raises:
        UnsupportedMediaError: The body is not multipart/form-data.
        PayloadTooLargeError: The file is over `max_bytes`, or there are too many or too long fields; told before the body
            is read where Content-Length says so.
        InvalidRequestError: The body is broken, or holds no file, or an empty one.
        RequestTimeoutError: The body stalled for `stall_s`, or took over ten minutes.
        OverloadedError: Too many uploads at a time.
        UnavailableError: No temporary disk space.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise UnsupportedMediaError("Send a multipart/form-data body with the file as a part named `file`.")
    services: Services = request.app.state.services
    async with _slot(services.upload_slots):
        form = await _receive(request, max_bytes, stall_s, limits)
        try:
            yield _checked(form, limits.lists)
        finally:
            await form.close()


async def _receive(request: Request, max_bytes: int, stall_s: float, limits: FieldLimits) -> FormData:
    try:
        async with (
            asyncio.timeout(UPLOAD_TIMEOUT_S),
            aclosing(body_chunks(request, max_bytes=max_bytes + ENVELOPE_BYTES, stall_s=stall_s)) as body,
        ):
            return await _BoundedParser(request, body, max_bytes, limits).parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"The multipart body is broken: {error.message}") from error
    except TimeoutError as error:
        raise RequestTimeoutError(f"The upload took longer than {UPLOAD_TIMEOUT_S:.0f} s; try again on a faster line.") from error
    except OSError as error:
        raise UnavailableError("The server has no disk space for the upload. Try again later.", code="no_disk_space") from error


class _BoundedParser(MultiPartParser):
    """Starlette's parser, with a limit on the file and with limits told apart from broken bodies."""

    def __init__(self, request: Request, body: AsyncGenerator[bytes, None], max_bytes: int, limits: FieldLimits) -> None:
        super().__init__(request.headers, body, max_files=1, max_fields=limits.fields + 1)  # ours is met first
        self._max_bytes = max_bytes
        self._limits = limits
        self._parts = 0
        self._part_bytes = 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._parts += 1
        self._part_bytes = 0
        if self._parts > self._limits.fields + 1:
            raise PayloadTooLargeError(f"An upload has one file and at most {self._limits.fields} fields.")

    def on_headers_finished(self) -> None:
        part = self._current_part
        disposition = part.content_disposition or b""
        if _names_file(disposition) and b"filename" not in parse_options_header(disposition)[1]:
            part.content_disposition = disposition + b'; filename=""'  # named by `filename*` alone
        super().on_headers_finished()
        if part.file is not None:
            part.file.filename = _file_name(disposition, part.file.filename or "")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        if self._current_part.file is None and self._part_bytes > self._limits.field_bytes:
            raise PayloadTooLargeError(f"A text field here may hold at most {self._limits.field_bytes} bytes.")
        if self._part_bytes > self._max_bytes:
            raise PayloadTooLargeError(f"The file is larger than {self._max_bytes} bytes, the limit. Split it.", param="file")
        super().on_part_data(data, start, end)


def _checked(form: FormData, lists: frozenset[str]) -> Upload:
    fields: dict[str, Any] = {}
    file: UploadFile | None = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            file = value if name == "file" else None
        else:
            _put(fields, name, value, lists)
    if file is None:
        raise InvalidRequestError("The upload holds no file. Send it as a part named `file` with a filename.", param="file")
    if not file.size:
        raise InvalidRequestError("The file is empty. Upload a file with content.", param="file", code="empty_file")
    return Upload(safe_filename(file.filename or ""), file.size, fields, file, file.content_type or "")


def _names_file(content_disposition: bytes) -> bool:
    """Whether the header names a file in any way."""
    return _PLAIN.search(content_disposition) is not None or _extended(content_disposition) is not None


def _file_name(content_disposition: bytes, plain: str) -> str:
    """Return the name of the file.

    Args:
        content_disposition: The header's value as it came.
        plain: Its parameter `filename`, decoded; empty when it has none.
    """
    extended = _extended(content_disposition)
    if extended is not None:
        return extended
    if _ENCODED_WORD.search(plain):
        try:
            return str(make_header(decode_header(plain)))
        except (HeaderParseError, LookupError, ValueError):
            return plain
    return _FORM_ESCAPES.sub(lambda escape: chr(int(escape[1], 16)), plain)


def _extended(content_disposition: bytes) -> str | None:
    found = _EXTENDED.search(_QUOTED.sub('=""', content_disposition.decode("latin-1")))
    if found is None:
        return None
    try:
        return unquote(found[2].strip(), encoding=found[1], errors="strict")
    except (LookupError, UnicodeDecodeError):
        return None


def _put(fields: dict[str, Any], full_name: str, value: str, lists: frozenset[str]) -> None:
    match = _FIELD_NAME.fullmatch(full_name)
    name, key = (match[1], match[2]) if match is not None else (full_name, None)
    is_list = name in lists and not key
    if not is_list and (match is None or key == ""):
        fields[full_name] = value  # no field of the hub's; the schema says whether that matters
        return
    empty: list[str] | dict[str, str] = [] if is_list else {}
    holder = fields if key is None and not is_list else fields.setdefault(name, empty)
    slot = key or name
    if is_list and isinstance(holder, list):
        holder.append(value)
    elif not is_list and isinstance(holder, dict) and slot not in holder:
        holder[slot] = value
    else:
        raise InvalidRequestError(f"The field `{name}` is given more than once.", param=name)


def safe_filename(name: str) -> str:
    """Reduce a client's filename to a label: last path part, NFC, no control or format characters, at most 255 long."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    visible = "".join(c for c in last if not unicodedata.category(c).startswith("C")).strip()
    if len(visible) > MAX_FILENAME_CHARS:
        stem, dot, suffix = visible.rpartition(".")
        kept = f"{dot}{suffix}"[:16] if stem else ""
        visible = visible[: MAX_FILENAME_CHARS - len(kept)] + kept
    return visible if visible.strip(".") else "file"


@asynccontextmanager
async def _slot(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(SLOT_WAIT_S):
            await slots.acquire()
    except TimeoutError as error:
        raise OverloadedError("Too many uploads at the same time. Try again in a moment.") from error
    try:
        yield
    finally:
        slots.release()
