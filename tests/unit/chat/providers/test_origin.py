import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aihub.chat.providers.connection import ProviderMetrics
from aihub.chat.providers.failures import ProviderError
from aihub.chat.providers.origin import Origin, parse_object, read_retry_after_s
from aihub.chat.providers.pool import ProviderPool, split_model_id
from aihub.chat.providers.settings import ProviderSettings, load_known_providers
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.core.schemas import validate

KEY = SecretStr("sk-test")


@pytest.mark.parametrize(
    "url",
    ["", "api.openai.com", "ftp://host/v1", "file:///etc/passwd", "https://", "https://me:pw@host/v1", "https://host/?x=1"],
)
def test_urls_that_are_no_plain_address_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Origin("openai", url)


def test_key_never_travels_unencrypted_to_another_machine() -> None:
    with pytest.raises(ConfigurationError, match="unencrypted"):
        Origin("openai", "http://10.0.0.7:8000/v1", api_key=KEY)
    assert Origin("local", "http://10.0.0.7:8000/v1").base_url == "http://10.0.0.7:8000/v1"
    assert Origin("local", "http://127.0.0.1:8000/v1/", api_key=KEY).base_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("3", 3), ("0.2", 1), ("-5", 0), ("soon", None), ("nan", None), ("1e99", 86400)]
)
def test_retry_after_is_read_or_ignored(header: str | None, seconds: int | None) -> None:
    assert read_retry_after_s(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    assert 38 <= (read_retry_after_s(soon) or 0) <= 41


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"a": NaN}', b"[" * 200_000, b"\xff"])
def test_only_json_objects_are_answers(raw: bytes) -> None:
    with pytest.raises(ProviderError):
        parse_object("openai", raw)


def test_whole_emoji_survive_the_check_for_halves() -> None:
    assert parse_object("openai", b'{"a": "\\ud83c\\udf5c", "b": "\\ud83c"}') == {"a": "🍜", "b": "?"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
TRICKS = st.sampled_from(
    ["api_base", "base_url", "host", "url", "api_key", "headers", "extra_body", "extra_headers", "user_config", "proxy", "model"]
)


class Wire:
    """A pool whose requests are kept instead of sent."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.pool = ProviderPool(ProviderSettings(openai_api_key=KEY), load_known_providers(), ProviderMetrics())
        self.pool._connections["openai"].origin._client._transport = httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)

        async def content() -> AsyncIterator[bytes]:
            yield b'{"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "stop"}]}'

        return httpx.Response(200, content=content())


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@given(extra=st.dictionaries(TRICKS, JSON_VALUES | st.just("http://evil.example")), name=st.text(max_size=40) | st.just("gpt-4o"))
async def test_no_request_changes_where_the_key_goes(wire: Wire, extra: dict[str, Any], name: str) -> None:
    """Whatever a body holds and whatever model is named, every request goes to the configured origin."""
    wire.asked.clear()
    try:
        engine = wire.pool.engine("openai", name)
        values = {"model": name or "x", "messages": [{"role": "user", "content": "chào"}]}
        request = validate(ChatCompletionRequest, extra | values)
        await engine.chat(request.to_engine_body())
    except InvalidRequestError:
        assert wire.asked == []
        return
    [sent] = wire.asked
    assert (sent.url.scheme, sent.url.host, sent.url.path) == ("https", "api.openai.com", "/v1/chat/completions")
    assert sent.headers["authorization"] == "Bearer sk-test"
    assert json.loads(sent.content).keys() <= {"model", "messages", "stream"}


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../models", "a/../b", "a b", "a\nb", "-x", "/etc/passwd", "x" * 300, "gpt\u0430", "%2e%2e", "a\\b", "a?x=1"],
)
async def test_names_that_cannot_be_models_are_refused(name: str) -> None:
    pool = ProviderPool(ProviderSettings(openai_api_key=KEY), load_known_providers(), ProviderMetrics())
    with pytest.raises(InvalidRequestError) as caught:
        pool.engine("openai", name)
    assert caught.value.param == "model"
    await pool.close()


@pytest.mark.parametrize(
    ("model_id", "parts"),
    [
        ("openai/gpt-4o-mini", ("openai", "gpt-4o-mini")),
        ("github/openai/gpt-4o-mini", ("github", "openai/gpt-4o-mini")),
        ("ollama/gemma2:9b", ("ollama", "gemma2:9b")),
        ("smollm2", (None, "smollm2")),
        ("Qwen/Qwen2.5-0.5B-Instruct", (None, "Qwen/Qwen2.5-0.5B-Instruct")),
        ("OpenAI/gpt-4o", (None, "OpenAI/gpt-4o")),
        ("openai/", (None, "openai/")),
    ],
)
def test_prefix_names_the_provider(model_id: str, parts: tuple[str | None, str]) -> None:
    assert split_model_id(model_id) == parts


async def test_nothing_calls_out_when_only_ollama_on_this_machine_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing, health and unconfigured providers must work with the network cut."""
    reached: list[Any] = []
    connect = socket.socket.connect

    def loopback_only(self: socket.socket, address: Any) -> None:
        reached.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", loopback_only)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail(f"looked up {a[0]}"))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    for settings in (ProviderSettings(), ProviderSettings(openai_api_key=KEY)):
        pool = ProviderPool(settings, load_known_providers(), ProviderMetrics())
        await pool.models()
        pool.health()
        await pool.close()
    assert reached == []
