"""Speak, and read what the hub hears. Ctrl-C ends it.

    .venv/bin/pip install sounddevice   # needs PortAudio: apt-get install libportaudio2
    .venv/bin/python examples/microphone.py --model vosk:vi

The protocol is that of vosk-server: a config, then frames with one answer each, then the end.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

KEY = os.environ.get("AIHUB_API_KEY", "unused")
"""A hub without keys minds none."""
SAMPLE_RATE = 16_000
PIECE_FRAMES = SAMPLE_RATE // 5
WAITING_PIECES = 50
"""10 s of speech that the hub has not heard yet; what is spoken beyond is lost."""


def load_sounddevice() -> Any:
    """Return the library that reads the microphone."""
    try:
        import sounddevice
    except ImportError as error:
        raise SystemExit("This example needs sounddevice: .venv/bin/pip install sounddevice") from error
    except OSError as error:
        raise SystemExit("sounddevice needs PortAudio, e.g. apt-get install libportaudio2") from error
    return sounddevice


def show(answer: dict[str, Any]) -> None:
    """Print a final as a line, a partial over the one before."""
    if "error" in answer:
        raise SystemExit(f"The hub says: {answer['error']['message']}")
    if answer.get("text"):
        print(f"\r\033[K{answer['text']}", flush=True)
    elif answer.get("partial"):
        print(f"\r\033[K{answer['partial']}", end="", flush=True)


async def send_speech(hub: ClientConnection, pieces: "asyncio.Queue[bytes]", stopped: asyncio.Event) -> None:
    """Send what is spoken until Ctrl-C, then the end."""
    stopping = asyncio.create_task(stopped.wait())
    while not stopped.is_set():
        coming = asyncio.create_task(pieces.get())
        await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            coming.cancel()
            break
        await hub.send(coming.result())
        show(json.loads(await hub.recv()))
    stopping.cancel()
    await hub.send('{"eof" : 1}')
    show(json.loads(await hub.recv()))


async def listen(url: str, config: dict[str, Any], device: str | None) -> None:
    """Open the microphone and the hub, and pass one to the other."""
    sounddevice = load_sounddevice()
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(WAITING_PIECES)
    loop.add_signal_handler(signal.SIGINT, stopped.set)

    def keep(piece: bytes) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # the hub is slower than the speech
            pieces.put_nowait(piece)

    def heard(samples: Any, _frames: int, _time: Any, status: Any) -> None:
        if status:
            print(f"\nmicrophone: {status}", file=sys.stderr)
        loop.call_soon_threadsafe(keep, bytes(samples))

    async with connect(
        f"{url.replace('http', 'ws', 1)}/v1/audio/stream", additional_headers={"Authorization": f"Bearer {KEY}"}
    ) as hub:
        await hub.send(json.dumps({"config": config | {"sample_rate": SAMPLE_RATE}}))
        try:
            microphone = sounddevice.RawInputStream(
                samplerate=SAMPLE_RATE, blocksize=PIECE_FRAMES, device=device, dtype="int16", channels=1, callback=heard
            )
        except sounddevice.PortAudioError as error:
            raise SystemExit(f"The microphone cannot be opened: {error}") from error
        with microphone:
            print("Speak; Ctrl-C ends it.", file=sys.stderr)
            await send_speech(hub, pieces, stopped)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speak, and read what the hub hears.")
    parser.add_argument("--url", default=os.environ.get("AIHUB_URL", "http://127.0.0.1:8000").rstrip("/"))
    parser.add_argument("--model", default="auto", help="such as vosk:vi")
    parser.add_argument("--device", help="as `python -m sounddevice` lists it")
    arguments = parser.parse_args()
    try:
        asyncio.run(listen(arguments.url, {"model": arguments.model}, arguments.device))
    except (OSError, InvalidHandshake, ConnectionClosed) as error:
        raise SystemExit(f"It did not work: {error}") from error


if __name__ == "__main__":
    main()
