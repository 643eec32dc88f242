"""A small HTTP server that gives one file and misbehaves on demand, on 127.0.0.1 and in the test's own event loop."""

import asyncio
import hashlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Fault:
    """How one request is answered.

    Attributes:
        status: Instead of 200 or 206.
        headers: Added to the answer or, with None, left out of it.
        stop_after: Bytes of the body after which the connection is cut.
        stall_after: Bytes of the body after which nothing more comes.
        ignores_range: Sends all of the file whatever part was asked for.
        content: Sent instead of the file.
        trickle_s: Pause before each 1,000 bytes.
    """

    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    stop_after: int | None = None
    stall_after: int | None = None
    ignores_range: bool = False
    content: bytes | None = None
    trickle_s: float = 0.0


@dataclass
class Asked:
    target: str
    headers: dict[str, str]
    sent_bytes: int = 0


class FileServer:
    def __init__(self, content: bytes, etag: str | None = '"v1"') -> None:
        self.content = content
        self.etag = etag
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/models/mô-hình.zip"
        self._tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            asked = Asked(head[0].split(" ")[1], headers)
            self.asked.append(asked)
            fault = self.faults.popleft() if self.faults else self.always or Fault()
            await self._send(writer, asked, fault)
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, asked: Asked, fault: Fault) -> None:
        status, headers, body = self._plan(asked, fault)
        for name, value in fault.headers.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        lines = [f"HTTP/1.1 {fault.status or status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        end = min(part for part in (fault.stop_after, fault.stall_after, len(body)) if part is not None)
        step = 1000 if fault.trickle_s else 2**16
        for start in range(0, end, step):
            piece = body[start : min(end, start + step)]
            if headers.get("Transfer-Encoding") == "chunked":
                piece = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
            writer.write(piece)
            await writer.drain()
            asked.sent_bytes = start + step
            if fault.trickle_s:
                await asyncio.sleep(fault.trickle_s)
        if headers.get("Transfer-Encoding") == "chunked" and end == len(body):
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        if fault.stall_after is not None:
            await asyncio.sleep(60)

    def _plan(self, asked: Asked, fault: Fault) -> tuple[int, dict[str, str], bytes]:
        content = self.content if fault.content is None else fault.content
        headers = {"Connection": "close"}
        if self.etag is not None:
            headers["ETag"] = self.etag
        wanted = asked.headers.get("range")
        is_same = asked.headers.get("if-range") in {None, self.etag}
        if wanted and is_same and not fault.ignores_range:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return 416, headers | {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}, b""
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers["Content-Length"] = str(len(content) - start)
            return 206, headers, content[start:]
        return 200, headers | {"Content-Length": str(len(content))}, content
