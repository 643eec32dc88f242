"""The whole "Embeddings" list of bad inputs, and every good form."""

import base64
import json
import math
from typing import Any, cast

import httpx
import numpy as np
import openai
import pytest

from aihub.core.errors import ModelUnavailableError, OverloadedError
from aihub.embeddings.fake import FakeEmbedder
from aihub.embeddings.service import Embeddings
from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts, TinyEmbedder

PATH = "/v1/embeddings"


class Embedder(FakeEmbedder):
    """The fake, with one failure to give."""

    error: Exception | None = None

    async def embed(self, inputs: Any) -> Embeddings:
        if self.error is not None:
            raise self.error
        return await super().embed(inputs)


@pytest.fixture
def embedder() -> Embedder:
    return Embedder(dimensions=48)


@pytest.fixture
def parts(embedder: Embedder) -> Parts:
    return Parts(embedder=cast(TinyEmbedder, embedder))


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "fake-embedder", "input": "Giày chạy bộ"} | changes


async def post(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post(PATH, json=body(**changes))


async def vectors(client: httpx.AsyncClient, **changes: Any) -> list[list[float]]:
    response = await post(client, **changes)
    assert response.status_code == 200, response.text
    return [item["embedding"] for item in response.json()["data"]]


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty string": ({"input": ""}, "input", "Input 0 is empty"),
    "whitespace only": ({"input": [" ", "\n\t"]}, "input", "Input 0 is empty"),
    "list of empties": ({"input": ["", ""]}, "input", "Input 0 is empty"),
    "empty list": ({"input": []}, "input", "1 to 2048"),
    "null": ({"input": None}, "input", "string"),
    "an object": ({"input": {"text": "a"}}, "input", "string"),
    "a number": ({"input": 7}, "input", "string"),
    "true": ({"input": True}, "input", "string"),
    "100,000 items": ({"input": ["a"] * 100_000}, "input", "2048"),
    "one item of 3 MB": ({"input": "a" * 3_000_000}, "input", "3000000"),
    "a long text among short ones": ({"input": ["a", "từ " * 300]}, "input", "Input 1 has 302 tokens"),
    "texts and tokens mixed": ({"input": ["a", [1]]}, "input", "all be strings"),
    "nested too deep": ({"input": [[["a"]]]}, "input", "token ids"),
    "null among texts": ({"input": ["a", None]}, "input", "all be strings"),
    "an empty token list": ({"input": [[1], []]}, "input", "Input 1 is an empty list"),
    "a negative token": ({"input": [[1, 2], [3, -4]]}, "input", "-4"),
    "a negative token, one list": ({"input": [-4]}, "input", "-4"),
    "a token out of range": ({"input": [5, 30_000]}, "input", "30000"),
    "a token that is true": ({"input": [[1, True]]}, "input", "integers"),
    "a token that is a fraction": ({"input": [[1.5]]}, "input", "integers"),
    "a token that is text": ({"input": [["1"]]}, "input", "integers"),
    "too many tokens": ({"input": [[1] * 300]}, "input", "302 tokens"),
    "dimensions 0": ({"dimensions": 0}, "dimensions", "1"),
    "dimensions -1": ({"dimensions": -1}, "dimensions", "1"),
    "dimensions under the model's": ({"dimensions": 16}, "dimensions", "48 dimensions"),
    "dimensions over the model's": ({"dimensions": 4096}, "dimensions", "48 dimensions"),
    "dimensions as text": ({"dimensions": "48"}, "dimensions", "integer"),
    "dimensions huge": ({"dimensions": 2**62}, "dimensions", "65536"),
    "unknown encoding_format": ({"encoding_format": "hex"}, "encoding_format", "base64"),
    "encoding_format a number": ({"encoding_format": 32}, "encoding_format", "base64"),
    "encoding_format in wrong case": ({"encoding_format": "Float"}, "encoding_format", "base64"),
    "model null": ({"model": None}, "model", "string"),
    "model empty": ({"model": ""}, "model", "1 character"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_request_is_refused_by_field_then_a_good_one_is_answered(client: httpx.AsyncClient, name: str) -> None:
    changes, param, said = BAD[name]
    error = assert_refused(await post(client, **changes), 400, param=param)
    assert said in error["message"]
    assert len(await vectors(client)) == 1


async def test_five_megabytes_are_refused_by_size(client: httpx.AsyncClient) -> None:
    assert_refused(await post(client, input="a" * 5_000_000), 413, code="payload_too_large")


async def test_a_lone_surrogate_is_refused(client: httpx.AsyncClient) -> None:
    raw = json.dumps(body(input="X")).replace("X", "\\ud800").encode()
    assert_refused(await client.post(PATH, content=raw, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("model", ["gpt-4o", "fake-chat", "../../etc/passwd", "FAKE-EMBEDDER", "fake-embedder "])
async def test_another_model_is_not_found(client: httpx.AsyncClient, model: str) -> None:
    error = assert_refused(await post(client, model=model), 404, param="model", code="model_not_found")
    assert "fake-embedder" in error["message"]


@pytest.mark.parametrize("field", ["model", "input"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, field: str) -> None:
    request = body()
    del request[field]
    assert_refused(await client.post(PATH, json=request), 400, param=field)


async def test_answer_has_openai_s_shape(client: httpx.AsyncClient) -> None:
    answer = (await post(client, input=["xin chào", "áo dài tay"])).json()
    assert list(answer) == ["object", "data", "model", "usage"]
    assert (answer["object"], answer["model"]) == ("list", "fake-embedder")
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    for item in answer["data"]:
        assert len(item["embedding"]) == 48
        assert math.isclose(np.linalg.norm(item["embedding"]), 1.0, abs_tol=1e-6)


async def test_each_text_keeps_its_place_and_its_vector(client: httpx.AsyncClient) -> None:
    texts = [f"mặt hàng số {number} " * (1 + number % 7) for number in range(200)]
    together = await vectors(client, input=texts)
    assert together[137] == (await vectors(client, input=texts[137]))[0]
    assert together[::-1] == await vectors(client, input=texts[::-1])


async def test_2048_texts_fit_one_request(client: httpx.AsyncClient) -> None:
    assert len(await vectors(client, input=["a"] * 2048)) == 2048


@pytest.mark.parametrize("tokens", [[5, 6, 7], [[5, 6, 7]], [[5], [6, 7, 8, 9]]])
async def test_token_arrays_are_taken_ragged_too(client: httpx.AsyncClient, tokens: list[Any]) -> None:
    expected = 1 if isinstance(tokens[0], int) else len(tokens)
    assert len(await vectors(client, input=tokens)) == expected


async def test_base64_is_little_endian_float32_of_the_same_numbers(client: httpx.AsyncClient) -> None:
    [encoded] = (await post(client, encoding_format="base64")).json()["data"]
    decoded = np.frombuffer(base64.b64decode(encoded["embedding"]), "<f4")
    assert decoded.tolist() == (await vectors(client, encoding_format="float"))[0]


async def test_the_model_s_own_dimensions_and_harmless_fields_are_fine(client: httpx.AsyncClient) -> None:
    extras = {"dimensions": 48, "user": "shop-17", "some_field_of_tomorrow": {"a": 1}}
    assert await vectors(client, **extras) == await vectors(client)


async def test_official_client_reads_both_forms(client: httpx.AsyncClient) -> None:
    hub = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="unused", http_client=cast(Any, client), max_retries=0)
    default = await hub.embeddings.create(model="fake-embedder", input=["a", "b"])
    numbers = await hub.embeddings.create(model="fake-embedder", input=["a", "b"], encoding_format="float")
    assert [item.embedding for item in default.data] == [item.embedding for item in numbers.data]
    with pytest.raises(openai.BadRequestError) as bad:
        await hub.embeddings.create(model="fake-embedder", input=["a"], dimensions=16)
    assert bad.value.param == "dimensions"


@pytest.mark.parametrize("error", [OverloadedError("busy"), ModelUnavailableError("loading")])
async def test_a_busy_or_missing_engine_is_503_with_retry_after(
    client: httpx.AsyncClient, embedder: Embedder, error: Exception
) -> None:
    embedder.error = error
    response = await post(client)
    assert_refused(response, 503)
    assert int(response.headers["retry-after"]) >= 1
    embedder.error = None
    assert len(await vectors(client)) == 1


async def test_tokens_are_counted(client: httpx.AsyncClient, parts: Parts) -> None:
    await post(client, input=["xin chào", "áo dài tay"])
    assert parts.metrics.registry.get_sample_value("aihub_tokens_total", {"route": PATH, "kind": "prompt"}) == 9
