"""The official `openai` client transcribes over a real socket, and what it cannot do: leave in the middle."""

import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from aihub.core.settings import Settings
from aihub.speech.fake import FakeSpeech
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts
from tests.unit.speech.audio_files import wav

SCRIPT = ("xin chào", "cửa hàng mở cửa lúc tám giờ")
TEXT = " ".join(SCRIPT)
FILE = ("chào.wav", wav(9.0))


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    server = LiveServer(Parts(speech=FakeSpeech(script=SCRIPT), settings=Settings(body_timeout_s=0.5)))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hub(live: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_transcription_has_text_and_usage(hub: OpenAI) -> None:
    answer = hub.audio.transcriptions.create(file=FILE, model="vosk:vi")
    assert answer.text == TEXT
    assert answer.usage is not None
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 9.0)
    assert answer.languages is not None
    assert answer.languages[0].code == "vi"


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
def test_texts_come_as_texts(hub: OpenAI, response_format: str) -> None:
    answer = hub.audio.transcriptions.create(file=FILE, model="vosk:vi", response_format=response_format)
    assert isinstance(answer, str)
    assert "xin chào" in answer


def test_verbose_transcription_has_words_segments_and_confidences(hub: OpenAI) -> None:
    answer = hub.audio.transcriptions.create(
        file=FILE,
        model="vosk:vi",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="vi",
        prompt="Cửa hàng",
        temperature=0,
        chunking_strategy="auto",
        extra_body={"phrases": ["xin chào", "[unk]"]},
    )
    assert (answer.language, answer.duration) == ("vi", 9.0)
    assert answer.words is not None and answer.segments is not None
    assert [word.word for word in answer.words] == TEXT.split()
    assert answer.words[0].confidence == 0.9
    assert [segment.text for segment in answer.segments] == list(SCRIPT)
    assert answer.segments[0].tokens == []


def test_stream_is_iterated_to_the_whole_text(hub: OpenAI) -> None:
    stream = hub.audio.transcriptions.create(file=FILE, model="vosk:vi", stream=True)
    events = list(stream)
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert "".join(event.delta for event in deltas) == TEXT
    assert deltas[-1].progress == {"done_s": 2.75, "duration_s": 9.0}
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert done.text == TEXT


def test_errors_become_the_client_s_own_exceptions(hub: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="vosk:en, vosk:vi"):
        hub.audio.transcriptions.create(file=FILE, model="whisper-1")
    with pytest.raises(openai.BadRequestError) as bad:
        hub.audio.transcriptions.create(file=FILE, model="auto", temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="Speakers"):
        hub.audio.transcriptions.create(file=FILE, model="auto", response_format="diarized_json")


@pytest.fixture(scope="module")
def slow() -> Iterator[LiveServer]:
    server = LiveServer(Parts(speech=FakeSpeech(script=SCRIPT * 50, delay_s=0.2)))
    server.start()
    yield server
    server.stop()


def until(is_met: Callable[[], bool], within_s: float = 3.0) -> None:
    ends_s = time.monotonic() + within_s
    while not is_met():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


@pytest.mark.parametrize("stream", ["true", "false"])
def test_transcription_stops_when_the_client_leaves(slow: LiveServer, stream: str) -> None:
    url, speech = f"{slow.url}/v1/audio/transcriptions", slow.parts.speech
    asked = len(speech.options)
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.3) as client:
        with client.stream("POST", url, files={"file": ("a.wav", wav(200.0))}, data={"stream": stream}) as answer:
            for _ in answer.iter_raw():
                raise httpx.ReadTimeout("The first event is enough.")
    assert len(speech.options) == asked + 1
    until(lambda: speech.active == 0)  # all of it would take 20 s
