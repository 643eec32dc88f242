"""Ask a question that was recorded, at the pace of speech, and print transcript, answer and sources as they come.

Needs a running hub (`make serve`) with a speech model (`aihub models download vosk:en`), and a vector store for sources:

    .venv/bin/python examples/ask_by_voice.py question.wav --store vs_...
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

BOUNDARY = "ask-by-voice"
PIECES_PER_S = 10
KEY = os.environ.get("AIHUB_API_KEY", "unused")
"""A hub without keys minds none."""


async def speak(audio: bytes, duration_s: float, options: dict[str, str]) -> AsyncIterator[bytes]:
    """Yield the multipart body: options first, then the recording at the pace at which it was spoken."""
    for name, value in options.items():
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="question"\r\n\r\n'.encode()
    size_bytes = max(1, int(len(audio) / max(duration_s, 0.1) / PIECES_PER_S))
    begin_s = time.monotonic()
    for number, start in enumerate(range(0, len(audio), size_bytes), start=1):
        await asyncio.sleep(max(0.0, begin_s + number / PIECES_PER_S - time.monotonic()))
        yield audio[start : start + size_bytes]
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def show(event: dict[str, Any]) -> None:
    """Print one event of the answer."""
    if "error" in event:
        raise SystemExit(event["error"]["message"])
    if event.get("type") == "transcript.partial":
        print(f"  ... {event['text']}")
    elif event.get("type") == "transcript.done":
        print(f"You asked: {event['text']}\nAnswer: ", end="")
    for choice in event.get("choices", ()):
        print(choice["delta"].get("content") or "", end="", flush=True)
        for citation in choice["delta"].get("annotations") or ():
            print(f"\n  [{citation['filename']}] {citation['quote']}", end="")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="any audio file")
    parser.add_argument("--store", action="append", default=[], help="vector store to answer from; may be given several times")
    parser.add_argument("--language", default="en")
    parser.add_argument("--model", default="auto", help="chat model")
    parser.add_argument("--duration", type=float, default=0.0, help="seconds of the recording; sent at once when left out")
    parser.add_argument("--url", default=os.environ.get("AIHUB_URL", "http://127.0.0.1:8000").rstrip("/"))
    arguments = parser.parse_args()
    options = {"model": arguments.model, "language": arguments.language, "max_tokens": "200"}
    if arguments.store:
        options["retrieval"] = json.dumps({"vector_store_ids": arguments.store})
    body = speak(arguments.recording.read_bytes(), arguments.duration, options)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{arguments.url}/v1/voice/ask", data=body, headers=headers) as response:
            if response.status != 200:
                raise SystemExit((await response.json())["error"]["message"])
            async for line in response.content:
                if line.startswith(b"data: {"):
                    show(json.loads(line.removeprefix(b"data: ")))
    print()


if __name__ == "__main__":
    asyncio.run(main())
