"""One suite for every `Embedder`: the real model on both runtimes, and the fake."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from aihub.core.errors import InvalidRequestError
from aihub.core.settings import Settings
from aihub.embeddings.embedder import SentenceEmbedder
from aihub.embeddings.fake import FakeEmbedder
from aihub.embeddings.service import Embedder
from aihub.models.store.default_models import prepare_embedding_model

TEXTS = ["Xin chào các bạn", "hello", "a much longer text about shoes " * 20, "مرحبا", "👩‍👩‍👧 emoji", "Z̷a̷l̷g̷o̷"]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["torch", "openvino", "fake"])
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder]:
    if request.param == "fake":
        yield FakeEmbedder()
        return
    folder = prepare_embedding_model("package:minilm", Settings(), backend=request.param)
    real = SentenceEmbedder(folder, "all-minilm-l6-v2")
    await real.start()
    yield real
    await real.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_vectors_are_float32_of_norm_one_in_order(embedder: Embedder) -> None:
    model_info = await embedder.model_info()
    whole = await embedder.embed(TEXTS)
    assert whole.vectors.dtype == np.float32
    assert whole.vectors.shape == (len(TEXTS), model_info.dimensions)
    assert np.allclose(np.linalg.norm(whole.vectors, axis=1), 1.0, atol=1e-5)
    for index, text in enumerate(TEXTS):
        alone = await embedder.embed([text])
        assert float(alone.vectors[0] @ whole.vectors[index]) > 0.9999
        assert alone.token_counts == [whole.token_counts[index]]


async def test_many_callers_at_once_get_their_own_vectors(embedder: Embedder) -> None:
    texts = [f"số {number} " + "từ " * (number % 40) for number in range(64)]
    together = await asyncio.gather(*(embedder.embed([text]) for text in texts))
    expected = (await embedder.embed(texts)).vectors
    cosines = (np.concatenate([one.vectors for one in together]) * expected).sum(axis=1)
    assert float(cosines.min()) > 0.999


async def test_similar_texts_are_nearer_than_different_ones(embedder: Embedder) -> None:
    shop, store, moon = (await embedder.embed(["the shop opens at nine", "the shop opens at ten", "craters of the moon"])).vectors
    assert shop @ store > shop @ moon


async def test_token_ids_are_taken(embedder: Embedder) -> None:
    vectors = (await embedder.embed([[2023, 2003], [7592]])).vectors
    assert vectors.shape[0] == 2
    assert not np.allclose(vectors[0], vectors[1])


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([], "empty"),
        (["fine", ""], "Input 1"),
        (["   \n"], "Input 0"),
        ([[]], "Input 0"),
        ([[5], [-1]], "-1"),
        ([[10**9]], "1000000000"),
        (["fine", "word " * 5000], "Input 1 has"),
        (["x"] * 2049, "2049"),
        (["\ud800"], "surrogate"),
    ],
)
async def test_bad_input_is_named_and_the_next_request_works(embedder: Embedder, inputs: list[str], named: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await embedder.embed(inputs)
    assert named in raised.value.message
    assert raised.value.param == "input"
    assert len((await embedder.embed(["Xin chào"])).vectors) == 1


async def test_a_caller_who_leaves_does_not_disturb_the_others(embedder: Embedder) -> None:
    leaving = asyncio.create_task(embedder.embed(["long text " * 50] * 300))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert len((await embedder.embed(["Xin chào"])).vectors) == 1


async def test_health_is_ok_while_it_works(embedder: Embedder) -> None:
    assert (await embedder.health()).status == "ok"
