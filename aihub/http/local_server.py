"""An ASGI application on a Unix socket in the state folder, for a proxy on the same machine."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

_LONGEST_PATH = 100  # bytes; systems allow 104 to 108
_KEEP_ALIVE_S = 75  # longer than the proxy keeps a connection, so that none is closed which is just being used
_BACKLOG = 2048


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own loop looks ten times a second, for a `Date` header and limits not used here."""
        await self.ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the owner of the process."""
        yield


class LocalServer:
    """Serves one application in the running loop. Only the user of this process can connect.

    Args:
        app: What is served.
        path: Of the socket; one that a dead process left is replaced.
    """

    def __init__(self, app: ASGIApp, path: Path) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._inode = 0
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                # The server in front adds these two.
                server_header=False,
                date_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )

    async def start(self) -> None:
        """Listen, unless the path is too long for a socket."""
        if len(os.fsencode(self._path)) > _LONGEST_PATH:
            logger.warning("%s is too long for a socket; requests take the slower way through Serve.", self._path)
            return
        await asyncio.to_thread(self._bind)
        assert self._listener is not None  # noqa: S101  # _bind() has set it
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        self._task.add_done_callback(self._ended)

    async def close(self, grace_s: float = 15.0) -> None:
        """Take no more requests, and wait for those that are being answered."""
        if self._task is None:
            return
        await asyncio.to_thread(self._unlink)
        self._server.should_exit = True
        self._server.ending.set()
        _, late = await asyncio.wait({self._task}, timeout=grace_s)
        for task in late:
            task.cancel()

    def _bind(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Bound beside and moved into place, so that a path that exists can be connected to.
        beside = self._path.with_suffix(f".{os.getpid()}")
        beside.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(beside))
        self._listener.listen(_BACKLOG)
        self._inode = beside.stat().st_ino
        beside.rename(self._path)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A socket nobody accepts on would let requests wait for ever; closed, it sends them Serve's way."""
        if self._listener is not None:
            self._listener.close()
        if not task.cancelled() and task.exception() is not None:
            logger.error("The server on %s ended; requests go through Serve.", self._path, exc_info=task.exception())

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # else a younger process has put its own there
                self._path.unlink()
