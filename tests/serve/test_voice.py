"""A spoken question to a running hub: heard while it arrives, through Serve's proxy, by a real recogniser."""

import asyncio
import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import httpx
import openai
import pytest

from tests.cluster import RunningHub
from tests.speech_data import Utterance, silence, speech_model, utterances, wav_of

BOUNDARY = "spoken"
PIECE_BYTES = 3200  # a tenth of a second
TIMEOUT = aiohttp.ClientTimeout(total=120)


@pytest.fixture(scope="module")
def speech(hub: RunningHub) -> Iterator[str]:
    """A speech model among the hub's; found without a restart."""
    folder = hub.home / "models" / "tiny-en"
    shutil.copytree(speech_model("en"), folder)
    yield "vosk:tiny-en"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def question() -> Utterance:
    return max((spoken for spoken in utterances("en") if not spoken.is_noisy), key=lambda spoken: len(spoken.transcript.split()))


@pytest.fixture(scope="module")
def store(hub: RunningHub, question: Utterance) -> Iterator[str]:
    with openai.OpenAI(base_url=f"{hub.url}/v1", api_key="unused", timeout=120) as client:
        created = client.vector_stores.create(name=f"voice {uuid.uuid4().hex}")
        note = f"Somebody said {question.transcript}. It was noted on page twelve.".encode()
        attached = client.vector_stores.files.upload_and_poll(vector_store_id=created.id, file=("note.txt", note))
        assert attached.status == "completed", attached.last_error
        yield created.id
        client.vector_stores.delete(created.id)


class Speaker:
    """A body that is sent at the pace of speech; it stays open until `stop` is set."""

    def __init__(self, samples: bytes, **options: str) -> None:
        self._options = options
        self._audio = wav_of(samples)
        self.stop = asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        for name, value in self._options.items():
            yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="q.wav"\r\n\r\n'.encode()
        begin_s = time.monotonic()
        for number, start in enumerate(range(0, len(self._audio), PIECE_BYTES), start=1):
            await asyncio.sleep(max(0.0, begin_s + number / 10 - time.monotonic()))
            yield self._audio[start : start + PIECE_BYTES]
        await self.stop.wait()
        yield f"\r\n--{BOUNDARY}--\r\n".encode()


def options(hub: RunningHub, speech: str, store: str, **changes: str) -> dict[str, str]:
    retrieval = json.dumps({"vector_store_ids": [store]})
    return {"model": hub.model, "speech_model": speech, "retrieval": retrieval, "max_tokens": "8", "temperature": "0"} | changes


async def next_event(response: aiohttp.ClientResponse) -> dict[str, Any] | None:
    """The next JSON object of the stream; None at its end."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            return event
    return None


async def test_transcript_begins_before_the_speaker_has_ended_and_the_answer_has_sources(
    hub: RunningHub, speech: str, store: str, question: Utterance
) -> None:
    speaker = Speaker(question.samples + silence(1), **options(hub, speech, store))
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.post(f"{hub.url}/v1/voice/ask", data=speaker.body(), headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        first = await asyncio.wait_for(next_event(response), 30)
        assert not speaker.stop.is_set()
        assert first is not None
        assert first["type"].startswith("transcript.")
        speaker.stop.set()
        events = [event async for event in _rest(response)]
    done = next(event for event in events if event.get("type") == "transcript.done")
    assert done["text"] == question.transcript
    report = next(event["retrieval"] for event in events if "retrieval" in event)
    assert report["search_query"] == question.transcript
    assert report["chunks"][0]["filename"] == "note.txt"


async def _rest(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    while (event := await next_event(response)) is not None:
        yield event


def test_answer_is_the_same_with_and_without_early_retrieval(
    hub: RunningHub, speech: str, store: str, question: Utterance
) -> None:
    answers = []
    for early in ("true", "false"):
        fields = options(hub, speech, store, early_retrieval=early, stream="false")
        files = {"file": ("q.wav", wav_of(question.samples + silence(1)), "audio/wav")}
        answer = httpx.post(f"{hub.url}/v1/voice/ask", data=fields, files=files, timeout=120)
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
    assert answers[0]["transcript"] == answers[1]["transcript"]
    assert answers[0]["retrieval"]["chunks"] == answers[1]["retrieval"]["chunks"]
    assert answers[0]["choices"][0]["message"] == answers[1]["choices"][0]["message"]


def test_silence_is_no_question(hub: RunningHub, speech: str, store: str) -> None:
    files = {"file": ("q.wav", wav_of(silence(2)), "audio/wav")}
    answer = httpx.post(f"{hub.url}/v1/voice/ask", data=options(hub, speech, store), files=files, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_speech")


def test_file_that_is_no_audio_is_a_400_and_the_next_question_is_answered(
    hub: RunningHub, speech: str, store: str, question: Utterance
) -> None:
    fields = options(hub, speech, store, stream="false")
    answer = httpx.post(f"{hub.url}/v1/voice/ask", data=fields, files={"file": ("q.wav", b"no audio" * 1000)}, timeout=60)
    assert answer.status_code in {400, 415}, answer.text
    files = {"file": ("q.wav", wav_of(question.samples), "audio/wav")}
    assert httpx.post(f"{hub.url}/v1/voice/ask", data=fields, files=files, timeout=60).status_code == 200
