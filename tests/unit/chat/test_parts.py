"""Bad content parts: each is refused by its field with a typed 4xx, without much work, and the next good request is answered."""

import math
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aihub.chat.parts import ReadyImage, ReadyText
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import estimate_tokens, images_of, text_of
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_MEDIA_PARTS
from aihub.core.schemas import validate
from tests.unit.conftest import assert_good_chat, assert_refused, chat_body

PATH = "/v1/chat/completions"
PNG_URL = "data:image/png;base64,iVBORw0KGgo="
IMAGE = {"type": "image_url", "image_url": {"url": PNG_URL}}


def image_url(**fields: Any) -> list[Any]:
    return [{"type": "image_url", "image_url": fields}]


BAD: dict[str, tuple[Any, str]] = {
    "null among the parts": ([None], "0"),
    "nested list": ([[IMAGE]], "0"),
    "part without type": ([{"image_url": {"url": PNG_URL}}], "0.type"),
    "type a number": ([{"type": 5}], "0.type"),
    "type of the Responses API": ([{"type": "input_image", "image_url": PNG_URL}], "0.type"),
    "image null": ([{"type": "image_url", "image_url": None}], "0.image_url"),
    "image a bare string": ([{"type": "image_url", "image_url": PNG_URL}], "0.image_url"),
    "image of nothing": (image_url(), "0.image_url"),
    "image of two sources": (image_url(url=PNG_URL, file_id="file-1"), "0.image_url"),
    "url null": (image_url(url=None), "0.image_url"),
    "url a list": (image_url(url=[PNG_URL]), "0.image_url.url"),
    "url empty": (image_url(url=""), "0.image_url.url"),
    "url of another scheme": (image_url(url="file:///etc/passwd"), "0.image_url.url"),
    "url of 3,000 characters": (image_url(url="https://example.org/" + "a" * 3_000), "0.image_url.url"),
    "data url without base64": (image_url(url="data:image/png,%89PNG"), "0.image_url.url"),
    "data url without comma": (image_url(url="data:image/png;base64"), "0.image_url.url"),
    "data url without data": (image_url(url="data:image/png;base64,"), "0.image_url.url"),
    "data url of text": (image_url(url="data:text/plain;base64,aGVsbG8="), "0.image_url.url"),
    "data url of a page": (image_url(url="data:text/html;base64,PGI+"), "0.image_url.url"),
    "data url of a drawing": (image_url(url="data:image/svg+xml;base64,PHN2Zz4="), "0.image_url.url"),
    "image of 28 MB": (image_url(url="data:image/png;base64," + "A" * 28_000_000), "0.image_url.url"),
    "unknown detail": (image_url(url=PNG_URL, detail="ultra"), "0.image_url.detail"),
    "file id a path": (image_url(file_id="../../etc/passwd"), "0.image_url.file_id"),
    "audio without format": ([{"type": "input_audio", "input_audio": {"data": "AAAA"}}], "0.input_audio.format"),
    "audio of an unknown format": (
        [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}],
        "0.input_audio.format",
    ),
    "audio data null": ([{"type": "input_audio", "input_audio": {"data": None, "format": "wav"}}], "0.input_audio.data"),
    "video of an image": ([{"type": "video_url", "video_url": {"url": PNG_URL}}], "0.video_url.url"),
    "file of nothing": ([{"type": "file", "file": {"filename": "a.txt"}}], "0.file"),
    "file data a number": ([{"type": "file", "file": {"file_data": 5}}], "0.file.file_data"),
    "file name of 300 characters": ([{"type": "file", "file": {"file_data": "AAAA", "filename": "a" * 300}}], "0.file.filename"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_part_is_refused_by_field_then_a_good_request_is_answered(client: httpx.AsyncClient, name: str) -> None:
    parts, place = BAD[name]
    response = await client.post(PATH, json=chat_body(messages=[{"role": "user", "content": parts}]))
    assert_refused(response, 400, param=f"messages.0.content.{place}")
    await assert_good_chat(client)


async def test_unknown_part_is_told_the_known_ones(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=chat_body(messages=[{"role": "user", "content": [{"type": "magic"}]}]))
    message = assert_refused(response, 400)["message"]
    assert all(f"'{kind}'" in message for kind in ("text", "image_url", "input_audio", "video_url", "file"))


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool"])
async def test_only_users_send_media(client: httpx.AsyncClient, role: str) -> None:
    message = {"role": role, "content": [{"type": "text", "text": "Hi"}, IMAGE]}
    if role == "tool":
        message["tool_call_id"] = "call_1"
    response = await client.post(PATH, json=chat_body(messages=[message, {"role": "user", "content": "Hi"}]))
    assert "role 'user'" in assert_refused(response, 400, param="messages.0.content.1.type")["message"]


@pytest.mark.parametrize(
    "contents",
    [[[IMAGE] * 10_000], [[IMAGE]] * 100, [[IMAGE] * (MAX_MEDIA_PARTS + 1)], [[{"type": "file"}] * 10_000]],
    ids=["10,000 in one message", "100 messages", "one too many", "10,000 broken ones"],
)
async def test_too_many_parts_are_refused_before_each_is_looked_at(client: httpx.AsyncClient, contents: list[Any]) -> None:
    body = chat_body(messages=[{"role": "user", "content": content} for content in contents])
    cpu_s = math.inf
    for _ in range(2):
        started_s = time.thread_time()
        response = await client.post(PATH, json=body)
        cpu_s = min(cpu_s, time.thread_time() - started_s)
    assert_refused(response, 400, param="messages", code="too_many_parts")
    assert cpu_s < 0.1
    await assert_good_chat(client)


@pytest.mark.parametrize("part", [{"type": "magic"}, {"type": "text", "text": 5}, {"type": "text"}, 7])
def test_looking_at_wrong_parts_ends_at_the_first_one(part: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [part] * 1_000}]}
    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate(body)
    assert caught.value.error_count() == 2, "of the list, and that it is no string"
    with pytest.raises(InvalidRequestError) as told:
        validate(ChatCompletionRequest, body)
    assert str(told.value.param).startswith("messages.0.content.0")


