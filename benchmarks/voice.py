"""Spoken questions to a running hub: time from the end of the speech to the first token, with and without early retrieval."""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from openai import OpenAI

from aihub.core.hub_requests import hub_headers
from aihub.speech.models import SpeechModel
from benchmarks import bare_vosk
from benchmarks.servers import running_hub
from benchmarks.speech_data import Utterance, as_wav, corpora, speech_folder
from pipelines.early_retrieval import MIN_CONTENT_WORDS
from pipelines.sentence_index import content_words

PIECE_S = 0.1
SILENCE_S = 0.6
"""Sent after the last word, as a client needs some to notice that the speaker has ended."""
QUESTIONS = 6
DOCUMENTS = 40
_BOUNDARY = "bench-speech"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question: seconds from the last byte of the speech to the first token, and what the search took by itself."""

    first_token_s: float
    search_ms: float
    text: str


def measure(url: str | None, models: Sequence[SpeechModel], rounds: int) -> None:
    """Ask each question both ways in turn, and print both medians, the median of the pairs' difference and the search's time."""
    questions = [
        (model, utterance) for model in models for utterance in _askable(model.language)[: max(1, QUESTIONS // len(models))]
    ]
    if not questions:
        raise SystemExit("No utterance has words enough to search by: set AIHUB_SHARED_DATA.")
    if url is not None:
        asyncio.run(_measure(url, questions, rounds))
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {"AIHUB_HOME": f"{folder}/home", "AIHUB_SPEECH_MODEL": str(speech_folder() or "")}
        with running_hub(Path(folder) / "hub.log", environment) as started:
            asyncio.run(_measure(started, questions, rounds))


def _askable(language: str) -> list[Utterance]:
    """Clean utterances with enough words to search by."""
    return [
        utterance
        for corpus in corpora()
        if corpus.language == language and corpus.name.startswith("utterances")
        for utterance in corpus.utterances
        if len(set(content_words(utterance.transcript))) > MIN_CONTENT_WORDS
    ]


async def _measure(url: str, questions: Sequence[tuple[SpeechModel, Utterance]], rounds: int) -> None:
    from benchmarks.speech import machine_load

    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("AIHUB_API_KEY", "none"), timeout=600)
    chat_model, store = await asyncio.to_thread(_prepare, client, questions)
    early: list[Answered] = []
    late: list[Answered] = []
    async with aiohttp.ClientSession(headers=hub_headers(), timeout=aiohttp.ClientTimeout(total=600)) as session:
        for number in range(rounds + 1):
            for position, (model, utterance) in enumerate(questions):
                # The second of a pair finds the prompt in the engine's cache, so each way is second in turn.
                order = (True, False) if (number + position) % 2 else (False, True)
                for is_early in order:
                    answered = await _ask(session, url, utterance, _options(chat_model, store, model, early=is_early))
                    if number:  # the first round is warm-up
                        (early if is_early else late).append(answered)
    differences = [one.first_token_s - other.first_token_s for one, other in zip(late, early, strict=True)]
    different = sum(one.text != other.text for one, other in zip(late, early, strict=True))
    print(f"\nasked by voice, {len(early)} pairs, {SILENCE_S:g} s of silence at the end, load {machine_load()}")
    print(f"  end of speech to first token, search at the end   {1000 * _median(late):>7.1f} ms")
    print(f"  end of speech to first token, early search        {1000 * _median(early):>7.1f} ms")
    print(f"  saved, median of the pairs                        {1000 * statistics.median(differences):>7.1f} ms")
    search_ms = statistics.median(one.search_ms for one in late)
    print(f"  the search's own time (aim: saved at least)       {search_ms:>7.1f} ms")
    print(f"  transcripts that differ within a pair             {different:>7}", flush=True)


def _median(answers: Sequence[Answered]) -> float:
    return statistics.median(answer.first_token_s for answer in answers)


def _prepare(client: OpenAI, questions: Sequence[tuple[SpeechModel, Utterance]]) -> tuple[str, str]:
    """Store documents that hold the questions' words; return the chat model and the store."""
    store = client.vector_stores.create(name="bench-speech")
    for number in range(DOCUMENTS):
        _, utterance = questions[number % len(questions)]
        text = f"Note {number}. Somebody said: {utterance.transcript}. It was noted on page {number * 7} of the book.".encode()
        client.vector_stores.files.upload(vector_store_id=store.id, file=(f"note-{number}.txt", text))
    while client.vector_stores.retrieve(store.id).file_counts.in_progress:
        time.sleep(0.5)
    return client.models.list().data[0].id, store.id


def _options(chat_model: str, store: str, model: SpeechModel, *, early: bool) -> dict[str, str]:
    retrieval = {"vector_store_ids": [store], "top_k": 3}
    return {
        "model": chat_model,
        "speech_model": model.info.model_id,
        "retrieval": json.dumps(retrieval),
        "max_tokens": "4",
        "early_retrieval": json.dumps(early),
    }


async def _ask(session: aiohttp.ClientSession, url: str, utterance: Utterance, options: dict[str, str]) -> Answered:
    ended_s = 0.0

    async def body() -> AsyncIterator[bytes]:
        nonlocal ended_s
        async for piece in _spoken(utterance, options):
            yield piece
        ended_s = time.perf_counter()

    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    first_token_s, search_ms, text = 0.0, 0.0, ""
    async with session.post(f"{url}/v1/voice/ask", data=body(), headers=headers) as response:
        if response.status != 200:
            raise SystemExit(f"The hub answered {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[len(b"data: ") :])
            if "error" in event:
                raise SystemExit(f"The hub answered {event['error']}")
            text = event["text"] if event.get("type") == "transcript.done" else text
            if not first_token_s and any(choice["delta"].get("content") for choice in event.get("choices", ())):
                first_token_s = time.perf_counter() - ended_s
            timings = event.get("retrieval", {}).get("timings_ms", {})
            search_ms += timings.get("embed", 0.0) + timings.get("search", 0.0)
    return Answered(first_token_s, search_ms, text)


async def _spoken(utterance: Utterance, options: dict[str, str]) -> AsyncIterator[bytes]:
    """Yield the multipart body at the pace of speech."""
    fields = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in options.items()
    )
    file = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="question.wav"\r\n\r\n'
    yield (fields + file).encode()
    silence = bytes(int(SILENCE_S * bare_vosk.SAMPLE_RATE_HZ) * 2)
    wav, size_bytes = as_wav(utterance.samples + silence), int(PIECE_S * bare_vosk.BYTES_PER_S)
    begin_s = time.perf_counter()
    for number, start in enumerate(range(0, len(wav), size_bytes), start=1):
        await asyncio.sleep(max(0.0, begin_s + number * PIECE_S - time.perf_counter()))
        yield wav[start : start + size_bytes]
    yield f"\r\n--{_BOUNDARY}--\r\n".encode()
