"""`POST /v1/audio/transcriptions` over the fake: shapes, refusals and limits."""

import asyncio
import json
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from aihub.core.errors import InvalidRequestError, OverloadedError, UnavailableError
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from aihub.core.sse import events, payload
from aihub.speech.fake import FakeSpeech, spoken
from aihub.speech.service import RecognitionOptions, TranscriptionEvent
from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts
from tests.unit.speech.audio_files import wav

PATH = "/v1/audio/transcriptions"
SCRIPT = ("xin chào", "cửa hàng mở cửa lúc tám giờ")
TEXT = " ".join(SCRIPT)
FILE = {"file": ("chào.wav", wav(9.0), "audio/wav")}


@pytest.fixture
def parts() -> Parts:
    return Parts(speech=FakeSpeech(script=SCRIPT), settings=Settings(max_audio_bytes=1_000_000, body_timeout_s=0.5))


async def post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(PATH, files=FILE, data={"model": "vosk:vi"} | fields)


async def assert_still_good(client: httpx.AsyncClient) -> None:
    assert (await post(client)).json()["text"] == TEXT


async def test_json_has_text_language_and_seconds(client: httpx.AsyncClient) -> None:
    answer = await post(client)
    assert answer.json() == {
        "text": TEXT,
        "languages": [{"code": "vi"}],
        "usage": {"type": "duration", "seconds": 9.0},
        "model": "vosk:vi",
    }


async def test_text_and_subtitles_are_utf8(client: httpx.AsyncClient) -> None:
    text = await post(client, response_format="text")
    assert (text.text, text.headers["content-type"]) == (f"{TEXT}\n", "text/plain; charset=utf-8")
    subtitles = await post(client, response_format="srt")
    assert subtitles.text.startswith("1\n00:00:00,000 --> 00:00:00,500\nxin chào\n\n2\n00:00:01,000 --> ")
    vtt = await post(client, response_format="vtt")
    assert vtt.text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nxin chào\n\n")
    assert vtt.headers["content-type"] == "text/vtt; charset=utf-8"


async def test_verbose_json_lists_segments_unless_words_are_asked_for(client: httpx.AsyncClient) -> None:
    by_default = (await post(client, response_format="verbose_json")).json()
    assert (by_default["task"], by_default["language"], by_default["duration"]) == ("transcribe", "vi", 9.0)
    assert "words" not in by_default
    assert [(item["id"], item["text"], item["confidence"]) for item in by_default["segments"]] == [
        (0, "xin chào", 0.9),
        (1, SCRIPT[1], 0.9),
    ]
    assert by_default["segments"][1]["avg_logprob"] == pytest.approx(-0.10536, abs=1e-4)
    words = (await post(client, response_format="verbose_json", **{"timestamp_granularities[]": "word"})).json()
    assert "segments" not in words
    assert words["words"][1] == {"word": "chào", "start": 0.25, "end": 0.5, "confidence": 0.9}
    both = await post(client, response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]})
    assert {"words", "segments"} < set(both.json())


async def test_model_and_language_are_optional(client: httpx.AsyncClient, parts: Parts) -> None:
    answer = await client.post(PATH, files=FILE)
    assert answer.json()["model"] == "vosk:en"
    answer = await client.post(PATH, files=FILE, data={"language": "vi-VN", "prompt": "", "temperature": "0.2"})
    assert answer.json()["model"] == "vosk:vi"
    assert parts.speech.options[-1] == RecognitionOptions("auto", "vi")


@pytest.mark.parametrize(
    "fields",
    [
        {"phrases[]": ["xin chào", "[unk]"]},
        {"phrases": ["xin chào", "[unk]"]},
        {"phrases": '["xin  chào ", "[unk]"]'},
        {"phrases": unicodedata.normalize("NFD", '["xin chào", "[unk]"]')},
    ],
)
async def test_phrases_come_as_repeated_fields_or_as_one_json_list(
    client: httpx.AsyncClient, parts: Parts, fields: dict[str, Any]
) -> None:
    assert (await post(client, **fields)).status_code == 200
    assert parts.speech.options[-1] == RecognitionOptions("vosk:vi", None, ("xin chào", "[unk]"))


