"""An HTTP client bound to one configured origin.

The key goes to that origin only: redirects are not followed, proxies of the environment are not used, and nothing a
request holds reaches the address. Every answer is bounded in the length of its lines and in all.
"""

import asyncio
import json
import math
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any

import httpx
from pydantic import SecretStr

from aihub.chat.providers.failures import ProviderError, ProviderUnavailableError, Refusal, explain_refusal, read_refusal
from aihub.core.errors import ConfigurationError, EngineTimeoutError, HubError, OverloadedError

CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 256
MAX_LINE_BYTES = 2**20
MAX_ANSWER_BYTES = 32 * 2**20
MAX_REFUSAL_BYTES = 64 * 2**10
MAX_RETRY_AFTER_S = 24 * 3600

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Origin:
    """One service at one address.

    Args:
        provider: Name for messages and metrics.
        base_url: `https://host[:port][/path]`; paths of calls are appended.
        api_key: Sent as `Authorization: Bearer`; over plain http only to this machine.
        timeout_s: Longest silence: before the first byte of an answer and between two.
        proxy: Proxy URL, from the operator's configuration.
        explain: Turns a refusal into an error.

    Raises:
        ConfigurationError: The URL is no plain http(s) address, or would carry the key unencrypted.
    """

    def __init__(
        self,
        provider: str,
        base_url: str,
        *,
        api_key: SecretStr | None = None,
        timeout_s: float = 120.0,
        proxy: str | None = None,
        explain: Callable[[Refusal], HubError] = explain_refusal,
    ) -> None:
        self.provider = provider
        self.base_url = _checked_url(provider, base_url, has_key=api_key is not None)
        self._secret = api_key.get_secret_value() if api_key is not None else None
        self._explain = explain
        # Compressed answers are not asked for, so that a small answer cannot unpack to a huge one.
        headers = {"Accept-Encoding": "identity", "User-Agent": "aihub"}
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret}"
        self._new_client = partial(
            httpx.AsyncClient,
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            proxy=proxy,
            verify=_tls(),
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS // 8),
        )
        self._client = self._new_client()
        self._calls = 0
        self._is_retired = False

    async def close(self) -> None:
        await self._client.aclose()

    async def retire(self) -> None:
        """Close once the calls that run now have ended. A call that comes all the same is answered, and closes again."""
        self._is_retired = True
        if not self._calls:
            await self.close()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        if self._client.is_closed:
            self._client = self._new_client()
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if self._is_retired and not self._calls:
                await self.close()

    async def get_json(self, path: str, *, timeout_s: float) -> dict[str, Any]:
        """Return the JSON object at `path`.

        Raises:
            HubError: No answer, a refusal, or something else than a JSON object.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read_object("GET", path, None)
        except TimeoutError as error:
            raise EngineTimeoutError(f"The provider {self.provider!r} did not answer within {timeout_s:g} s.") from error

    async def post_json(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body` and return the JSON object of the answer; raises as `get_json`."""
        return await self._read_object("POST", path, body)

    async def post_lines(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Send `body` and yield the lines of the answer as they come, without line ends and without empty ones.

        Closing the generator closes the connection, at which providers stop working. Raises as `get_json`; also in the
        middle, when the answer breaks off.
        """
        held = bytearray()
        async with aclosing(self._pieces("POST", path, body)) as pieces:
            async for piece in pieces:
                *whole, rest = piece.split(b"\n")
                for part in whole:
                    held += part
                    self._check_line(held)
                    line = bytes(held).strip()
                    held.clear()
                    if line:
                        yield line
                held += rest
                self._check_line(held)
        if last := bytes(held).strip():
            yield last

    async def _read_object(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        async with aclosing(self._pieces(method, path, body)) as pieces:
            raw = b"".join([piece async for piece in pieces])
        return parse_object(self.provider, raw)

    async def _pieces(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncGenerator[bytes, None]:
        async with self._call(), aclosing(self._raw_pieces(method, path, body)) as pieces:
            async for piece in pieces:
                yield piece

    async def _raw_pieces(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncGenerator[bytes, None]:
        build = partial(self._client.build_request, method, self.base_url + path, json=body)
        # Megabytes of base64 are written as JSON in a thread.
        request = await asyncio.to_thread(build) if _carries_images(body) else build()
        with self._told():
            response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                raise self._explain(await self._refusal(response))
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ProviderError(f"The provider {self.provider!r} sent a compressed answer, which was not asked for.")
            received = 0
            with self._told():
                async for piece in response.aiter_raw():
                    received += len(piece)
                    if received > MAX_ANSWER_BYTES:
                        raise ProviderError(f"The provider {self.provider!r} sent more than {MAX_ANSWER_BYTES} bytes.")
                    yield piece
        finally:
            await response.aclose()

    async def _refusal(self, response: httpx.Response) -> Refusal:
        body = b""
        with self._told():
            async for piece in response.aiter_raw():
                body += piece
                if len(body) >= MAX_REFUSAL_BYTES:
                    break
        return read_refusal(
            self.provider,
            response.status_code,
            body[:MAX_REFUSAL_BYTES],
            read_retry_after_s(response.headers.get("retry-after")),
            secret=self._secret,
        )

    def _check_line(self, line: bytearray) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise ProviderError(f"The provider {self.provider!r} sent a line of more than {MAX_LINE_BYTES} bytes.")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the client's errors into the hub's."""
        try:
            yield
        except httpx.PoolTimeout as error:
            raise OverloadedError(f"Too many requests to {self.provider!r} are open. Retry in a second.") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise ProviderUnavailableError(
                f"The provider {self.provider!r} cannot be reached. Check its address and the network, or use another model."
            ) from error
        except httpx.TimeoutException as error:
            raise EngineTimeoutError(
                f"The provider {self.provider!r} was silent for too long. Retry with a smaller request."
            ) from error
        except httpx.HTTPError as error:
            raise ProviderUnavailableError(
                f"The connection to the provider {self.provider!r} broke off. Retry in a few seconds."
            ) from error


def _carries_images(body: dict[str, Any] | None) -> bool:
    messages = (body or {}).get("messages") or ()
    return any(isinstance(message.get("content"), list) or "images" in message for message in messages)


def parse_object(provider: str, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object a provider sent.

    Raises:
        ProviderError: It is none.
    """
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProviderError(f"The provider {provider!r} sent something that is not JSON.") from error
    if b"\\ud" in raw or b"\\uD" in raw:
        # Half an emoji cannot be encoded again; pairs are joined by now and stay.
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    if not isinstance(value, dict):
        raise ProviderError(f"The provider {provider!r} sent JSON that is not an object.")
    return value


def read_retry_after_s(header: str | None) -> int | None:
    """Return `Retry-After` in whole seconds from now, given as seconds or as a date; None when absent or unreadable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(math.ceil(seconds), 0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """One for all origins: reading the certificates takes longer than everything else about a client."""
    return httpx.create_ssl_context(trust_env=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _checked_url(provider: str, base_url: str, *, has_key: bool) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"The URL of the provider {provider!r} is wrong: {error}.") from error
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise ConfigurationError(
            f"The URL of the provider {provider!r} must be http(s)://host[:port][/path] without user, query or fragment."
        )
    if has_key and url.scheme == "http" and url.host not in _LOOPBACK:
        raise ConfigurationError(
            f"The URL of the provider {provider!r} would carry its key unencrypted; use https, or leave the key out."
        )
    return base_url.rstrip("/")
