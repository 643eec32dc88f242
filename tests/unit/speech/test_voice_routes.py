"""`POST /v1/voice/ask` on a real socket: the body is heard while it arrives, and the answer may begin before it has ended."""

import asyncio
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import httpx
import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import ModelUnavailableError, UnavailableError
from aihub.core.settings import Settings
from aihub.http.services import Services
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts
from tests.unit.pipelines.rag_parts import data_of
from tests.unit.pipelines.voice_parts import PAUSE, VoiceHub, until

QUESTION = "how long does the battery last"
RETRIEVAL = json.dumps({"vector_store_ids": ["vs_shop"]})
FIELDS = {"model": "fake-chat", "retrieval": RETRIEVAL}
BOUNDARY = "question-7f3a"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass
class VoiceParts(Parts):
    """An application whose speech is text."""

    hub: VoiceHub = field(default_factory=VoiceHub)

    def services(self) -> Services:
        return replace(super().services(), voice=self.hub.voice)


@pytest.fixture
def hub() -> VoiceHub:
    return VoiceHub(engine=FakeChatEngine(answer=lambda _: "The battery lasts 38 hours."))


@pytest.fixture
def live(hub: VoiceHub) -> Iterator[LiveServer]:
    server = LiveServer(VoiceParts(hub=hub, settings=Settings(body_timeout_s=2.0, max_upload_bytes=2**20)))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def post(live: LiveServer, audio: bytes = QUESTION.encode(), **fields: str) -> httpx.Response:
    files = {"file": ("question.wav", audio, "audio/wav")}
    return httpx.post(f"{live.url}/v1/voice/ask", data=FIELDS | fields, files=files)


def head(**fields: str) -> bytes:
    """The body up to the first byte of the speech."""
    options = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (FIELDS | fields).items()
    )
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="q.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return (options + file).encode()


TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