async def test_cutting_by_the_server_is_taken_as_it_always_is(client: httpx.AsyncClient) -> None:
    assert (await post(client, chunking_strategy="auto")).status_code == 200
    assert (await post(client, **{"chunking_strategy[type]": "server_vad"})).status_code == 200
    refused = await post(client, **{"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"})
    assert_refused(refused, param="chunking_strategy.threshold", code="unsupported_parameter")
    assert (await post(client, chunking_strategy='{"type": "server_vad"}')).status_code == 200
    refused = await post(client, chunking_strategy='{"type": "server_vad", "prefix_padding_ms": 300}')
    error = assert_refused(refused, param="chunking_strategy.prefix_padding_ms", code="unsupported_parameter")
    assert "tuned" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "2"}, "temperature"),
        ({"language": "vietnamese"}, "language"),
        ({"language": "v1"}, "language"),
        ({"stream": "maybe"}, "stream"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"model": "x" * 300}, "model"),
        ({"model": ["vosk:vi", "vosk:en"]}, "model"),
        ({"temprature": "0"}, "temprature"),
        ({"Model": "vosk:vi"}, "Model"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities.0"),
        ({"phrases": '["a", 1]'}, "phrases"),
        ({"phrases": '["a"'}, "phrases"),
        ({"phrases": "[" * 20_000}, "phrases"),
        ({"chunking_strategy": '{"type": "server_vad"'}, "chunking_strategy"),
        ({"chunking_strategy": "{" * 20_000}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "server_vad", "speed": 1}'}, "chunking_strategy.speed"),
        ({"phrases": "x" * 201}, "phrases.0"),
        ({"include[]": "logprobs"}, "include"),
        ({"keywords[]": "giờ"}, "keywords"),
        ({"languages[]": ["vi", "en"]}, "languages"),
        ({"known_speaker_names[]": "Lan"}, "known_speaker_names"),
        ({"timestamp_granularities[]": "word"}, None),
        ({"stream": "true", "response_format": "srt"}, None),
    ],
)
async def test_wrong_field_is_refused_by_name(client: httpx.AsyncClient, fields: dict[str, Any], param: str | None) -> None:
    error = assert_refused(await post(client, **fields), param=param)
    assert param is None or error["param"] == param
    await assert_still_good(client)


async def test_unknown_model_is_404_and_names_those_installed(client: httpx.AsyncClient) -> None:
    for name in ("whisper-1", "vosk:de", "../../etc"):
        error = assert_refused(await post(client, model=name), 404, param="model", code="model_not_found")
        assert "vosk:en, vosk:vi" in error["message"]


async def test_no_model_at_all_is_503_and_says_how_to_get_one(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.speech.models_here = ()
    refused = await post(client, model="auto")
    assert "aihub models download vosk:vi" in assert_refused(refused, 503, code="model_unavailable")["message"]
    assert refused.headers["retry-after"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("The file is no audio.", param="file", code="invalid_audio"), 400),
        (OverloadedError("All places are taken."), 503),
        (UnavailableError("The recogniser died. Send the file again."), 503),
    ],
)
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_refusal_of_the_service_is_an_http_status_streamed_or_not(
    client: httpx.AsyncClient, parts: Parts, error: InvalidRequestError, status: int, stream: str
) -> None:
    parts.speech.error = error
    assert_refused(await post(client, stream=stream), status, code=error.code)
    parts.speech.error = None
    await assert_still_good(client)


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        (lambda client: client.post(PATH, data={"model": "vosk:vi"}, files={"model2": (None, "x")}), 400, "invalid_request"),
        (lambda client: client.post(PATH, files={"file": (None, "no filename")}), 400, "invalid_request"),
        (lambda client: client.post(PATH, files={"file": ("leer.wav", b"")}), 400, "empty_file"),
        (lambda client: client.post(PATH, files={"audio": ("a.wav", wav(1.0))}), 400, "invalid_request"),
        (lambda client: client.post(PATH, files=[("file", ("a", b"a")), ("file", ("b", b"b"))]), 400, "invalid_request"),
        (lambda client: client.post(PATH, files={"file": ("a.wav", bytes(1_000_001))}), 413, "payload_too_large"),
        (lambda client: client.post(PATH, json={"file": "a"}), 415, "unsupported_media_type"),
        (lambda client: client.post(PATH), 415, "unsupported_media_type"),
        (
            lambda client: client.post(PATH, content=b"--a\r\n", headers={"content-type": "multipart/form-data; boundary=b"}),
            400,
            "invalid_request",
        ),
        (
            lambda client: client.post(PATH, content=b"--a\r\n", headers={"content-type": "multipart/form-data"}),
            400,
            "invalid_request",
        ),
        (lambda client: client.post(PATH, files=FILE, data={"prompt": "x" * 40_000}), 413, "payload_too_large"),
        (lambda client: client.post(PATH, files=FILE, data={"phrases[]": ["a"] * 300}), 413, "payload_too_large"),
    ],
)
async def test_bad_body_is_refused_in_openai_s_shape(
    client: httpx.AsyncClient, send: Callable[[httpx.AsyncClient], Any], status: int, code: str
) -> None:
    assert_refused(await send(client), status, code=code)
    await assert_still_good(client)


