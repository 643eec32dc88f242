"""Parts read by the real decoder, document parser and recogniser, in their processes."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from aihub.core.errors import InvalidRequestError
from aihub.core.limits import IMAGE_PIXELS, LOW_DETAIL_PIXELS
from aihub.documents.parsing.parser import DocumentParser
from aihub.media.decoder import SandboxedDecoder
from tests.contract.test_speech import engine_of
from tests.speech_data import speech_model, utterances, wav_of
from tests.unit.pipelines.media_fakes import FakeDecoder, MediaHub, audio, file, image, text, video
from tests.unit.pipelines.rag_parts import CALLER, request


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def clip(seconds: int) -> bytes:
    """A silent video of grey frames that grow lighter."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 48
        for number in range(seconds * 5):
            grey = np.full((48, 64, 3), 255 * number // (seconds * 5), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def shown(content: list[dict[str, Any]]) -> list[Image.Image]:
    """The images of a content, decoded."""
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))) for url in urls]


def clip_with_sound(samples: bytes) -> bytes:
    """A video of two seconds of grey, and as much sound as there is: 16 kHz, 16 bits, one channel."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        pictures, sound = container.add_stream("mpeg4", rate=5), container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        pictures.width, pictures.height = 64, 48
        for _ in range(10):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, dtype=np.uint8), format="rgb24")))
        container.mux(pictures.encode())
        heard = av.AudioFrame.from_ndarray(np.frombuffer(samples, dtype=np.int16)[None, :], format="s16", layout="mono")
        heard.sample_rate = 16_000
        container.mux(sound.encode(heard))
        container.mux(sound.encode())
    return buffer.getvalue()


@pytest.fixture
async def hub(parser: DocumentParser) -> AsyncIterator[MediaHub]:
    decoder = SandboxedDecoder(processes=1)
    hub = MediaHub(decoder=cast(FakeDecoder, decoder))
    hub.media._readers._parser = parser
    yield hub
    await decoder.close()


def asking(*parts: dict[str, Any]) -> Any:
    return request(messages=[{"role": "user", "content": list(parts)}])


async def test_images_files_and_videos_reach_the_engine_as_images_it_can_read(hub: MediaHub) -> None:
    parts = [
        image(picture(40, 30)),
        image(picture(1, 1, "GIF")),
        file(picture(50, 20, "JPEG"), "a.bin"),
        text("?"),
        video(clip(2)),
    ]
    await hub.chat.chat(CALLER, asking(*parts))
    sizes = [picture.size for picture in shown(hub.content)]
    assert sizes[:3] == [(40, 30), (1, 1), (50, 20)]
    assert sizes[3:] == [(64, 48)] * 7, "the model reads ten images"
    greys = [np.asarray(frame.convert("L")).mean() for frame in shown(hub.content)[3:]]
    assert greys == sorted(greys)
    assert greys[-1] - greys[0] > 150


@pytest.mark.parametrize(("detail", "limit"), [("high", IMAGE_PIXELS), ("low", LOW_DETAIL_PIXELS)])
async def test_large_images_are_made_smaller_in_proportion(hub: MediaHub, detail: str, limit: int) -> None:
    await hub.chat.chat(CALLER, asking(image(picture(3_000, 1_500), detail=detail)))
    [(width, height)] = [picture.size for picture in shown(hub.content)]
    assert 0.8 * limit < width * height <= limit
    assert width / height == pytest.approx(2.0, abs=0.02)


async def test_document_is_read_by_the_parser(hub: MediaHub) -> None:
    await hub.chat.chat(CALLER, asking(text("Sum up."), file("# Quán phở\n\nMở cửa từ **6 giờ**.".encode(), "quán.md")))
    assert "Quán phở" in hub.content
    assert "6 giờ" in hub.content


@pytest.mark.parametrize(
    "part",
    [
        image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        image(b"plain text"),
        image(picture(40, 30)[:60]),
        audio(picture(4, 4)),
        audio(b"RIFF\xff\xff\xff\x7fWAVEfmt "),
        video(picture(4, 4)),
        video(clip(1)[:200]),
        file(b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "a.png"),
    ],
)
async def test_bad_media_are_refused_by_field_and_the_next_ones_are_read(hub: MediaHub, part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await hub.chat.chat(CALLER, asking(text("?"), part))
    assert str(caught.value.param).startswith("messages.0.content.1.")
    await hub.chat.chat(CALLER, asking(image(picture(8, 8))))
    assert [picture.size for picture in shown(hub.content)] == [(8, 8)]


async def test_recordings_and_videos_are_heard_by_the_recogniser(hub: MediaHub, tmp_path: Path) -> None:
    said = utterances("en")[0]
    async with engine_of(speech_model("en").parent, tmp_path) as engine:
        hub.media._readers._speech = engine
        spoken = audio(wav_of(said.samples))
        await asyncio.gather(*(hub.chat.chat(CALLER, asking(text(f"Question {n}"), spoken)) for n in range(3)))
        await hub.chat.chat(CALLER, asking(video(clip_with_sound(said.samples)), text("What is said?")))
    *recordings, sound = [body["messages"][0]["content"] for body in hub.engine.bodies]
    assert all(f'"""\n{said.transcript}\n"""' in content for content in recordings)
    assert sorted(content.partition("\n")[0] for content in recordings) == ["Question 0", "Question 1", "Question 2"]
    assert said.transcript in sound[-1]["text"]
    assert sum(part["type"] == "image_url" for part in sound) == 8
