"""`/v1/audio/stream` on a real socket, by the protocol of vosk-server's own clients."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from aihub.core.errors import InternalError, InvalidRequestError, UnavailableError, UnsupportedMediaError
from aihub.core.settings import Settings
from aihub.speech.fake import FakeSpeech
from aihub.speech.live_session import MAX_FRAME_BYTES
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts
from tests.unit.speech.vosk_client import answers, open_stream, transcribe

SCRIPT = ("xin chào", "cửa hàng mở cửa lúc tám giờ")
CONFIG = {"sample_rate": 16000, "model": "vosk:vi"}
SECOND = bytes(32_000)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    server = LiveServer(Parts(speech=FakeSpeech(script=SCRIPT), settings=Settings(live_idle_timeout_s=0.5, live_timeout_s=2.0)))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def speech(live: LiveServer) -> Iterator[FakeSpeech]:
    yield live.parts.speech
    live.parts.speech.error = None


async def assert_still_good(live: LiveServer) -> None:
    results = await transcribe(live.url, SECOND * 9, CONFIG)
    assert " ".join(result["text"] for result in results if result.get("text")) == " ".join(SCRIPT)
    await until(lambda: not live.parts.speech.streams)


async def until(is_met: Callable[[], bool], within_s: float = 3.0) -> None:
    ends_s = time.monotonic() + within_s
    while not is_met():
        assert time.monotonic() < ends_s
        await asyncio.sleep(0.01)


async def end_of(connection: ClientConnection) -> tuple[dict[str, Any], int, str]:
    """Return the error object, the close code and its reason."""
    error = json.loads(await connection.recv())["error"]
    with pytest.raises(ConnectionClosed):
        await connection.recv()
    assert connection.close_code is not None
    return error, connection.close_code, connection.close_reason or ""


async def test_vosk_server_s_client_gets_an_answer_per_frame_and_the_last_final(live: LiveServer, speech: FakeSpeech) -> None:
    results = await transcribe(live.url, SECOND * 3, CONFIG)
    assert len(results) == 3 * 32_000 // 8000 + 1
    assert [result["partial"] for result in results[:3]] == ["xin", "xin chào", "xin chào"]
    assert results[3] == {
        "result": [
            {"conf": 0.9, "end": 0.25, "start": 0.0, "word": "xin"},
            {"conf": 0.9, "end": 0.5, "start": 0.25, "word": "chào"},
        ],
        "text": "xin chào",
    }
    assert results[-1]["text"] == SCRIPT[1]
    await until(lambda: not speech.streams)


async def test_connection_closes_normally_after_eof(live: LiveServer) -> None:
    async with open_stream(live.url) as connection:
        assert [answer async for answer in answers(connection, b"", None)] == [{"text": ""}]
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        assert connection.close_code == 1000
        with pytest.raises(ConnectionClosed):
            await connection.send(SECOND)
    await assert_still_good(live)


async def test_without_config_the_defaults_are_those_of_vosk_server(live: LiveServer, speech: FakeSpeech) -> None:
    results = await transcribe(live.url, bytes(64_000))  # four seconds of 8 kHz
    assert results[:5] == [{"partial": ""}] * 5  # of no model: the language is not known yet
    assert " ".join(result["text"] for result in results if result.get("text")) == " ".join(SCRIPT)
    options = speech.options[-1]
    assert (options.sample_rate, options.words, options.max_alternatives) == (8000, True, 0)


async def test_config_reaches_the_recogniser_and_a_second_one_adds_to_the_first(live: LiveServer, speech: FakeSpeech) -> None:
    async with open_stream(live.url) as connection:
        first = {"sample_rate": 44100.0, "words": 0, "phrase_list": ["xin chào", "[unk]"], "max_alternatives": 2}
        await connection.send(json.dumps({"config": first}))
        second = {"partial_words": True, "language": "vi"}
        assert [answer async for answer in answers(connection, SECOND, second)]
    options = speech.options[-1]
    assert (options.sample_rate, options.words, options.partial_words, options.max_alternatives) == (44100, False, True, 2)
    assert options.recognition.phrases == ("xin chào", "[unk]")
    assert options.recognition.language == "vi"


async def test_reset_ends_an_utterance_and_times_go_on_from_the_start(live: LiveServer) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(json.dumps({"config": CONFIG}))
        await connection.send(bytes(12_000))
        assert json.loads(await connection.recv()) == {"partial": "xin"}
        await connection.send('{"reset" : 1}')
        assert json.loads(await connection.recv())["text"] == "xin"
        *_, last = [answer async for answer in answers(connection, bytes(16_000), None)]
    assert [(word["word"], word["start"]) for word in last["result"]] == [("xin", 0.375), ("chào", 0.625)]
    await assert_still_good(live)


async def test_frames_cut_inside_a_sample_are_put_together(live: LiveServer, speech: FakeSpeech) -> None:
    async with open_stream(live.url) as connection:
        found = [answer async for answer in answers(connection, SECOND, CONFIG, frame_bytes=7999)]
    assert found[-2]["text"] == "xin chào"


async def test_finals_that_one_frame_ended_come_as_one_answer(live: LiveServer) -> None:
    async with open_stream(live.url) as connection:
        found = [answer async for answer in answers(connection, SECOND * 9, CONFIG, frame_bytes=len(SECOND) * 9)]
    assert found[0]["text"] == " ".join(SCRIPT)
    assert len(found[0]["result"]) == 9
    assert found[1] == {"text": ""}


@pytest.mark.parametrize(
    ("message", "close_code", "code"),
    [
        ("hello", 1003, "invalid_json"),
        ("[]", 1003, "unknown_message"),
        ("{}", 1003, "unknown_message"),
        ('{"eof": 0}', 1003, "unknown_message"),
        ('{"eof": 1, "reset": 1}', 1003, "unknown_message"),
        ('{"config": 5}', 1008, "invalid_request"),
        ('{"config": {"sample_rate": "fast"}}', 1008, "invalid_value"),
        ('{"config": {"sample_rate": 0}}', 1008, "invalid_value"),
        ('{"config": {"sample_rate": 16000.5}}', 1008, "invalid_value"),
        ('{"config": {"sample_rate": NaN}}', 1003, "invalid_json"),
        ('{"config": {"samplerate": 16000}}', 1008, "unknown_parameter"),
        ('{"config": {"max_alternatives": 1000}}', 1008, "invalid_value"),
        ('{"config": {"encoding": "mulaw"}}', 1008, "invalid_value"),
        ('{"config": {"phrase_list": [1]}}', 1008, "invalid_value"),
        pytest.param(json.dumps({"config": {"model": "x" * 300_000}}), 1009, "payload_too_large", id="long text"),
        pytest.param(bytes(MAX_FRAME_BYTES + 1), 1009, "payload_too_large", id="frame over the limit"),
        pytest.param(bytes(10 * 2**20), 1009, "payload_too_large", id="frame of 10 MiB"),
    ],
)
async def test_bad_message_is_an_error_and_a_close_code(
    live: LiveServer, message: str | bytes, close_code: int, code: str
) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(message)
        error, found_code, reason = await end_of(connection)
    assert (found_code, error["code"], reason) == (close_code, code, code)
    assert error["message"]
    await assert_still_good(live)


async def test_frame_over_what_the_server_reads_at_all_closes_the_connection(live: LiveServer) -> None:
    async with open_stream(live.url) as connection:
        with pytest.raises(ConnectionClosed):
            await connection.send(bytes(20 * 2**20))
            await connection.recv()
        assert connection.close_code in {1009, 1006}  # the rest of the frame may still be under way
    await assert_still_good(live)


async def test_config_after_audio_is_refused(live: LiveServer, speech: FakeSpeech) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(SECOND)
        await connection.recv()
        await connection.send(json.dumps({"config": CONFIG}))
        error, close_code, _ = await end_of(connection)
    assert (error["code"], close_code) == ("config_after_audio", 1008)
    await until(lambda: not speech.streams)


async def test_client_that_only_sends_configs_is_cut_off(live: LiveServer) -> None:
    async with open_stream(live.url) as connection:
        for _ in range(17):
            await connection.send('{"config": {}}')
        error, close_code, _ = await end_of(connection)
    assert (error["code"], close_code) == ("too_many_configs", 1008)


@pytest.mark.parametrize("model", ["whisper-1", "/opt/models/vi", "vosk:de"])
async def test_unknown_model_is_refused_with_those_installed(live: LiveServer, model: str) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(json.dumps({"config": {"model": model}}))
        await connection.send(SECOND)
        error, close_code, _ = await end_of(connection)
    assert (error["code"], close_code) == ("model_not_found", 1008)
    assert "vosk:en, vosk:vi" in error["message"]


@pytest.mark.parametrize(
    ("error", "close_code", "code"),
    [
        (InvalidRequestError("No audio.", code="invalid_audio"), 1008, "invalid_audio"),
        (UnsupportedMediaError("No sound in it."), 1003, "unsupported_media_type"),
        (UnavailableError("The recogniser died."), 1013, "service_unavailable"),
        (InternalError("secret path"), 1011, "internal_error"),
    ],
)
async def test_failure_of_the_recogniser_ends_the_connection_and_frees_the_place(
    live: LiveServer, speech: FakeSpeech, error: Any, close_code: int, code: str
) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(SECOND)
        await connection.recv()
        speech.error = error
        await connection.send(SECOND)
        found, found_code, _ = await end_of(connection)
    speech.error = None
    assert (found["code"], found_code) == (code, close_code)
    assert "secret" not in found["message"]
    await assert_still_good(live)


async def test_stream_that_a_restart_lost_says_to_connect_again(live: LiveServer, speech: FakeSpeech) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(SECOND)
        await connection.recv()
        speech.streams.clear()
        await connection.send(SECOND)
        error, close_code, _ = await end_of(connection)
    assert (error["code"], close_code) == ("stream_lost", 1013)
    assert "Connect again" in error["message"]


async def test_connection_beyond_the_places_is_told_to_try_again_and_the_place_comes_back(
    live: LiveServer, speech: FakeSpeech
) -> None:
    held = [await open_stream(live.url) for _ in range(8)]
    for connection in held:
        await connection.send(bytes(3200))
        await connection.recv()
    async with open_stream(live.url) as late:
        await late.send(SECOND)
        error, close_code, _ = await end_of(late)
    assert (error["code"], close_code) == ("overloaded", 1013)
    for connection in held:
        await connection.close()
    await assert_still_good(live)


async def test_client_that_vanishes_in_the_middle_frees_its_place(live: LiveServer, speech: FakeSpeech) -> None:
    connection = await open_stream(live.url)
    await connection.send(SECOND)
    await connection.recv()
    assert len(speech.streams) == 1
    connection.transport.abort()
    await until(lambda: not speech.streams)
    await assert_still_good(live)


async def test_silent_client_is_cut_off_and_frees_its_place(live: LiveServer, speech: FakeSpeech) -> None:
    async with open_stream(live.url) as connection:
        await connection.send(SECOND)
        await connection.recv()
        error, close_code, _ = await end_of(connection)
    assert (error["code"], close_code) == ("idle_timeout", 1008)
    await until(lambda: not speech.streams)


async def test_endless_audio_is_cut_off_after_the_longest_time(live: LiveServer, speech: FakeSpeech) -> None:
    async with open_stream(live.url) as connection:
        found: dict[str, Any] = {}
        while "error" not in found:
            with suppress(ConnectionClosed):  # the error may have come before
                await connection.send(bytes(3200))
            found = json.loads(await connection.recv())
            await asyncio.sleep(0.05)
    assert found["error"]["code"] == "stream_too_long"
    await until(lambda: not speech.streams)


async def test_fast_client_is_held_back_while_a_frame_is_heard() -> None:
    """Without it the frames of a client that does not wait would pile up in the hub."""
    server = LiveServer(Parts(speech=FakeSpeech(script=SCRIPT, delay_s=0.4)))
    server.start()
    frames, sent = 200, 0
    try:
        async with open_stream(server.url, compression=None) as connection:

            async def push() -> None:
                nonlocal sent
                for _ in range(frames):
                    await connection.send(bytes(500_000))
                    sent += 1

            pushing = asyncio.create_task(push())
            await connection.recv()
            assert sent < frames / 4  # what fits into the buffers of both sockets
            pushing.cancel()
            connection.transport.abort()
    finally:
        server.stop()


async def test_concurrent_streams_hear_each_its_own(live: LiveServer) -> None:
    lengths = (1, 3, 9, 2)
    found = await asyncio.gather(*(transcribe(live.url, SECOND * length, CONFIG) for length in lengths))
    assert [len(results) for results in found] == [length * 4 + 1 for length in lengths]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Origin": "https://evil.example"}, 403, "foreign_page"),
        ({"Origin": "null"}, 403, "foreign_page"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "foreign_page"),
    ],
)
async def test_page_of_another_site_may_not_connect(live: LiveServer, headers: dict[str, str], status: int, code: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await open_stream(live.url, additional_headers=headers)
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)["error"]["code"]) == (status, code)
    assert response.headers["x-request-id"]


async def test_page_of_the_hub_itself_may_connect(live: LiveServer) -> None:
    async with open_stream(live.url, additional_headers={"Origin": live.url}) as connection:
        assert [answer async for answer in answers(connection, b"", None)] == [{"text": ""}]


async def test_unknown_name_of_the_hub_is_refused(live: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await open_stream(live.url, additional_headers={"Host": "hub.evil.example"})
    assert refused.value.response.status_code in {400, 403}  # two Host headers, or a wrong one


async def test_other_path_is_404_in_openai_s_shape(live: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await open_stream(f"{live.url}/other")
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body)["error"]["code"] == "unknown_url"


async def test_plain_request_is_told_to_upgrade(live: LiveServer) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{live.url}/v1/audio/stream")
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["upgrade"]) == (
        426,
        "upgrade_required",
        "websocket",
    )


async def test_request_id_is_kept_and_connections_are_counted(live: LiveServer) -> None:
    async with open_stream(live.url, additional_headers={"x-request-id": "req_mine"}) as connection:
        assert connection.response is not None
        assert connection.response.headers["x-request-id"] == "req_mine"
        [answer async for answer in answers(connection, b"", None)]
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{live.url}/metrics")).text
    assert 'aihub_http_requests_total{method="WEBSOCKET",route="/v1/audio/stream",status="1000"}' in metrics
    assert 'route="/v1/audio/stream",status="1008"}' in metrics
