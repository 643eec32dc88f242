"""Stream a file to the hub as if it were spoken now, and print what is heard.

    .venv/bin/python examples/stream_file.py speech.wav --model vosk:vi

WAV of 16 bits and one channel is sent at the speed of speech; any other file is sent as it is, for the hub to decode, as fast as
it is heard. The protocol is that of vosk-server: a config, then frames with one answer each, then the end.
"""

import argparse
import asyncio
import json
import os
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

KEY = os.environ.get("AIHUB_API_KEY", "unused")
"""A hub without keys minds none."""
PIECE_S = 0.2
PIECE_BYTES = 16_384


def read_samples(path: Path) -> tuple[int, Iterator[bytes]] | None:
    """Return the sample rate and the pieces of a plain WAV file; None for any other."""
    try:
        file = wave.open(str(path))  # read piece by piece below, to its end
    except (wave.Error, EOFError):
        return None
    if file.getsampwidth() != 2 or file.getnchannels() != 1 or not file.getframerate():
        file.close()
        return None

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.readframes(int(file.getframerate() * PIECE_S)):
                yield piece

    return file.getframerate(), pieces()


def read_file(path: Path) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def show(answer: dict[str, Any]) -> None:
    """Print a final as a line; a partial is overwritten by what comes next, and left out where nobody watches."""
    if "error" in answer:
        raise SystemExit(f"The hub says: {answer['error']['message']}")
    watched = sys.stdout.isatty()
    if answer.get("text"):
        print(("\r\033[K" if watched else "") + answer["text"], flush=True)
    elif watched and answer.get("partial"):
        print(f"\r\033[K{answer['partial']}", end="", flush=True)


async def stream_file(url: str, path: Path, config: dict[str, Any], speed: float) -> None:
    """Send a file in pieces and show each answer."""
    plain = read_samples(path)
    if plain is None:
        config, pieces, pause_s = config | {"encoding": "container"}, read_file(path), 0.0
    else:
        config, pieces, pause_s = config | {"sample_rate": plain[0]}, plain[1], PIECE_S / speed
    async with connect(
        f"{url.replace('http', 'ws', 1)}/v1/audio/stream", additional_headers={"Authorization": f"Bearer {KEY}"}
    ) as hub:
        await hub.send(json.dumps({"config": config}))
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        for piece in pieces:
            await hub.send(piece)
            show(json.loads(await hub.recv()))
            next_s += pause_s
            await asyncio.sleep(max(next_s - loop.time(), 0.0))
        await hub.send('{"eof" : 1}')
        show(json.loads(await hub.recv()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Stream a file to the hub as if it were spoken now.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--url", default=os.environ.get("AIHUB_URL", "http://127.0.0.1:8000").rstrip("/"))
    parser.add_argument("--model", default="auto", help="such as vosk:vi")
    parser.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast as spoken")
    arguments = parser.parse_args()
    if arguments.speed <= 0:
        parser.error("--speed must be above 0")
    try:
        asyncio.run(stream_file(arguments.url, arguments.file, {"model": arguments.model}, arguments.speed))
    except (OSError, InvalidHandshake, ConnectionClosed) as error:
        raise SystemExit(f"It did not work: {error}") from error


if __name__ == "__main__":
    main()
