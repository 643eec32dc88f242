import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from aihub.chat.providers.connection import ProviderMetrics
from aihub.chat.providers.failures import ProviderNotConfiguredError, ProviderUnavailableError
from aihub.chat.providers.pool import ProviderPool
from aihub.chat.providers.settings import PROVIDER_NAMES, ProviderName, ProviderSettings, load_known_providers
from aihub.chat.service import estimate_tokens
from aihub.core.errors import ConfigurationError

KNOWN = load_known_providers()
KEY = SecretStr("sk-test")


@pytest.mark.parametrize("provider", PROVIDER_NAMES)
async def test_provider_without_key_or_url_says_what_to_set(provider: ProviderName) -> None:
    pool = ProviderPool(ProviderSettings(), KNOWN, ProviderMetrics())
    with pytest.raises(ProviderNotConfiguredError, match="set [A-Z_]+"):
        pool.engine(provider, "x")
    await pool.close()


async def test_ollama_that_is_down_offers_no_models() -> None:
    pool = ProviderPool(ProviderSettings(ollama_url="http://127.0.0.1:9"), KNOWN, ProviderMetrics())
    assert await pool.models() == []
    await pool.close()


async def test_configured_provider_lists_its_known_models() -> None:
    pool = ProviderPool(ProviderSettings(openai_api_key=KEY), KNOWN, ProviderMetrics())
    model_infos = await pool.models()
    assert ("openai/gpt-4o-mini", 128000, "openai") in [
        (model_info.model_id, model_info.context_tokens, model_info.owned_by) for model_info in model_infos
    ]
    await pool.close()


async def test_wrong_settings_leave_the_old_ones_in_force() -> None:
    pool = ProviderPool(ProviderSettings(openai_api_key=KEY), KNOWN, ProviderMetrics())
    with pytest.raises(ConfigurationError):
        pool.configure(ProviderSettings(openai_api_key=KEY, openai_base_url="ftp://x"))
    assert pool.configured == ("openai",)
    pool.configure(ProviderSettings(ollama_url="http://127.0.0.1:9"))
    assert pool.configured == ("ollama",)
    await pool.close()


async def test_settings_can_be_exchanged_many_times_on_one_registry() -> None:
    metrics = ProviderMetrics()
    pool = ProviderPool(ProviderSettings(openai_api_key=KEY), KNOWN, metrics)
    for timeout_s in (1.0, 2.0, 3.0):
        pool.configure(ProviderSettings(openai_api_key=KEY, timeout_s=timeout_s))
    assert metrics.registry.get_sample_value("aihub_provider_breaker_open", {"provider": "openai"}) == 0
    await pool.close()


async def test_fifty_reconfigurations_leave_one_open_client() -> None:
    pool = ProviderPool(ProviderSettings(openai_api_key=KEY), KNOWN, ProviderMetrics())
    seen = []
    for number in range(50):
        seen.append(pool._connections["openai"].origin._client)
        pool.configure(ProviderSettings(openai_api_key=KEY, timeout_s=1.0 + number))
    await asyncio.sleep(0.05)
    assert [client.is_closed for client in seen] == [True] * 50
    assert not pool._connections["openai"].origin._client.is_closed
    await pool.close()


async def test_running_stream_ends_on_its_old_connection_which_then_closes() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one\n"
            begun.set()
            await go_on.wait()
            yield b"two\n"

        return httpx.Response(200, content=pieces())

    pool = ProviderPool(ProviderSettings(openai_api_key=KEY), KNOWN, ProviderMetrics())
    origin = pool._connections["openai"].origin
    origin._client._transport = httpx.MockTransport(answer)
    client, lines = origin._client, origin.post_lines("/x", {})
    assert await anext(lines) == b"one"
    pool.configure(ProviderSettings(ollama_url="http://127.0.0.1:9"))
    await asyncio.sleep(0.05)
    assert not client.is_closed
    go_on.set()
    assert [line async for line in lines] == [b"two"]
    assert client.is_closed
    await pool.close()


async def test_engine_held_across_a_reconfiguration_still_answers_and_leaves_nothing_open() -> None:
    pool = ProviderPool(ProviderSettings(openai_api_key=KEY, openai_base_url="http://127.0.0.1:9"), KNOWN, ProviderMetrics())
    origin = pool._connections["openai"].origin
    pool.configure(ProviderSettings())
    await asyncio.sleep(0.05)
    assert origin._client.is_closed
    with pytest.raises(ProviderUnavailableError):
        await origin.post_json("/x", {})
    assert origin._client.is_closed
    await pool.close()


def test_estimate_counts_tools_and_tool_calls() -> None:
    plain = {"messages": [{"role": "user", "content": "Giá phở bò bao nhiêu?"}]}
    call = {"id": "c", "type": "function", "function": {"name": "tra_gia", "arguments": '{"món": "phở"}'}}
    with_tools = {"messages": [*plain["messages"], {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": [call]}
    assert estimate_tokens(with_tools) > estimate_tokens(plain) + 40


async def test_ollamas_model_to_fall_back_to_is_the_operators_where_one_is_set() -> None:
    pool = ProviderPool(ProviderSettings(ollama_url="http://127.0.0.1:9"), load_known_providers(), ProviderMetrics())
    try:
        shipped = pool.default_model("ollama", "unknown")
        pool.configure(ProviderSettings(ollama_url="http://127.0.0.1:9", ollama_model="shop:1b"))
        assert (shipped != "shop:1b", pool.default_model("ollama", "unknown")) == (True, "shop:1b")
        assert pool.default_model("ollama", "ollama/gemma2:9b") == "gemma2:9b"
        assert pool.default_model("openai", "unknown") != "shop:1b"
    finally:
        await pool.close()
