import asyncio
from typing import Never

import httpx
import pytest

from aihub.core.errors import ModelUnavailableError
from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts


async def test_list_holds_chat_and_embedding_models(client: httpx.AsyncClient) -> None:
    listing = (await client.get("/v1/models")).json()
    assert listing["object"] == "list"
    assert [model["id"] for model in listing["data"]] == ["fake-chat", "fake-embedder", "vosk:en", "vosk:vi"]
    assert all(model["object"] == "model" and model["created"] > 0 for model in listing["data"])


async def test_list_leaves_out_an_embedder_that_is_down(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.embedder.error = ModelUnavailableError("loading")
    listing = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listing["data"]] == ["fake-chat", "vosk:en", "vosk:vi"]


@pytest.mark.parametrize("delay_s", [0.0, 60.0])
async def test_list_leaves_out_speech_models_that_are_down_or_slow(
    client: httpx.AsyncClient, parts: Parts, monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    async def models() -> Never:
        await asyncio.sleep(delay_s)
        raise ModelUnavailableError("starting")

    monkeypatch.setattr("aihub.models.routes.SPEECH_TIMEOUT_S", 0.1)
    monkeypatch.setattr(parts.speech, "models", models)
    listing = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listing["data"]] == ["fake-chat", "fake-embedder"]


async def test_get_finds_a_model_by_name(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models/fake-embedder")).json()["id"] == "fake-embedder"


@pytest.mark.parametrize(
    "name",
    ["other", "org/model", "FAKE-CHAT", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "a" * 300, "fake-chat%00", "fake-chat%0a"],
)
async def test_get_of_an_unknown_name_is_404(client: httpx.AsyncClient, name: str) -> None:
    assert_refused(await client.get(f"/v1/models/{name}"), 404)
