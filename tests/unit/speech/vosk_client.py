"""The protocol of vosk-server as its own clients speak it: send a frame, wait for its answer, send the next."""

import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

FRAME_BYTES = 8000


def open_stream(url: str, **options: Any) -> connect:
    """Connect to a hub given by its HTTP address."""
    return connect(f"{url.replace('http', 'ws', 1)}/v1/audio/stream", **options)


async def answers(
    connection: ClientConnection, samples: bytes, config: dict[str, Any] | None, *, frame_bytes: int = FRAME_BYTES
) -> AsyncIterator[dict[str, Any]]:
    """Yield the answer to each frame, and that to the end."""
    if config is not None:
        await connection.send(json.dumps({"config": config}))
    for begin in range(0, len(samples), frame_bytes):
        await connection.send(samples[begin : begin + frame_bytes])
        yield json.loads(await connection.recv())
    await connection.send('{"eof" : 1}')
    yield json.loads(await connection.recv())


async def transcribe(url: str, samples: bytes, config: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return all answers."""
    async with open_stream(url) as connection:
        return [answer async for answer in answers(connection, samples, config)]
