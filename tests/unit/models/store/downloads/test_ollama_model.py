"""The pull against a small server that speaks Ollama's protocol."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from aihub.models.store.downloads.failures import DownloadError, RetryPolicy, SourceRefusedError
from aihub.models.store.downloads.ollama_model import OllamaFetcher
from tests.unit.models.store.downloads.orders import Reports, order
from tests.unit.models.store.downloads.waiting import until

QUICK = RetryPolicy(attempts=2, backoff_s=0.01, connect_s=2.0, stall_s=0.3)
LAYER, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DIGEST = "c" * 64
GOOD: list[Any] = [
    {"status": "pulling manifest"},
    {"status": "pulling aaa", "digest": LAYER, "total": 1000},
    {"status": "pulling aaa", "digest": LAYER, "total": 1000, "completed": 400},
    {"status": "pulling aaa", "digest": LAYER, "total": 1000, "completed": 1000},
    {"status": "pulling bbb", "digest": OTHER, "total": 10, "completed": 10},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
]
STALL = object()


class OllamaServer:
    """Answers each pull with the next script; a script is a list of messages, raw bytes or `STALL`."""

    def __init__(self) -> None:
        self.scripts: list[list[Any]] = []
        self.status = 200
        self.models: Any = [{"name": "gemma2:9b", "model": "gemma2:9b", "digest": DIGEST}]
        self.pulls: list[dict[str, Any]] = []
        self.left: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET /api/tags "):
                await self._send(writer, 200, [json.dumps({"models": self.models}).encode()])
            else:
                assert head.startswith("POST /api/pull ")
                length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                self.pulls.append(json.loads(await reader.readexactly(length)))
                await self._send(writer, self.status, self.scripts.pop(0) if self.scripts else GOOD, reader)
        writer.close()

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, lines: list[Any], reader: asyncio.StreamReader | None = None
    ) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n".encode())
        for line in lines:
            if line is STALL:
                assert reader is not None
                await writer.drain()
                await reader.read()  # until the client leaves
                self.left.append("client")
                return
            writer.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
            await writer.drain()


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaServer]:
    async with OllamaServer() as running:
        yield running


async def pull(ollama: OllamaServer, staging: Path, reports: Reports | None = None) -> str:
    asked = order(staging, "ollama:gemma2:9b", ollama_url=ollama.url)
    fetched = await OllamaFetcher(retry_policy=QUICK).fetch(asked, reports or Reports())
    assert fetched.folder is None
    return fetched.digest


async def test_a_pull_reports_its_progress_and_ends_with_the_listed_digest(ollama: OllamaServer, tmp_path: Path) -> None:
    reports = Reports()
    assert await pull(ollama, tmp_path, reports) == DIGEST
    assert ollama.pulls == [{"model": "gemma2:9b", "stream": True}]
    assert ("downloading", 400, 1000) in reports.seen
    assert ("downloading", 1010, 1010) in reports.seen
    assert reports.steps == ["downloading", "verifying"]


@pytest.mark.parametrize("script", [GOOD[:3], [*GOOD[:3], STALL], [{"error": "connection reset by peer"}], []])
async def test_a_pull_that_breaks_off_is_asked_for_again(ollama: OllamaServer, tmp_path: Path, script: list[Any]) -> None:
    ollama.scripts = [script, GOOD]
    assert await pull(ollama, tmp_path) == DIGEST
    assert len(ollama.pulls) == 2


async def test_a_pull_that_never_gets_on_is_given_up(ollama: OllamaServer, tmp_path: Path) -> None:
    ollama.scripts = [GOOD[:2]] * 9
    with pytest.raises(DownloadError, match="Gave up after 2 tries"):
        await pull(ollama, tmp_path)


@pytest.mark.parametrize("status", [200, 404])
async def test_an_unknown_model_is_refused_at_once(ollama: OllamaServer, tmp_path: Path, status: int) -> None:
    ollama.status = status
    ollama.scripts = [[{"error": "pull model manifest: file does not exist"}]]
    with pytest.raises(SourceRefusedError, match="cannot pull gemma2:9b: pull model manifest: file does not exist"):
        await pull(ollama, tmp_path)
    assert len(ollama.pulls) == 1


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:../../" + "a" * 58,
        "sha256:" + "٣" * 64,
        LAYER + "\n",
    ],
)
async def test_a_layer_that_is_no_digest_ends_the_pull(ollama: OllamaServer, tmp_path: Path, digest: str) -> None:
    ollama.scripts = [[{"status": "pulling", "digest": digest, "total": 10, "completed": 1}]]
    with pytest.raises(DownloadError, match="a layer that is none"):
        await pull(ollama, tmp_path)


@pytest.mark.parametrize("line", [b"<html>\n", b"[1]\n", b"[" * 60_000 + b"\n", b"{" + b" " * 200_000])
async def test_something_else_than_ollama_is_found_out(ollama: OllamaServer, tmp_path: Path, line: bytes) -> None:
    ollama.scripts = [[line]]
    with pytest.raises(DownloadError, match="Is this really an Ollama server"):
        await pull(ollama, tmp_path)


@pytest.mark.parametrize("models", [[], None, [{"name": "other", "digest": DIGEST}], [{"name": "gemma2:9b", "digest": "x"}], [3]])
async def test_success_without_a_listed_model_is_a_failure(ollama: OllamaServer, tmp_path: Path, models: Any) -> None:
    ollama.models = models
    with pytest.raises(DownloadError, match="list"):
        await pull(ollama, tmp_path)


async def test_no_server_names_the_command_that_starts_one(tmp_path: Path) -> None:
    asked = order(tmp_path, "ollama:gemma2:9b", ollama_url="http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="ollama serve"):
        await OllamaFetcher(retry_policy=QUICK).fetch(asked, Reports())


async def test_cancelling_leaves_the_server_which_stops_then(ollama: OllamaServer, tmp_path: Path) -> None:
    ollama.scripts = [[*GOOD[:3], STALL]]
    reports = Reports()
    asked = order(tmp_path, "ollama:gemma2:9b", ollama_url=ollama.url)
    task = asyncio.create_task(OllamaFetcher(retry_policy=RetryPolicy(stall_s=30.0)).fetch(asked, reports))
    await until(lambda: ("downloading", 400, 1000) in reports.seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: bool(ollama.left))
