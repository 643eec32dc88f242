"""The real recogniser behind the real edge: what OpenAI's and vosk-server's clients hear of real speech."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from openai import AsyncOpenAI

from aihub.http.app import create_app
from aihub.speech.engine import SpeechPlaces
from tests.contract.test_speech import engine_of
from tests.speech_data import Utterance, speech_model, utterances, wav_of
from tests.unit.http.services import Parts
from tests.unit.speech.vosk_client import answers, open_stream

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """Where the API is, on an engine with both small models."""
    places = SpeechPlaces(parallel_parts=2, max_streams=3)
    async with engine_of(speech_model("vi").parent, tmp_path, places) as engine:
        app = create_app(replace(Parts().services(), speech=engine))
        server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  # uvicorn sets no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        await task


async def model_of(url: str, language: str) -> str:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as hub:
        listed = [model.id async for model in hub.models.list() if model.owned_by == "vosk"]
    return next(model for model in listed if model.endswith(language))


@pytest.fixture
def said() -> Utterance:
    return next(utterance for utterance in utterances("vi") if not utterance.is_noisy)


async def test_openai_s_client_gets_the_words_of_a_vietnamese_file(url: str, said: Utterance) -> None:
    model = await model_of(url, "vi")
    file = ("câu.wav", wav_of(said.samples))
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as hub:
        answer = await hub.audio.transcriptions.create(
            file=file, model=model, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        stream = await hub.audio.transcriptions.create(file=file, model="auto", stream=True)
        events = [event async for event in stream]
    assert (answer.text, answer.language) == (said.transcript, "vi")
    assert answer.duration == pytest.approx(said.duration_s, abs=0.01)
    assert [word.word for word in answer.words or ()] == said.transcript.split()
    assert "".join(event.delta for event in events[:-1] if event.type == "transcript.text.delta") == said.transcript


async def test_vosk_server_s_client_hears_the_same_while_it_is_spoken(url: str, said: Utterance) -> None:
    config = {"sample_rate": 16_000, "model": await model_of(url, "vi")}
    async with open_stream(url) as connection:
        found = [answer async for answer in answers(connection, said.samples, config)]
    assert len(found) == -(-len(said.samples) // 8000) + 1
    assert " ".join(answer["text"] for answer in found if answer.get("text")) == said.transcript
    partials = [answer["partial"] for answer in found if answer.get("partial")]
    assert partials
    assert said.transcript.startswith(partials[0])


def texts_of(found: list[dict[str, Any]]) -> str:
    return " ".join(answer["text"] for answer in found if answer.get("text"))


@pytest.mark.parametrize("language", ["en", "vi"])
async def test_vosk_server_s_client_that_names_no_model_is_heard_in_its_language(url: str, language: str) -> None:
    for utterance in [utterance for utterance in utterances(language) if not utterance.is_noisy][:4]:
        async with open_stream(url) as connection:
            found = [answer async for answer in answers(connection, utterance.samples, {"sample_rate": 16_000})]
        assert texts_of(found) == utterance.transcript
        assert len(found) == -(-len(utterance.samples) // 8000) + 1


async def test_clients_at_once_that_name_no_model_are_heard_each_in_its_language(url: str) -> None:
    said = [next(utterance for utterance in utterances(language) if not utterance.is_noisy) for language in ("en", "vi", "en")]

    async def hear(utterance: Utterance) -> str:
        async with open_stream(url) as connection:
            return texts_of([answer async for answer in answers(connection, utterance.samples, {"sample_rate": 16_000})])

    assert await asyncio.gather(*map(hear, said)) == [utterance.transcript for utterance in said]


async def test_reset_before_the_decision_decides_and_the_next_words_come_at_once(url: str, said: Utterance) -> None:
    def frames(samples: bytes) -> list[bytes]:
        return [samples[start : start + 8000] for start in range(0, len(samples), 8000)]

    async with open_stream(url) as connection:
        await connection.send('{"config": {"sample_rate": 16000}}')
        before = []
        for frame in [*frames(said.samples[:40_000]), '{"reset": 1}']:
            await connection.send(frame)
            before.append(json.loads(await connection.recv()))
        after = []
        for frame in frames(said.samples):
            await connection.send(frame)
            after.append(json.loads(await connection.recv()))
        await connection.send('{"eof": 1}')
        after.append(json.loads(await connection.recv()))
    assert before[:-1] == [{"partial": ""}] * (len(before) - 1)
    assert before[-1]["text"]
    assert any(answer.get("partial") for answer in after[:8])
    assert texts_of(after) == said.transcript
    words = [word for answer in after for word in answer.get("result", ())]
    assert words[0]["start"] >= 40_000 / 32_000


async def test_streams_at_once_hear_each_their_own(url: str) -> None:
    config = {"sample_rate": 16_000, "model": await model_of(url, "en")}
    several = [utterance for utterance in utterances("en") if not utterance.is_noisy][:3]

    async def hear(utterance: Utterance) -> str:
        async with open_stream(url) as connection:
            found = [answer async for answer in answers(connection, utterance.samples, config, frame_bytes=3999)]
        return " ".join(answer["text"] for answer in found if answer.get("text"))

    assert await asyncio.gather(*map(hear, several)) == [utterance.transcript for utterance in several]


async def test_file_that_is_no_audio_is_refused_and_the_next_is_heard(url: str, said: Utterance) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as hub:
        with pytest.raises(Exception, match="40[0-9]|415|422") as refused:
            await hub.audio.transcriptions.create(file=("a.wav", b"<html>no audio</html>" * 100), model="auto")
        assert 400 <= refused.value.status_code < 500
        answer = await hub.audio.transcriptions.create(file=("a.wav", wav_of(said.samples)), model=await model_of(url, "vi"))
    assert answer.text == said.transcript


@pytest.mark.parametrize("as_container", [False, True])
async def test_example_prints_what_was_said(url: str, said: Utterance, tmp_path: Path, as_container: bool) -> None:
    file = tmp_path / "câu.wav"
    file.write_bytes(wav_of(said.samples))
    if as_container:
        import av

        with av.open(str(file)) as source, av.open(str(tmp_path / "câu.flac"), "w") as target:
            stream = target.add_stream("flac", rate=16_000)
            for frame in source.decode(audio=0):
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
        file = tmp_path / "câu.flac"
    program = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "examples" / "stream_file.py"), str(file), "--url", url, "--speed", "20",
        "--model", await model_of(url, "vi"), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, _ = await program.communicate()
    assert (program.returncode, " ".join(printed.decode().split())) == (0, said.transcript)
