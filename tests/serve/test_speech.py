"""Speech on the running hub: a model that is put there while it runs, files by handle and HTTP, and a death in mid-stream."""

import asyncio
import base64
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from aihub.core.errors import HubError, ModelUnavailableError, NotFoundError, UnavailableError
from aihub.core.principal import Principal
from aihub.speech.service import LiveOptions, RecognitionOptions, SpeechService
from deployments.client import HubClient
from deployments.handles import AppConnection
from deployments.service_client import service_client
from tests.cluster import RunningHub, title
from tests.speech_data import Utterance, speech_model, utterances, wav_of

MODEL = "vosk:spoken-en"
WAIT_S = 60.0

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def said() -> Utterance:
    return next(utterance for utterance in utterances("en") if not utterance.is_noisy)


@pytest.fixture(scope="module")
def installed(hub: RunningHub, ray_cluster: None) -> Iterator[Path]:
    """A model that is put into the state folder of the running hub."""
    folder = hub.home / "models" / MODEL.partition(":")[2]
    with pytest.raises(ModelUnavailableError, match="aihub models download vosk:vi"):
        asyncio.run(HubClient().transcribe(wav_of(bytes(32_000))))
    shutil.copytree(speech_model("en"), folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def speech() -> AsyncIterator[SpeechService]:
    connection = AppConnection("speech", "The speech service")
    connection.start()
    await connection.wait_until_up(WAIT_S)
    yield service_client(SpeechService, connection)
    await connection.close()


async def test_model_is_heard_as_soon_as_it_is_there(installed: Path, said: Utterance) -> None:
    transcript = await HubClient().transcribe(wav_of(said.samples))
    assert (transcript["text"], transcript["model_id"], transcript["language"]) == (said.transcript, MODEL, "en")
    assert [word["text"] for segment in transcript["segments"] for word in segment["words"]] == said.transcript.split()


def test_file_is_transcribed_over_http(hub: RunningHub, installed: Path, said: Utterance) -> None:
    answer = httpx.post(
        f"{hub.url}/v1/audio/transcriptions",
        files={"file": ("said.wav", wav_of(said.samples))},
        data={"model": MODEL},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["text"]) == (200, said.transcript)


def test_recording_of_ten_megabytes_passes_every_hop(
    hub: RunningHub, installed: Path, said: Utterance, client: openai.OpenAI
) -> None:
    recording = wav_of(said.samples + bytes(10 * 2**20))  # silence, which costs the recogniser little
    assert client.audio.transcriptions.create(file=("long.wav", recording), model=MODEL).text == said.transcript
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(recording).decode(), "format": "wav"}}
    question = {"role": "user", "content": [{"type": "text", "text": "Repeat it."}, part]}
    answer = client.chat.completions.create(model=hub.model, max_tokens=4, messages=[question])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens < 200


async def test_bad_audio_is_the_callers_fault(installed: Path) -> None:
    with pytest.raises(HubError) as error:
        await HubClient().transcribe(b"no audio at all")
    assert error.value.status == 400


def test_health_and_metrics_have_the_speech_part(hub: RunningHub, installed: Path) -> None:
    health = httpx.get(f"{hub.url}/health", timeout=10).json()
    assert health["parts"]["speech"]["status"] == "ok"
    assert "aihub_speech_audio_seconds_total" in httpx.get(f"{hub.url}/metrics", timeout=10).text


async def test_killed_replica_ends_its_streams_and_is_replaced(
    hub: RunningHub, installed: Path, said: Utterance, speech: SpeechService
) -> None:
    stream = await speech.open_stream(Principal(), LiveOptions(recognition=RecognitionOptions(model=MODEL)))
    await speech.feed(Principal(), stream.stream_id, said.samples)
    (replica,) = hub.processes("ServeReplica:speech")
    launchers = [child for child in replica.children() if "aihub.speech.recognition.launcher" in title(child)]
    assert launchers
    replica.kill()
    with pytest.raises((NotFoundError, UnavailableError)):
        await speech.feed(Principal(), stream.stream_id, said.samples)
    deadline_s = time.monotonic() + WAIT_S
    text = ""
    while not text and time.monotonic() < deadline_s:
        try:
            text = (await HubClient().transcribe(wav_of(said.samples)))["text"]
        except UnavailableError:
            await asyncio.sleep(0.5)
    assert text == said.transcript
    with pytest.raises(NotFoundError, match="Open a new one"):
        await speech.feed(Principal(), stream.stream_id, said.samples)
    assert not any(launcher.is_running() for launcher in launchers)
