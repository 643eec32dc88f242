"""Which content parts reach the engine."""

import base64
from typing import Any

import pytest

from aihub.core.base64_text import SLICE_CHARS
from aihub.core.errors import InvalidRequestError
from deployments.llm_images import check_parts, warm_up_image

TEXT = {"type": "text", "text": "Trong ảnh có gì?"}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()


def body(*parts: Any) -> dict[str, Any]:
    return {"model": "a", "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": list(parts)}]}


def image(url: Any = PNG, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | fields}


async def test_body_without_parts_is_passed_on_as_it_is() -> None:
    plain = {"model": "a", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]}
    assert await check_parts(plain, 0) is plain


async def test_parts_are_made_anew_without_what_steers_the_engine() -> None:
    sent = body(TEXT, image(detail="high") | {"uuid": "of-somebody-else"}, {"type": "image_url", "image_url": PNG})
    checked = await check_parts(sent, 2)
    picture = {"type": "image_url", "image_url": {"url": PNG}}
    assert checked["messages"][1]["content"] == [TEXT, picture, picture]
    assert checked["messages"][0] == sent["messages"][0]


@pytest.mark.parametrize(
    "part",
    [
        image("http://127.0.0.1/a.png"),
        image("https://example.org/a.png"),
        image("file:///etc/passwd"),
        image("//example.org/a.png"),
        image("DATA:image/png;base64,AAAA"),
        image("data:image/svg+xml;base64,AAAA"),
        image("data:image/png,plain"),
        image(PNG + "@"),
        image("data:image/png;base64,A"),
        image(PNG[: PNG.index(",") + 1] + "AA==" * (SLICE_CHARS // 4) + "AAAA"),
        image(PNG[: PNG.index(",") + 1] + "ảnh="),
        image(None),
        image(7),
        {"type": "image_url", "image_url": None, "uuid": "of-somebody-else"},
        {"type": "image_url"},
        {"type": "image_embeds", "image_embeds": "gASV"},
        {"type": "image_pil", "image_pil": "x"},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/a.wav"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "text", "text": None},
        {"text": "no type"},
        "a string",
        None,
    ],
)
async def test_part_that_is_neither_text_nor_a_data_url_of_an_image_is_refused(part: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await check_parts(body(TEXT, part), 16)
    assert refused.value.param == "messages.1.content"


async def test_images_of_all_messages_are_counted_together() -> None:
    turns = {"model": "a", "messages": [{"role": "user", "content": [TEXT, image()]} for _ in range(3)]}
    assert await check_parts(turns, 3)
    with pytest.raises(InvalidRequestError, match="3 images.*takes 2") as refused:
        await check_parts(turns, 2)
    assert refused.value.code == "too_many_images"


async def test_model_that_reads_text_only_takes_text_parts_and_says_so_of_images() -> None:
    assert (await check_parts(body(TEXT, TEXT), 0))["messages"][1]["content"] == [TEXT, TEXT]
    with pytest.raises(InvalidRequestError, match="text only") as refused:
        await check_parts(body(TEXT, image()), 0)
    assert refused.value.code == "model_reads_no_images"


async def test_warm_up_image_is_one_that_requests_may_send() -> None:
    assert (await check_parts(body(warm_up_image(), TEXT), 1))["messages"][1]["content"] == [warm_up_image(), TEXT]