class Upload:
    """A body that is sent when the test says so."""

    def __init__(self, **fields: str) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pieces.put_nowait(head(**fields))

    def say(self, text: str) -> None:
        self._pieces.put_nowait(text.encode())

    def stop(self) -> None:
        self._pieces.put_nowait(TAIL)
        self._pieces.put_nowait(None)

    async def body(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


def error_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code, error
    return error


def test_transcript_then_answer_then_done(live: LiveServer) -> None:
    response = post(live)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    events = data_of(response.text)
    assert [event["type"] for event in events if "type" in event][-1] == "transcript.done"
    assert events[-1]["choices"][0]["delta"]["annotations"]
    assert events[-1]["retrieval"]["search_query"] == QUESTION


def test_answer_in_one_piece(live: LiveServer) -> None:
    answer = post(live, stream="false").json()
    assert answer["choices"][0]["message"]["content"] == "The battery lasts 38 hours."
    assert answer["choices"][0]["message"]["annotations"]
    assert answer["transcript"]["text"] == QUESTION


async def test_search_and_transcript_begin_before_the_body_ends(
    live: LiveServer, hub: VoiceHub, session: aiohttp.ClientSession
) -> None:
    upload = Upload()
    upload.say(QUESTION + PAUSE)
    async with session.post(f"{live.url}/v1/voice/ask", data=upload.body(), headers=HEADERS) as response:
        # The response has begun, and nobody has ended the body.
        final = json.loads((await response.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        assert final["text"] == QUESTION
        await until(lambda: hub.finder.asked == [QUESTION])
        assert not hub.engine.bodies
        upload.stop()
        rest = (await response.read()).decode()
    assert rest.endswith("data: [DONE]\n\n")
    assert hub.finder.asked == [QUESTION]


async def test_answer_in_one_piece_is_searched_for_before_the_body_ends(
    live: LiveServer, hub: VoiceHub, session: aiohttp.ClientSession
) -> None:
    upload = Upload(stream="false")
    upload.say(QUESTION + PAUSE)
    asking = asyncio.create_task(_json(session, live, upload))
    await until(lambda: hub.finder.asked == [QUESTION])
    upload.stop()
    assert (await asking)["retrieval"]["chunks"]
    assert hub.finder.asked == [QUESTION]


async def _json(session: aiohttp.ClientSession, live: LiveServer, upload: Upload) -> dict[str, Any]:
    async with session.post(f"{live.url}/v1/voice/ask", data=upload.body(), headers=HEADERS) as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def test_questions_at_the_same_time_are_kept_apart(live: LiveServer, session: aiohttp.ClientSession) -> None:
    topics = ["battery warranty", "shop opens", "refunds paid", "phở bò"]
    uploads = [Upload(stream="false") for _ in topics]
    asking = [asyncio.create_task(_json(session, live, upload)) for upload in uploads]
    for position in range(2):
        for upload, topic in zip(uploads, topics, strict=True):
            upload.say(topic.split()[position] + " ")
            await asyncio.sleep(0.005)
    for upload in uploads:
        upload.stop()
    assert [answer["transcript"]["text"] for answer in await asyncio.gather(*asking)] == topics


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_client_that_leaves_while_it_speaks_stops_everything(
    live: LiveServer, hub: VoiceHub, session: aiohttp.ClientSession, stream: str
) -> None:
    upload = Upload(stream=stream)
    upload.say("how long does ")
    asking = asyncio.create_task(_json(session, live, upload))
    await until(lambda: len(hub.speech.streams) == 1)
    asking.cancel()
    await until(lambda: not hub.speech.streams, within_s=1.0)
    assert not hub.engine.bodies
    assert post(live).status_code == 200


async def test_client_that_leaves_during_the_answer_stops_the_engine(session: aiohttp.ClientSession) -> None:
    hub = VoiceHub(engine=FakeChatEngine(token_s=0.1))
    server = LiveServer(VoiceParts(hub=hub))
    server.start()
    try:
        upload = Upload()
        upload.say(QUESTION)
        upload.stop()
        async with session.post(f"{server.url}/v1/voice/ask", data=upload.body(), headers=HEADERS) as response:
            while b"chat.completion.chunk" not in await response.content.readuntil(b"\n\n"):
                pass
            assert hub.engine.active == 1
        await until(lambda: hub.engine.active == 0, within_s=1.0)
    finally:
        await asyncio.to_thread(server.stop)


async def test_time_to_the_first_token_counts_from_the_end_of_the_speech(
    live: LiveServer, session: aiohttp.ClientSession
) -> None:
    upload = Upload()
    upload.say(QUESTION)
    async with session.post(f"{live.url}/v1/voice/ask", data=upload.body(), headers=HEADERS) as response:
        await asyncio.sleep(0.6)
        upload.stop()
        await response.read()
    async with session.get(f"{live.url}/metrics") as response:
        metrics = await response.text()
    [first_token_s] = re.findall(r'first_token_seconds_sum\{route="/v1/voice/ask"\} (\S+)', metrics)
    assert float(first_token_s) < 0.5


def test_no_speech_is_a_400_of_its_own(live: LiveServer) -> None:
    for stream in ("true", "false"):
        error_of(post(live, b" \n ", stream=stream), 400, "no_speech")
    assert post(live).status_code == 200


def test_file_without_a_byte_is_refused(live: LiveServer) -> None:
    error_of(post(live, b""), 400, "empty_file")


def test_speech_part_that_is_away_is_503(live: LiveServer, hub: VoiceHub) -> None:
    hub.speech.error = ModelUnavailableError("No speech model is installed. Install one: aihub models download vosk:vi")
    response = post(live)
    error_of(response, 503, "model_unavailable")
    assert response.headers["retry-after"]


async def test_recogniser_that_dies_in_the_middle_is_told_in_the_stream(
    live: LiveServer, hub: VoiceHub, session: aiohttp.ClientSession
) -> None:
    upload = Upload()
    upload.say(QUESTION + PAUSE)
    async with session.post(f"{live.url}/v1/voice/ask", data=upload.body(), headers=HEADERS) as response:
        await response.content.readuntil(b"\n\n")
        hub.speech.feed_error = UnavailableError("The recogniser died. Ask again.")
        upload.say("and the warranty")
        rest = (await response.read()).decode()
    assert data_of(rest)[-1]["error"]["code"] == "service_unavailable"
    assert rest.endswith("data: [DONE]\n\n")
    hub.speech.feed_error = None
    assert (await asyncio.to_thread(post, live)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "9"}, "temperature"),
        ({"retrieval": "{"}, "retrieval"),
        ({"retrieval": '{"vector_store_ids": []}'}, "retrieval.vector_store_ids"),
        ({"messages": '{"role": "user"}'}, "messages"),
        ({"language": "Vietnamese"}, "language"),
        ({"phrases": '"hello"'}, "phrases"),
        ({"stream": "maybe"}, "stream"),
        ({"early_retrieval": "2"}, "early_retrieval"),
        ({"langauge": "vi"}, "langauge"),
        ({"chat_template": "x"}, "chat_template"),
    ],
)
def test_wrong_option_is_a_400_that_names_it(live: LiveServer, fields: dict[str, str], param: str) -> None:
    response = post(live, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_options_reach_the_recogniser_and_the_model(live: LiveServer, hub: VoiceHub) -> None:
    earlier = json.dumps([{"role": "system", "content": "Be brief."}])
    fields = {"language": "vi", "phrases": '["phở bò", "battery"]', "max_tokens": "7", "temperature": "0.5", "messages": earlier}
    assert post(live, speech_model="auto", **fields).status_code == 200
    recognition = hub.speech.options[-1].recognition
    assert (recognition.model, recognition.language, recognition.phrases) == ("auto", "vi", ("phở bò", "battery"))
    body = hub.engine.bodies[-1]
    assert (body["max_completion_tokens"], body["temperature"]) == (7, 0.5)
    assert body["messages"][0]["content"].startswith("Be brief.")


def test_options_are_taken_as_clients_write_them(live: LiveServer, hub: VoiceHub) -> None:
    fields = {"language": "vi-VN", "phrases": unicodedata.normalize("NFD", '["phở bò"]'), "user": "123", "stop": "1"}
    answer = post(live, stream="False", early_retrieval="True", max_tokens="", **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "chat.completion"
    recognition = hub.speech.options[-1].recognition
    assert (recognition.language, recognition.phrases) == ("vi", ("phở bò",))
    assert hub.engine.bodies[-1]["stop"] == "1"
    assert post(live, language="").status_code == 200
    assert hub.speech.options[-1].recognition.language is None
    assert post(live, language="EN").status_code == 200
    assert hub.speech.options[-1].recognition.language == "en"


def test_part_without_a_name_is_refused(live: LiveServer) -> None:
    for disposition in ('form-data; name=""', "form-data"):
        nameless = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\nvi\r\n".encode()
        assert "no name" in error_of(send(live, nameless + head() + QUESTION.encode() + TAIL), 400, "invalid_request")["message"]


def send(live: LiveServer, body: bytes, content_type: str = HEADERS["Content-Type"]) -> httpx.Response:
    return httpx.post(f"{live.url}/v1/voice/ask", content=body, headers={"Content-Type": content_type})


def test_options_after_the_speech_are_refused(live: LiveServer) -> None:
    late = f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake-chat'.encode()
    error = error_of(send(live, head() + QUESTION.encode() + late + TAIL), 400, "invalid_request")
    assert "before" in error["message"]


def test_body_without_speech_or_cut_off_is_refused(live: LiveServer) -> None:
    error_of(send(live, head().split(f"--{BOUNDARY}".encode())[0] + f"--{BOUNDARY}--\r\n".encode()), 400, "invalid_request")
    cut_off = head(stream="false") + QUESTION.encode()
    assert "middle" in error_of(send(live, cut_off), 400, "invalid_request")["message"]
    assert "broken" in error_of(send(live, b"no multipart at all"), 400, "invalid_request")["message"]
    error_of(send(live, head(), "multipart/form-data"), 400, "invalid_request")
    error_of(send(live, b"{}", "application/json"), 415, "unsupported_media_type")


def test_option_given_twice_or_of_broken_text_is_refused(live: LiveServer) -> None:
    one = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="language"\r\n\r\n'.encode()
    assert error_of(send(live, one + b"en\r\n" + one + b"vi\r\n" + head()), 400, "invalid_request")["param"] == "language"
    assert error_of(send(live, one + b"\xff\xfe\r\n" + head()), 400, "invalid_request")["param"] == "language"


def test_too_much_is_413(live: LiveServer) -> None:
    error_of(post(live, b"battery " * 2**18), 413, "payload_too_large")
    error_of(post(live, user="x" * (2**21 + 1)), 413, "payload_too_large")
    many = {f"option{number}": "1" for number in range(70)}
    error_of(post(live, **many), 413, "payload_too_large")
    assert post(live).status_code == 200


async def test_speech_that_stalls_is_408(live: LiveServer, hub: VoiceHub, session: aiohttp.ClientSession) -> None:
    upload = Upload(stream="false")
    upload.say("how long")
    async with session.post(f"{live.url}/v1/voice/ask", data=upload.body(), headers=HEADERS) as response:
        assert response.status == 408
        assert (await response.json())["error"]["code"] == "request_timeout"
    assert not hub.speech.streams


async def test_speech_slower_than_other_bodies_may_be_is_heard(live: LiveServer, session: aiohttp.ClientSession) -> None:
    upload = Upload(stream="false")
    asking = asyncio.create_task(_json(session, live, upload))
    for word in QUESTION.split():
        upload.say(word + " ")
        await asyncio.sleep(0.5)  # over the 2 s of the server, at some 10 bytes a second
    upload.stop()
    assert (await asking)["transcript"]["text"] == QUESTION