def request(*contents: Any, **fields: Any) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return validate(ChatCompletionRequest, {"model": "m", "messages": messages, **fields})


@pytest.mark.parametrize("content", ["một\nhai", [{"type": "text", "text": "một"}, {"type": "text", "text": "hai"}]])
def test_text_reaches_engines_as_text(content: Any) -> None:
    asked = request(content)
    assert asked.to_engine_body()["messages"] == [{"role": "user", "content": "một\nhai"}]
    assert not asked.has_media
    assert asked.messages[0].parts == ()


def test_field_of_the_hub_s_own_cannot_be_sent() -> None:
    [message] = validate(
        ChatCompletionRequest, {"model": "m", "messages": [{"role": "user", "content": "hi", "parts": [IMAGE], "sent": "no"}]}
    ).messages
    assert (message.content, message.parts) == ("hi", ())


def test_media_that_nobody_has_read_reach_no_engine() -> None:
    asked = request([{"type": "text", "text": "What?"}, IMAGE])
    assert asked.has_media
    assert asked.messages[0].content == "What?"
    with pytest.raises(ValueError, match="before an engine"):
        asked.to_engine_body()


def test_ready_parts_keep_their_order_and_neighbouring_texts_are_joined() -> None:
    asked = request([{"type": "text", "text": "a"}, IMAGE])
    [message] = asked.messages
    ready = message.with_parts([ReadyText("a"), ReadyText("b"), ReadyImage("data:1", "low"), ReadyText(""), ReadyText("c")])
    body = asked.model_copy(update={"messages": [ready]}).to_engine_body()
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "a\nb"},
        {"type": "image_url", "image_url": {"url": "data:1", "detail": "low"}},
        {"type": "text", "text": "c"},
    ]
    assert [image["url"] for image in images_of(body)] == ["data:1"]
    assert text_of(body["messages"][0]["content"]) == "a\nb\nc"


def test_text_beside_media_counts_against_the_limit() -> None:
    with pytest.raises(InvalidRequestError, match="1000001 characters"):
        request([{"type": "text", "text": "a" * 1_000_001}, IMAGE])


def test_estimate_counts_an_image_by_its_detail_and_not_by_its_data() -> None:
    def tokens(url: str, detail: str) -> int:
        content = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": url, "detail": detail}}]
        return estimate_tokens({"messages": [{"role": "user", "content": content}]})

    assert tokens("data:image/png;base64," + "A" * 4_000_000, "auto") == tokens("", "auto")
    assert 1_280 < tokens("", "high") < 1_500
    assert 256 < tokens("", "low") < 500


def test_schema_tells_clients_of_the_parts() -> None:
    text = str(ChatCompletionRequest.model_json_schema())
    assert all(name in text for name in ("image_url", "input_audio", "video_url", "file_data", "'content'"))
    assert "'sent'" not in text


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from([PNG_URL, "data:", "https://", "file-1", "auto"])
)
_KEYS = st.sampled_from(
    [
        "type",
        "text",
        "image_url",
        "url",
        "file_id",
        "detail",
        "input_audio",
        "data",
        "format",
        "video_url",
        "file",
        "file_data",
        "filename",
    ]
)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12
)
_TYPED = st.dictionaries(_KEYS, _JSON, max_size=4).flatmap(
    lambda fields: st.sampled_from(["text", "image_url", "input_audio", "video_url", "file"]).map(
        lambda kind: fields | {"type": kind}
    )
)


@given(st.lists(_TYPED | _JSON, min_size=1, max_size=4))
def test_any_parts_are_taken_or_refused_in_words(parts: list[Any]) -> None:
    try:
        asked = request(parts)
    except InvalidRequestError as error:
        assert error.message
        assert str(error.param).startswith("messages")
    else:
        assert all(message.media or not message.parts for message in asked.messages)
