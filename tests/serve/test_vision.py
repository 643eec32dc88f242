"""A model that sees on the running hub: loaded like any other, and its answers depend on the images."""

import asyncio
import base64
import io
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import openai
import pytest

from aihub.chat.service import ChatEngine
from aihub.core.errors import HubError, InvalidRequestError
from deployments.handles import AppConnection
from deployments.llm_app import app_name
from deployments.service_client import engine_client
from tests.cluster import RunningHub
from tests.serve.tiny_vision_model import build_tiny_vision_model

MODEL = "tiny-vision"
LOAD_TIMEOUT_S = 400.0

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


def post(hub: RunningHub, verb: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{hub.url}/api/v1/models/{verb}", json=fields, timeout=LOAD_TIMEOUT_S)


@pytest.fixture(scope="module")
def model(hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model beside the hub's others, loaded; the default model has its place back afterwards."""
    built, folder = tmp_path_factory.mktemp("built"), hub.home / "models" / MODEL
    build_tiny_vision_model(hub.home / "models" / hub.model, built)
    shutil.copytree(built, folder.with_name(f".{MODEL}"))
    folder.with_name(f".{MODEL}").rename(folder)  # whole from the first look on
    loaded = post(hub, "load", model_id=MODEL)
    assert loaded.status_code == 200, loaded.text
    yield MODEL
    assert post(hub, "unload", model_id=MODEL).status_code == 200
    shutil.rmtree(folder)
    assert post(hub, "load", model_id=hub.model).status_code == 200


@pytest.fixture
async def connection(model: str) -> AsyncIterator[AppConnection]:
    connection = AppConnection(app_name(model), "The model")
    connection.start()
    while connection.health.status != "ok":  # noqa: ASYNC110  # there is no event to wait for in another process
        await asyncio.sleep(0.05)
    yield connection
    await connection.close()


@pytest.fixture
def engine(connection: AppConnection) -> ChatEngine:
    return engine_client(connection)


def picture(color: str | tuple[int, int, int], width: int = 100, height: int = 80, kind: str = "png") -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, kind)
    return as_part(buffer.getvalue(), kind)


def as_part(data: bytes, kind: str = "png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}


def body(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "Trong ảnh có gì?"}]
    plain = {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_completion_tokens": 1}
    return plain | fields


async def likeliest(engine: ChatEngine, *parts: Any) -> dict[str, float]:
    """Logprobs of the likeliest first words of the answer."""
    answer = await engine.chat(body(*parts, logprobs=True, top_logprobs=5))
    return {item["token"]: item["logprob"] for item in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}


async def refusal(engine: ChatEngine, *parts: Any) -> HubError:
    with pytest.raises(InvalidRequestError) as refused:
        await engine.chat(body(*parts))
    return refused.value


async def test_model_says_how_many_images_it_takes_and_which_words_stand_for_them(engine: ChatEngine) -> None:
    info = await engine.model_info()
    assert info.max_images == 16
    assert {"<image>", "<fake_token_around_image>", "<row_1_col_1>"} <= set(info.special_tokens)


async def test_another_image_changes_the_answer_and_the_same_one_does_not(engine: ChatEngine) -> None:
    red, blue = picture("red"), picture("blue")
    first = await likeliest(engine, red)
    assert await likeliest(engine, red) == pytest.approx(first, abs=1e-3)
    assert await likeliest(engine, blue) != pytest.approx(first, abs=1e-2)
    assert await likeliest(engine) != pytest.approx(first, abs=1e-2)
    assert await likeliest(engine, red) == pytest.approx(first, abs=1e-3)


async def test_order_of_images_matters_and_each_kind_of_file_is_read(engine: ChatEngine) -> None:
    red, blue = picture("red"), picture("blue")
    assert await likeliest(engine, red, blue) != pytest.approx(await likeliest(engine, blue, red), abs=1e-2)
    for kind in ("jpeg", "webp", "gif"):
        assert len(await likeliest(engine, picture("red", kind=kind))) == 5


async def test_tokens_are_counted_with_those_of_the_images(engine: ChatEngine, connection: AppConnection) -> None:
    without = await engine.count_tokens(body())
    for parts in (
        [picture("red")],
        [picture("red"), picture("blue", 30, 300)],
        [picture("red", 1, 1)],
        [picture("red", 4000, 4000)],
    ):
        counted = await engine.count_tokens(body(*parts))
        answer = await engine.chat(body(*parts))
        assert answer["usage"]["prompt_tokens"] == counted
        assert without + 8 * len(parts) < counted <= without + 212 * len(parts)


async def test_plain_text_is_answered_as_by_any_model(engine: ChatEngine) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Xin chào!"}]
    answer = await engine.chat(body(messages=messages))
    assert answer["usage"]["completion_tokens"] == 1


async def test_too_many_images_are_refused(engine: ChatEngine) -> None:
    assert (await refusal(engine, *[picture("red")] * 17)).code == "too_many_images"
    assert len(await likeliest(engine, *[picture("red")] * 16)) == 5


async def test_images_beyond_the_context_are_refused_as_a_context_that_is_too_long(engine: ChatEngine) -> None:
    long = {"type": "text", "text": "phở " * 3000}
    assert (await refusal(engine, picture("red"), long)).code == "context_length_exceeded"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a.png", "file:///etc/hostname", "https://example.org/a.png"])
async def test_address_is_refused_and_not_fetched(engine: ChatEngine, address: str) -> None:
    began_s = asyncio.get_running_loop().time()
    error = await refusal(engine, {"type": "image_url", "image_url": {"url": address}})
    assert "not fetched" in error.message
    assert asyncio.get_running_loop().time() - began_s < 2


async def test_image_of_another_request_cannot_be_named(engine: ChatEngine) -> None:
    await likeliest(engine, picture("red") | {"uuid": "secret"})
    await refusal(engine, {"type": "image_url", "image_url": None, "uuid": "secret"})


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n" + bytes(40)])
async def test_bad_image_costs_its_own_request(engine: ChatEngine, data: bytes) -> None:
    error = await refusal(engine, as_part(data))
    assert (error.code, error.param) == ("invalid_media", "messages")
    with pytest.raises(InvalidRequestError):
        async with aclosing(engine.stream_chat(body(as_part(data), stream=True))) as frames:
            async for _ in frames:
                pass
    assert len(await likeliest(engine, picture("red"))) == 5


async def test_image_of_81_megapixels_is_refused_before_it_is_decoded(engine: ChatEngine) -> None:
    assert "9000x9000" in (await refusal(engine, picture("red", 9000, 9000))).message


async def test_requests_with_different_images_at_the_same_time_get_their_own_answers(engine: ChatEngine) -> None:
    pictures = [picture((30 * number, 255 - 30 * number, 0)) for number in range(8)]
    alone = [await likeliest(engine, one) for one in pictures]
    together = await asyncio.gather(*(likeliest(engine, one) for one in pictures))
    for one, other in zip(alone, together, strict=True):
        best = max(one, key=lambda token: one[token])
        assert other.get(best) == pytest.approx(one[best], abs=0.05)  # in bfloat16 a batch changes the third digit


async def test_closed_stream_frees_the_engine(engine: ChatEngine, connection: AppConnection) -> None:
    long = body(picture("red"), stream=True, max_completion_tokens=2000, ignore_eos=True)
    async with aclosing(engine.stream_chat(long)) as frames:
        await anext(frames)
        assert await connection.call("active_requests") == 1
    deadline_s = asyncio.get_running_loop().time() + 2
    while await connection.call("active_requests"):
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.05)


def test_official_client_asks_about_an_image_and_auto_picks_the_model_that_sees(model: str, client: openai.OpenAI) -> None:
    content: Any = [{"type": "text", "text": "What is <image> in it?"}, picture("red")]
    for name in (model, "auto"):
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": content}], max_tokens=2, temperature=0
        )
        assert (answer.model, answer.choices[0].message.role) == (model, "assistant")


def test_model_that_reads_text_only_names_the_one_that_sees(hub: RunningHub, model: str, client: openai.OpenAI) -> None:
    content: Any = [picture("red")]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=hub.model, messages=[{"role": "user", "content": content}], max_tokens=1)
    assert refused.value.code == "model_reads_no_images"
    assert model in refused.value.message


def test_image_in_a_vector_store_is_shown_to_the_model(model: str, client: openai.OpenAI) -> None:
    url = picture("red")["image_url"]["url"]
    file = client.files.create(file=("red.png", base64.b64decode(url.partition(",")[2]), "image/png"), purpose="vision")
    store = client.vector_stores.create(name="pictures")
    try:
        attached = client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id, poll_interval_ms=100)
        if attached.status == "completed":
            content = client.vector_stores.files.content(file.id, vector_store_id=store.id)
            assert "".join(part.text or "" for part in content).strip()
        else:  # its weights are random: it may have no words for an image
            assert attached.last_error is not None
            assert attached.last_error.code == "invalid_file"
            assert "said nothing about the image" in attached.last_error.message
    finally:
        client.vector_stores.delete(store.id)
        client.files.delete(file.id)
