"""How a request is read: its query checked, its body bounded in size and time, and strictly JSON where JSON is expected."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response, params
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from aihub.core.errors import InvalidRequestError, PayloadTooLargeError, RequestTimeoutError, UnsupportedMediaError
from aihub.core.settings import Settings
from aihub.http.query import query_check
from aihub.http.strict_json import POLITE_BYTES, parse_strict_json

MIN_BYTES_PER_S = 4096
"""A body slower than this on average is given up, so that one byte at a time cannot hold a request open."""


class StrictRoute(APIRoute):
    """A route that reads query and body strictly; use as `APIRouter(route_class=StrictRoute)`, or a child with another limit.

    Routes keep pydantic parameters. A missing Content-Type is refused (415), as vLLM does: a browser page can send such a
    request to a local hub without asking first. Multipart and raw routes take a `Request` and read `body_chunks`.
    """

    def max_bytes(self, settings: Settings) -> int:
        """Largest body here."""
        return settings.max_json_bytes

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        check = query_check(self.dependant, self.path)
        field = self.body_field
        if field is None or isinstance(field.field_info, params.Form):

            async def check_then_handle(request: Request) -> Response:
                check(request)
                return await handler(request)

            return check_then_handle
        is_required = field.field_info.is_required()

        async def read_then_handle(request: Request) -> Response:
            check(request)
            settings: Settings = request.app.state.services.settings
            return await handler(await _with_json(request, settings, self.max_bytes(settings), is_required=is_required))

        return read_then_handle


class ChatRoute(StrictRoute):
    """A route whose body may carry images, recordings and files in base64."""

    def max_bytes(self, settings: Settings) -> int:
        return max(settings.max_chat_bytes, settings.max_json_bytes)


class JsonRequest(Request):
    """A request whose body has been read and parsed; FastAPI finds both here."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._bytes = body
        self._value = value

    async def body(self) -> bytes:
        return self._bytes

    async def json(self) -> Any:
        return self._value


async def _with_json(request: Request, settings: Settings, max_bytes: int, *, is_required: bool) -> JsonRequest:
    _refuse_encoding(request)
    may_be_absent = not is_required and "content-type" not in request.headers
    if not may_be_absent:
        _refuse_media_type(request)
    chunks = body_chunks(request, max_bytes=max_bytes, stall_s=settings.body_timeout_s)
    body = b"".join([chunk async for chunk in chunks])
    if not body and not is_required:
        return JsonRequest(request, b"", None)
    if may_be_absent:
        _refuse_media_type(request)
    value = parse_strict_json(body) if len(body) <= POLITE_BYTES else await asyncio.to_thread(parse_strict_json, body)
    if not isinstance(value, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return JsonRequest(request, body, value)


def _refuse_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaError(f"Content-Encoding {encoding[:32]!r} is not supported; send the body as it is.")


def _refuse_media_type(request: Request) -> None:
    header = request.headers.get("content-type", "")
    media_type, *parameters = [part.strip().lower() for part in header.split(";")]
    if media_type != "application/json" and not (media_type.startswith("application/") and media_type.endswith("+json")):
        shown = repr(media_type[:64]) if media_type else "missing"
        raise UnsupportedMediaError(f"The Content-Type is {shown}; send 'application/json'.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(" \"'") not in {"utf-8", "utf8"}:
            raise UnsupportedMediaError(f"The charset {value[:32]!r} is not supported; send UTF-8.")


async def body_chunks(
    request: Request, *, max_bytes: int, stall_s: float, min_bytes_per_s: int | None = MIN_BYTES_PER_S
) -> AsyncGenerator[bytes, None]:
    """Yield the raw body piece by piece, never more than `max_bytes` in all.

    Args:
        stall_s: Longest wait for the next piece.
        min_bytes_per_s: What the whole body must keep up with; None where it comes as slowly as a person speaks, and the caller
            limits its time.

    Raises:
        PayloadTooLargeError: From the Content-Length before anything is read, else when the limit is passed.
        RequestTimeoutError: The body stalled or came too slowly.
        ClientDisconnect: The client left in the middle.
    """
    _refuse_length(request.headers.get("content-length"), max_bytes)
    started_s = time.monotonic()
    received = 0
    more = True
    while more:
        wait_s = stall_s
        if min_bytes_per_s is not None:
            wait_s = min(stall_s, started_s + stall_s + received / min_bytes_per_s - time.monotonic())
        try:
            async with asyncio.timeout(wait_s):
                message = await request.receive()
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"The body did not arrive in time ({received} bytes so far). Send it without long pauses."
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(max_bytes)
        if chunk:
            yield chunk


def _refuse_length(header: str | None, max_bytes: int) -> None:
    if header is None:
        return
    if not (header.isascii() and header.isdigit()) or len(header) > 18:
        raise InvalidRequestError("The Content-Length header is not a number of bytes.", code="invalid_content_length")
    if int(header) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is larger than {max_bytes} bytes, the limit here. Send less at a time.")
