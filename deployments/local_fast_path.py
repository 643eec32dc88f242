"""Requests go from Serve's proxy straight to the replica on the same machine, over a Unix socket.

Serve's own way through a handle costs several milliseconds of both processes, and for a body one more call back to the
proxy (docs/adr/0014-local-fast-path.md). It is taken when there is no socket: the replica is starting, is one of several,
or lives on another machine.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from yarl import URL

from aihub.core.errors import NotFoundError, OverloadedError, UnavailableError
from aihub.core.settings import Settings
from aihub.http.errors import error_response
from deployments.cancellation import quiet_cancellations

logger = logging.getLogger("ray.serve")

HUB, RECSYS = "hub", "recsys"
_PREFIXES = (("/predict/", RECSYS), ("/", HUB))
"""Which application answers a path; the first whose socket is there."""
_OF_SERVE = "/-/"
_SERVES_HEALTH = "/-/healthz"
"""All that supervisors need of Serve's own paths; the rest would tell anybody what runs here."""
_PLAIN = re.compile(rb"/[!-~]*")
"""Targets that pass unchanged."""

_MOST = 512
"""Requests at once on one socket; what comes beyond goes Serve's way, where queues are limited."""
_LARGEST_BODY = 65_536
_BODY_S = 0.05
"""A body that is larger or not there by then goes Serve's way: an upload, or a client on a slow line."""
_PAUSE_S = 0.2
"""After a failure to connect a socket is left alone for so long."""
_CONNECT_S = 1.0
_KEEP_ALIVE_S = 30.0
# What belongs to one connection and not to the request or the answer.
_REQUEST_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"})
_ANSWER_HOP = frozenset({b"keep-alive", b"trailer", b"transfer-encoding", b"upgrade"})
_NOBODY = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_NO_DEFAULTS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def middlewares() -> list[Middleware]:
    """Return what Ray Serve's proxy puts around itself; named by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`."""
    quiet_cancellations()
    home = Settings().home_path
    return [Middleware(LocalFastPath, sockets=[(prefix, ReplicaSocket(socket_path(home, name))) for prefix, name in _PREFIXES])]


def socket_path(home: Path, name: str) -> Path:
    """Where an application of this cluster listens; another cluster may share the state folder."""
    import ray

    port = ray.get_runtime_context().gcs_address.rsplit(":", 1)[-1]
    return home / "sockets" / f"{name}-{port}.sock"


class ReplicaSocket:
    """Connections to one socket."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._session: aiohttp.ClientSession | None = None
        self._resume_s = 0.0
        self._busy = 0

    @property
    def is_open(self) -> bool:
        """Whether a request may try it."""
        return self._busy < _MOST and time.monotonic() >= self._resume_s

    @contextmanager
    def used(self) -> Iterator[None]:
        """Count a request; when nobody listens, none is tried for a moment."""
        self._busy += 1
        try:
            yield
        except _NOBODY:
            self._resume_s = time.monotonic() + _PAUSE_S
            raise
        finally:
            self._busy -= 1

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._path, limit=0, keepalive_timeout=_KEEP_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_NO_DEFAULTS,
                auto_decompress=False,
            )
        return self._session


class LocalFastPath:
    """ASGI middleware of Serve's proxy.

    Args:
        app: The proxy itself: Serve's way.
        sockets: Prefix of paths, and where they are answered; the first open one is taken.
    """

    def __init__(self, app: ASGIApp, sockets: Sequence[tuple[str, ReplicaSocket]]) -> None:
        self._app = app
        self._sockets = sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_OF_SERVE) and scope["path"] != _SERVES_HEALTH:
            await error_response(NotFoundError("There is nothing here.", code="unknown_url"))(scope, receive, send)
            return
        if scope["type"] == "http" and not scope["path"].startswith(_OF_SERVE) and _is_plain(scope):
            sockets = [socket for prefix, socket in self._sockets if socket.is_open and scope["path"].startswith(prefix)]
            taken = _Taken(receive)
            body = await taken.whole_body() if sockets else None
            if body is not None:
                for socket in (socket for socket in sockets if socket.is_open):
                    with suppress(*_NOBODY), socket.used():
                        await _pass(socket, scope, body, receive, send)
                        return
            receive = taken.receive
        if scope["type"] == "websocket":
            in_step = _InStep(receive, send)
            receive, send = in_step.receive, in_step.send
        is_ours = scope["type"] == "http" and not scope["path"].startswith(_OF_SERVE)
        await self._app(scope, receive, _in_own_shape(scope, send) if is_ours else send)


def _in_own_shape(scope: Scope, send: Send) -> Send:
    """Return a `send` that turns Serve's own refusals, plain text without `Retry-After`, into the hub's."""
    is_refused = False

    async def send_shaped(message: Message) -> None:
        nonlocal is_refused
        if message["type"] == "http.response.start" and message["status"] == UnavailableError.status:
            is_refused = any(name.lower() == b"content-type" and value.startswith(b"text/") for name, value in message["headers"])
            if is_refused:
                await error_response(OverloadedError("The hub is busy: its queue is full. Retry in a second."))(
                    scope, _nothing, send
                )
        if not is_refused:
            await send(message)

    return send_shaped


class _InStep:
    """A websocket of which a frame is read only once the one before is answered.

    Serve queues what it reads without end, in the proxy and in the replica, so a client that does not wait for answers could fill
    the memory of both. Every frame of the hub's websockets has one answer.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._answered = asyncio.Event()
        self._answered.set()

    async def receive(self) -> Message:
        await self._answered.wait()
        message = await self._receive()
        if message.get("bytes") is not None:
            self._answered.clear()
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        finally:
            self._answered.set()  # also when the client has left: `receive` tells that


