"""Requests with media over HTTP: the official `openai` client, bad media, size limits; the chat pipeline is the real one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai import OpenAI

from aihub.chat.fake import FakeChatEngine
from aihub.core.settings import Settings
from aihub.documents.service import FileService
from aihub.http.services import Services
from tests.unit.conftest import LiveServer, assert_good_chat, assert_refused, chat_body
from tests.unit.http.services import Parts
from tests.unit.pipelines.media_fakes import (
    BROKEN_PNG,
    PNG,
    WAV,
    FakeDecoder,
    MediaHub,
    audio,
    b64,
    file,
    image,
    text,
    url,
    video,
)

PATH = "/v1/chat/completions"


@dataclass
class MediaApplication(Parts):
    """The application with the real chat pipeline."""

    hub: MediaHub = field(default_factory=MediaHub)

    def services(self) -> Services:
        return replace(super().services(), chat=self.hub.chat, files=cast(FileService, self.hub.files))


@pytest.fixture
def hub() -> MediaHub:
    return MediaHub(engine=FakeChatEngine(max_images=4))


@pytest.fixture
def parts(hub: MediaHub) -> Parts:
    return MediaApplication(engine=hub.engine, hub=hub)


def asking(*parts: Any, **fields: Any) -> dict[str, Any]:
    return chat_body(messages=[{"role": "user", "content": list(parts)}], **fields)


class TestOfficialClient:
    @pytest.fixture(scope="class")
    @classmethod
    def live(cls) -> Iterator[LiveServer]:
        hub = MediaHub()
        server = LiveServer(MediaApplication(engine=hub.engine, hub=hub))
        server.start()
        yield server
        server.stop()

    @pytest.fixture
    def client(self, live: LiveServer) -> Iterator[OpenAI]:
        with OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            yield client

    def ask(self, client: OpenAI, *parts: Any) -> str:
        messages: Any = [{"role": "user", "content": [text("Đây là gì?"), *parts]}]
        answer = client.chat.completions.create(model="fake-chat", messages=messages)
        stream = client.chat.completions.create(model="fake-chat", messages=messages, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert said == answer.choices[0].message.content
        return said

    def test_image_url(self, client: OpenAI, live: LiveServer) -> None:
        self.ask(client, {"type": "image_url", "image_url": {"url": url(PNG), "detail": "high"}})
        sent = live.parts.engine.bodies[-1]["messages"][0]["content"]
        assert [part["type"] for part in sent] == ["text", "image_url"]

    def test_input_audio(self, client: OpenAI) -> None:
        said = self.ask(client, {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "wav"}})
        assert "Lời nói trong bản ghi âm" in said

    def test_file(self, client: OpenAI) -> None:
        data = f"data:text/plain;base64,{b64('Quán mở cửa lúc 6 giờ.'.encode())}"
        assert "mở cửa lúc 6 giờ" in self.ask(client, {"type": "file", "file": {"file_data": data, "filename": "quán.txt"}})

    def test_refusal_is_the_client_s_own_exception(self, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            self.ask(client, {"type": "image_url", "image_url": {"url": url(BROKEN_PNG)}})
        assert (caught.value.code, caught.value.param) == ("invalid_media", "messages.0.content.1.image_url.url")


BAD: dict[str, tuple[Any, str]] = {
    "damaged image": (image(BROKEN_PNG), "image_url.url"),
    "not base64": ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%%"}}, "image_url.url"),
    "page called an image": (image(b"<html>"), "image_url.url"),
    "web address": ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}, "image_url.url"),
    "file of nobody": ({"type": "file", "file": {"file_id": "file-nobody"}}, "file.file_id"),
    "image as audio": (audio(PNG), "input_audio.data"),
    "audio as video": (video(WAV), "video_url.url"),
    "bytes of no format": (file(b"\x00\xff\xfe\x01"), "file.file_data"),
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("name", BAD)
async def test_bad_media_are_refused_by_field_then_a_good_request_is_answered(
    client: httpx.AsyncClient, name: str, is_stream: bool
) -> None:
    part, place = BAD[name]
    response = await client.post(PATH, json=asking(text("?"), part, stream=is_stream))
    assert_refused(response, 404 if "nobody" in name else 400, param=f"messages.0.content.1.{place}")
    await assert_good_chat(client)


async def test_images_of_many_megabytes_pass_where_other_bodies_may_not(client: httpx.AsyncClient, hub: MediaHub) -> None:
    large = PNG + b"\0" * 12 * 2**20
    hub.decoder = decoder = FakeDecoder()
    hub.media._readers._decoder = decoder
    response = await client.post(PATH, json=asking(image(large)))
    assert_refused(response, 400, code="invalid_media")
    assert decoder.decoded == ["prepare_image"], "the decoder got it"
    assert_refused(await client.post("/v1/completions", json={"model": "fake-chat", "prompt": "a" * 5_000_000}), 413)
    await assert_good_chat(client)


async def test_text_keeps_its_own_limit_in_a_large_body(client: httpx.AsyncClient) -> None:
    assert_refused(await client.post(PATH, json=asking(text("a" * 20_000_000))), 400, code="context_length_exceeded")
    await assert_good_chat(client)


class TestLimits:
    @pytest.fixture
    def parts(self, hub: MediaHub) -> Parts:
        return MediaApplication(engine=hub.engine, hub=hub, settings=Settings(max_json_bytes=1_000, max_chat_bytes=2_000))

    async def test_chat_has_a_limit_of_its_own(self, client: httpx.AsyncClient) -> None:
        assert (await client.post(PATH, json=asking(text("a" * 1_500)))).status_code == 200
        assert_refused(await client.post(PATH, json=asking(text("a" * 2_500))), 413, code="payload_too_large")
        assert_refused(await client.post("/v1/completions", json={"model": "fake-chat", "prompt": "a" * 1_500}), 413)


class TestGoneClient:
    @pytest.fixture
    async def leaving(self, app: FastAPI, parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
        app.state.services = parts.services()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            yield http

    async def test_request_that_is_given_up_ends_its_decoding(self, leaving: httpx.AsyncClient, hub: MediaHub) -> None:
        hub.decoder.delay_s = 30.0
        asked = asyncio.create_task(leaving.post(PATH, json=asking(image(), audio())))
        while hub.decoder.active < 2:  # noqa: ASYNC110  # a count can only be looked at
            await asyncio.sleep(0.002)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert hub.decoder.active == 0
        hub.decoder.delay_s = 0.0
        assert (await leaving.post(PATH, json=asking(image()))).status_code == 200
