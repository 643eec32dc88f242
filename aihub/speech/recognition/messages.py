"""What the hub and the process of one recogniser say to each other over their socket: a kind, a length, and so many bytes.

The hub sends `OPTIONS` first, then `AUDIO` and at last `FINISH`; each is answered by one `HEARD` or by `FAILED`.
"""

import asyncio
import json
import socket
import struct
from typing import Any

OPTIONS, AUDIO, FINISH = b"o", b"a", b"f"
HEARD, FAILED = b"h", b"x"

_PREFIX = struct.Struct(">cI")
MAX_BODY_BYTES = 8 * 2**20


class BrokenMessageError(Exception):
    """The other side closed, or sent what is no message."""


def encode(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message as bytes."""
    return _PREFIX.pack(kind, len(body)) + body


def encode_json(kind: bytes, value: dict[str, Any]) -> bytes:
    """Return a message whose body is JSON."""
    return encode(kind, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


async def receive_json(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, Any]]:
    """Return the kind and the JSON of the next message.

    Raises:
        BrokenMessageError: There is none.
    """
    try:
        kind, size_bytes = _split(await reader.readexactly(_PREFIX.size))
        body = await reader.readexactly(size_bytes)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise BrokenMessageError("the recogniser is gone") from error
    return kind, json.loads(body)


def receive_blocking(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the kind and the body of the next message.

    Raises:
        BrokenMessageError: There is none.
    """
    kind, size_bytes = _split(_read(connection, _PREFIX.size))
    return kind, _read(connection, size_bytes)


def _split(prefix: bytes) -> tuple[bytes, int]:
    kind, size_bytes = _PREFIX.unpack(prefix)
    if size_bytes > MAX_BODY_BYTES:
        raise BrokenMessageError(f"a message of {size_bytes} bytes")
    return kind, size_bytes


def _read(connection: socket.socket, size_bytes: int) -> bytes:
    data = bytearray(size_bytes)
    rest = memoryview(data)
    while rest:
        count = connection.recv_into(rest)
        if count == 0:
            raise BrokenMessageError("the hub closed")
        rest = rest[count:]
    return bytes(data)
