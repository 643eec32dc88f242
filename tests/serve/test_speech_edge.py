"""Live speech through Serve's proxy, where frames, close codes and refusals pass one server more."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import srt
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.cluster import RunningHub
from tests.speech_data import Utterance, speech_model, utterances, wav_of
from tests.unit.speech.vosk_client import answers, open_stream

MODEL = "vosk:edge-en"
CONFIG = {"sample_rate": 16_000, "model": MODEL}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def said() -> Utterance:
    return next(utterance for utterance in utterances("en") if not utterance.is_noisy)


@pytest.fixture(scope="module")
def url(hub: RunningHub) -> Iterator[str]:
    """Where the hub is, with a speech model put into its state folder."""
    folder: Path = hub.home / "models" / MODEL.partition(":")[2]
    shutil.copytree(speech_model("en"), folder)
    yield hub.url
    shutil.rmtree(folder)


def open_streams(url: str) -> float:
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("aihub_speech_open_streams"):
            return float(line.rpartition(" ")[2])
    raise AssertionError("the gauge of open streams is missing")


async def test_client_of_vosk_server_hears_each_frame_and_the_end(url: str, said: Utterance) -> None:
    async with open_stream(url, additional_headers={"x-request-id": "req_mine"}) as connection:
        found = [answer async for answer in answers(connection, said.samples, CONFIG)]
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        assert connection.response is not None
        assert connection.response.headers.get_all("x-request-id") == ["req_mine"]
        assert connection.close_code == 1000
    assert len(found) == -(-len(said.samples) // 8000) + 1
    assert " ".join(answer["text"] for answer in found if answer.get("text")) == said.transcript


async def test_errors_and_close_codes_pass_the_proxy(url: str, said: Utterance) -> None:
    for message, close_code in (("hello", 1003), (bytes(2 * 2**20), 1009), ('{"config": {"samplerate": 1}}', 1008)):
        async with open_stream(url) as connection:
            await connection.send(message)
            assert json.loads(await connection.recv())["error"]["message"]
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            assert connection.close_code == close_code
    async with open_stream(url) as connection:
        assert [answer async for answer in answers(connection, said.samples, CONFIG)][-1]["text"]


async def test_pages_of_other_sites_are_refused_by_the_proxy_s_way_too(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await open_stream(url, additional_headers={"Origin": "https://evil.example"})
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "foreign_page"


async def test_client_that_vanishes_frees_its_place(url: str, said: Utterance) -> None:
    before = await asyncio.to_thread(open_streams, url)
    connection = await open_stream(url)
    await connection.send(json.dumps({"config": CONFIG}))
    await connection.send(said.samples[:8000])
    await connection.recv()
    assert await asyncio.to_thread(open_streams, url) == before + 1
    connection.transport.abort()
    ends_s = time.monotonic() + 10
    while await asyncio.to_thread(open_streams, url) != before:
        assert time.monotonic() < ends_s
        await asyncio.sleep(0.1)


async def test_openai_s_client_streams_a_file(url: str, said: Utterance) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        assert MODEL in [model.id async for model in client.models.list()]
        stream = await client.audio.transcriptions.create(file=("a.wav", wav_of(said.samples)), model=MODEL, stream=True)
        events = [event async for event in stream]
        refusal = client.audio.transcriptions.create(file=("a.wav", wav_of(said.samples)), model="whisper-1")
        with pytest.raises(openai.NotFoundError, match=MODEL):
            await refusal
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == said.transcript


def test_command_line_writes_subtitles(url: str, said: Utterance, tmp_path: Path) -> None:
    (tmp_path / "said.wav").write_bytes(wav_of(said.samples))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "aihub"), "speech", "transcribe", "said.wav", "--model", MODEL, "--format", "srt"],
        cwd=tmp_path, env=os.environ | {"AIHUB_URL": url}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert " ".join(cue.content for cue in srt.parse(done.stdout)).split() == said.transcript.split()
