import hashlib

import pytest

from aihub.core.errors import ConfigurationError
from aihub.models.keys import parse_key
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.status import UpstreamLookup
from tests.unit.models.store.ollama_server import serve

CATALOGUE = load_catalogue()


def offline(hub_id: str) -> str:
    raise ConfigurationError(f"{hub_id}: the hub does not answer.")


async def test_hub_model_is_as_new_as_its_newest_commit() -> None:
    lookup = UpstreamLookup(CATALOGUE, read_commit=lambda hub_id: f"commit-of-{hub_id}")
    assert (await lookup.look_up(parse_key("hf:Qwen/Qwen2.5-0.5B-Instruct"))).digest == "commit-of-Qwen/Qwen2.5-0.5B-Instruct"


async def test_hub_that_does_not_answer_is_a_reason() -> None:
    found = await UpstreamLookup(CATALOGUE, read_commit=offline).look_up(parse_key("hf:a/b"))
    assert (found.digest, found.detail) == (None, "a/b: the hub does not answer.")


async def test_ollama_model_is_named_by_the_hash_of_its_manifest() -> None:
    manifest = b'{"schemaVersion":2}'
    async with serve(manifest) as url:
        found = await UpstreamLookup(CATALOGUE, ollama_library=url).look_up(parse_key("ollama:gemma2:9b"))
    assert found.digest == hashlib.sha256(manifest).hexdigest()


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "302 Found"])
async def test_library_that_fails_is_a_reason(status: str) -> None:
    async with serve(b"", status=status) as url:
        found = await UpstreamLookup(CATALOGUE, ollama_library=url).look_up(parse_key("ollama:gemma2:9b"))
    assert found.digest is None
    assert "does not answer" in found.detail


async def test_speech_model_is_compared_with_the_catalogue() -> None:
    lookup = UpstreamLookup(CATALOGUE)
    entry = CATALOGUE.get(parse_key("vosk:en"))
    assert entry is not None
    assert (await lookup.look_up(parse_key("vosk:en"))).digest == entry.sha256
    assert (await lookup.look_up(parse_key("vosk:vi"))).digest is None


async def test_packaged_model_has_the_version_of_its_package() -> None:
    assert (await UpstreamLookup(CATALOGUE).look_up(parse_key("package:smollm2"))).digest == "0.1.2"
    assert (await UpstreamLookup(CATALOGUE).look_up(parse_key("package:none"))).digest is None


@pytest.mark.parametrize("key", ["local:shop", "openai:gpt-4o-mini", "github:gpt-4o-mini"])
async def test_models_without_a_source_say_so(key: str) -> None:
    found = await UpstreamLookup(CATALOGUE).look_up(parse_key(key))
    assert found.digest is None
    assert found.detail
