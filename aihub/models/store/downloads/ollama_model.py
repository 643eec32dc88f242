"""Models of an Ollama server: it downloads, resumes and verifies by itself; the hub asks, watches and stops it.

Ollama's API: `POST /api/pull` answers one JSON object per line (`status`, and for a layer `digest`, `total`, `completed`;
or `error`), the last one `{"status": "success"}`. A client that leaves stops the pull; the next one goes on.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from aihub.models.store.downloads.failures import DownloadError, RetryPolicy, SourceRefusedError, TryAgainError, keep_trying
from aihub.models.store.downloads.orders import Fetched, Order, Report

DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
MAX_LINE_BYTES = 2**16
MAX_LAYERS = 1000
MAX_TAGS_BYTES = 8 * 2**20
CHECK_S = 600.0
"""Longest silence while Ollama hashes a layer."""

# What Ollama's library says of a name that it does not have, or of a server that is too old for it.
_PERMANENT = re.compile(r"not exist|not found|invalid|newer version|unauthorized|no space", re.IGNORECASE)


class OllamaFetcher:
    """Gets models through a server's own pull."""

    def __init__(self, *, retry_policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008  # frozen
        self._retry_policy = retry_policy

    async def fetch(self, order: Order, report: Report) -> Fetched:
        """Let the configured server pull the model; one that is there and current takes it a moment.

        Raises:
            SourceRefusedError: The library has no such model.
            DownloadError: The server is down, stalls, breaks off or answers nonsense.
        """
        url = order.configuration.ollama_url
        pull = _Pull(order.key.name, url, report, self._retry_policy)
        timeout = httpx.Timeout(self._retry_policy.stall_s, connect=self._retry_policy.connect_s, read=None)
        async with httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, follow_redirects=False) as client:
            await keep_trying(lambda: pull.attempt(client), pull.received, self._retry_policy)
            digest = await pull.read_digest(client)
        return Fetched(digest, f"ollama:{order.key.name}", None)


class _Pull:
    def __init__(self, name: str, url: str, report: Report, retry_policy: RetryPolicy) -> None:
        self._name = name
        self._url = url
        self._report = report
        self._retry_policy = retry_policy
        self._layers: dict[str, tuple[int, int]] = {}
        self._checks = False

    def received(self) -> int:
        return sum(done for done, _ in self._layers.values())

    async def attempt(self, client: httpx.AsyncClient) -> None:
        timeout = httpx.Timeout(self._retry_policy.stall_s, connect=self._retry_policy.connect_s, read=CHECK_S)
        try:
            async with client.stream("POST", "/api/pull", json={"model": self._name, "stream": True}, timeout=timeout) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise self._failure(await _first_line(answer), answer.status_code)
                await self._watch(answer)
        except httpx.ConnectError as error:
            raise DownloadError(
                f"No Ollama server answers at {self._url}. Start it (ollama serve), or set OLLAMA_URL to where it runs."
            ) from error
        except httpx.TransportError as error:
            raise TryAgainError(f"The connection to the Ollama server broke ({type(error).__name__}).") from error

    async def _watch(self, answer: httpx.Response) -> None:
        async for line in _stall_guarded(_lines(answer), self._is_checking, self._retry_policy.stall_s):
            message = _parse(line)
            if "error" in message:
                raise self._failure(line, answer.status_code)
            status = str(message.get("status", ""))
            if status == "success":
                return
            self._note(status, message)
        raise TryAgainError("The Ollama server ended the pull without success.")

    def _note(self, status: str, message: dict[str, Any]) -> None:
        digest, total, done = message.get("digest"), message.get("total"), message.get("completed", 0)
        if isinstance(digest, str) and isinstance(total, int) and isinstance(done, int):
            # Names of layers come from elsewhere (CVE-2024-37032); nothing but a digest is kept, and no path is made of it.
            if DIGEST.fullmatch(digest) is None or not 0 <= done <= total:
                raise DownloadError("The Ollama server reports a layer that is none. Update it to 0.35 or newer.")
            self._layers[digest] = (done, total)
            if len(self._layers) > MAX_LAYERS:
                raise DownloadError("The Ollama server reports layers without end. Update it to 0.35 or newer.")
        self._checks = status.startswith(("verifying", "writing"))
        total_bytes = sum(size for _, size in self._layers.values())
        self._report("verifying" if self._checks else "downloading", self.received(), total_bytes or None)

    def _is_checking(self) -> bool:
        return self._checks

    def _failure(self, line: bytes, status: int) -> DownloadError:
        try:
            reason = str(_parse(line).get("error", f"status {status}"))[:300]
        except DownloadError:
            reason = f"status {status}"
        if _PERMANENT.search(reason) or 400 <= status < 500:
            return SourceRefusedError(f"The Ollama server cannot pull {self._name}: {reason}. Check the name and its version.")
        return TryAgainError(f"The Ollama server failed: {reason}.")

    async def read_digest(self, client: httpx.AsyncClient) -> str:
        """Return the digest under which the server lists the model now; lower hex."""
        try:
            answer = await client.get("/api/tags", timeout=self._retry_policy.stall_s)
            answer.raise_for_status()
            models = answer.json()["models"] if len(answer.content) <= MAX_TAGS_BYTES else []
            digests = [str(model["digest"]) for model in models if self._name in {model.get("name"), model.get("model")}]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DownloadError("The Ollama server pulled the model and then did not list its models. Try again.") from error
        if not digests or DIGEST.fullmatch(f"sha256:{digests[0].removeprefix('sha256:')}") is None:
            raise DownloadError(f"The Ollama server pulled {self._name} and does not list it. Try again.")
        return digests[0].removeprefix("sha256:")


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield lines without their ends; one line may not be endless."""
    rest = b""
    async for piece in answer.aiter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise DownloadError("The Ollama server sent a line that does not end. Is this really an Ollama server?")
    if rest.strip():
        yield rest


async def _stall_guarded(lines: AsyncIterator[bytes], is_checking: Callable[[], bool], stall_s: float) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(CHECK_S if is_checking() else stall_s):
                line = await anext(lines)
        except TimeoutError as error:
            raise TryAgainError("The Ollama server was silent for too long.") from error
        except StopAsyncIteration:
            return
        yield line


async def _first_line(answer: httpx.Response) -> bytes:
    async for line in _lines(answer):
        return line
    return b""


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DownloadError("The Ollama server sent something that is not JSON. Is this really an Ollama server?") from error
    if not isinstance(message, dict):
        raise DownloadError("The Ollama server sent something that is no object. Is this really an Ollama server?")
    return message