class _Taken:
    """The begin of a request's body, which can be received once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: deque[Message] = deque()

    async def whole_body(self) -> bytes | None:
        """Return the body if it is small and there; None when more is to come or the client has left."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_BODY_S):
                while size <= _LARGEST_BODY:
                    message = await self._receive()
                    self._messages.append(message)
                    size += len(message.get("body", b""))
                    if message["type"] == "http.disconnect":
                        return None
                    if not message.get("more_body", False) and size <= _LARGEST_BODY:
                        return b"".join(message.get("body", b"") for message in self._messages)
        return None

    async def receive(self) -> Message:
        return self._messages.popleft() if self._messages else await self._receive()


async def _pass(socket: ReplicaSocket, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Pass a request on and the answer back; when the client leaves, close the connection, which tells the replica.

    Raises:
        ClientConnectorError, ConnectionTimeoutError: Nobody listens.
    """
    answer = asyncio.create_task(_ask(socket, scope, body, send))
    gone = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Gathered in any case: an error that nobody takes would be reported as such.
        gone.cancel()
        answer.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)
    if not answer.cancelled():
        answer.result()


async def _ask(socket: ReplicaSocket, scope: Scope, body: bytes, send: Send) -> None:
    has_begun = False
    # The body goes in one piece, whatever its frame was; its length is told anew.
    left_out = _REQUEST_HOP | {b"content-length"} if body else _REQUEST_HOP
    sent = [(name.decode("ascii"), value.decode("ascii")) for name, value in scope["headers"] if name not in left_out]
    url = URL("http://hub" + _target(scope).decode("ascii"), encoded=True)
    try:
        async with socket.session.request(
            scope["method"], url, headers=sent, data=body or None, allow_redirects=False
        ) as response:
            has_begun = True
            headers = [(name.lower(), value) for name, value in response.raw_headers if name.lower() not in _ANSWER_HOP]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            async for piece in response.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
    except _NOBODY:
        raise
    except (aiohttp.ClientError, OSError) as error:
        logger.warning("A replica broke off an answer: %r", error)
        if has_begun:
            raise
        refusal = error_response(UnavailableError("The hub is being replaced. Retry in a few seconds."))
        await refusal(scope, _nothing, send)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _is_plain(scope: Scope) -> bool:
    """Whether aiohttp sends it as it came; what is odd goes Serve's way."""
    # With none or two Host headers aiohttp would send one of its own choice, and the hub could not refuse them.
    has_one_host = sum(name == b"host" for name, _ in scope["headers"]) == 1
    return has_one_host and _PLAIN.fullmatch(_target(scope)) is not None and all(value.isascii() for _, value in scope["headers"])


def _target(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path