async def test_body_that_stalls_is_408(client: httpx.AsyncClient) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nabc'
        await asyncio.sleep(30)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert_refused(await client.post(PATH, content=stalled(), headers=headers), 408)
    await assert_still_good(client)


async def stream_events(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    answer = await post(client, stream="true", **fields)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [found for event in events(answer.text) if (found := payload(event)) is not None]


async def test_stream_gives_deltas_with_progress_and_the_whole_at_the_end(client: httpx.AsyncClient) -> None:
    first, *deltas, done = await stream_events(client)
    assert (first["delta"], first["model"], first["language"]) == ("", "vosk:vi", "vi")
    assert [delta["delta"] for delta in deltas] == ["xin chào", f" {SCRIPT[1]}"]
    assert [delta["progress"] for delta in deltas] == [
        {"done_s": 0.5, "duration_s": 9.0},
        {"done_s": 2.75, "duration_s": 9.0},
    ]
    assert deltas[0]["segment"] == {"id": 0, "start": 0.0, "end": 0.5, "text": "xin chào", "confidence": 0.9}
    assert (done["type"], done["text"]) == ("transcript.text.done", TEXT)
    assert done["usage"] == {"type": "duration", "seconds": 9.0}


async def test_verbose_stream_has_words_in_segments_and_all_at_the_end(client: httpx.AsyncClient) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    *_, delta, done = await stream_events(client, **fields)
    assert delta["segment"]["words"][0] == {"word": "cửa", "start": 1.0, "end": 1.25, "confidence": 0.9}
    whole = (await post(client, **fields)).json()
    assert {key: value for key, value in done.items() if key != "type"} == whole


async def test_stream_of_silence_ends_with_an_empty_text(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.speech = FakeSpeech(script=())
    client._transport.app.state.services = parts.services()
    first, done = await stream_events(client)
    assert (first["delta"], done["text"]) == ("", "")


async def test_failure_in_the_middle_of_a_stream_is_an_error_event(client: httpx.AsyncClient, parts: Parts) -> None:
    def hear(_: bytes) -> Any:
        yield spoken("xin chào")
        raise UnavailableError("The recogniser died. Send the file again.")

    parts.speech = FakeSpeech(hear=hear)
    client._transport.app.state.services = parts.services()
    *_, error = await stream_events(client)
    assert error["error"]["code"] == "service_unavailable"
    assert parts.speech.active == 0


async def test_slow_recogniser_keeps_the_stream_alive(
    client: httpx.AsyncClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aihub.speech.routes.KEEP_ALIVE_S", 0.02)
    parts.speech = FakeSpeech(script=SCRIPT, delay_s=0.1)
    client._transport.app.state.services = parts.services()
    answer = await post(client, stream="true")
    assert ": still running" in answer.text
    assert json.loads(answer.text.strip().rpartition("data: ")[2])["text"] == TEXT


async def test_wait_before_the_first_event_keeps_the_stream_alive(
    client: httpx.AsyncClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aihub.speech.routes.KEEP_ALIVE_S", 0.02)

    class Waiting(FakeSpeech):
        async def stream_transcription(
            self, principal: Principal, audio: bytes, options: RecognitionOptions
        ) -> AsyncGenerator[TranscriptionEvent, None]:
            await asyncio.sleep(0.1)
            async for event in super().stream_transcription(principal, audio, options):
                yield event

    parts.speech = Waiting(script=SCRIPT)
    client._transport.app.state.services = parts.services()
    answer = await post(client, stream="true")
    assert answer.text.startswith(": still running\n\n")
    assert json.loads(answer.text.strip().rpartition("data: ")[2])["text"] == TEXT
    parts.speech.error = UnavailableError("The recogniser died. Send the file again.")
    late = await post(client, stream="true")
    assert late.status_code == 200
    assert '"code": "service_unavailable"' in late.text


async def test_transcription_longer_than_its_time_is_504(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.speech = FakeSpeech(script=SCRIPT, delay_s=5.0)
    parts.settings = Settings(transcription_timeout_s=0.05)
    client._transport.app.state.services = parts.services()
    error = assert_refused(await post(client), 504)
    assert "AIHUB_TRANSCRIPTION_TIMEOUT_S" in error["message"]
    assert parts.speech.active == 0


async def test_concurrent_files_are_answered_each_with_its_own(client: httpx.AsyncClient) -> None:
    lengths = (0.5, 9.0, 1.5, 2.0)
    answers = await asyncio.gather(
        *(client.post(PATH, files={"file": ("a.wav", wav(length))}, data={"model": "vosk:vi"}) for length in lengths)
    )
    assert [answer.json()["usage"]["seconds"] for answer in answers] == list(lengths)
    assert answers[0].json()["text"] == "xin chào"
