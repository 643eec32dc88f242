"""The limits of parser processes, tried on documents that break them and on processes killed under them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from aihub.core.errors import UnavailableError
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.options import ChunkingOptions, ParsedDocument, ParseLimits
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.documents.document_files import pdf_with_pages

T = TypeVar("T")

CHUNKING = ChunkingOptions(max_tokens=64, overlap_tokens=0)
GOOD = ("good.txt", "Một tài liệu tốt.".encode())

# Three million empty lists: some 200 MB of Python objects out of 9 MB.
MEMORY_BOMB = ("bomb.json", b"[" + b"[]," * 3_000_000 + b"[]]")
# Composing this needs a sort of all marks behind one letter, which CPython does in quadratic time, inside one C call.
CPU_BOMB = ("loop.txt", b"a" + "\u0301\u0327".encode() * 400_000)
# Minutes of pypdf in little memory: a thousand pages that share a thousand operators.
SLOW_PDF = ("slow.pdf", pdf_with_pages(1_000, b"BT /F1 9 Tf " + b"1 0 0 1 5 5 Tm (x) Tj " * 1_000 + b"ET"))
# Most of a second of honest work.
LONG = ("long.txt", ("Một câu dài vừa phải để đọc mất một lúc. " * 8_000).encode())


async def until(condition: Callable[[], T]) -> T:
    """Return the first true value of `condition`."""
    for _ in range(3000):
        if found := condition():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("nothing happened for 30 s")


class Family:
    """A parser with one process, and the processes behind it."""

    def __init__(self, parser: DocumentParser, others: list[psutil.Process]) -> None:
        self.parser = parser
        self._others = others

    @property
    def launcher(self) -> psutil.Process:
        """The process that loaded the libraries."""
        return next(launcher for launcher in launchers_of(os.getpid()) if launcher not in self._others)

    async def reader(self, *, after: psutil.Process | None = None) -> psutil.Process:
        """The process that reads documents, forked by the launcher; another one than `after`."""
        return (await until(lambda: [child for child in self.launcher.children() if child != after]))[0]

    async def busy_reader(self, *, after: psutil.Process | None = None) -> psutil.Process:
        """The reader once it is at work."""
        reader = await self.reader(after=after)
        idle_s = sum(reader.cpu_times()[:2])
        await until(lambda: sum(reader.cpu_times()[:2]) > idle_s + 0.1)
        return reader

    async def failure_of(self, document: tuple[str, bytes]) -> str:
        with pytest.raises(DocumentError) as caught:
            await self.parser.parse(*document, CHUNKING)
        return caught.value.code

    async def works(self) -> bool:
        return (await self.parser.parse(*GOOD, CHUNKING)).text == GOOD[1].decode()

    def begin(self, document: tuple[str, bytes]) -> asyncio.Task[ParsedDocument]:
        return asyncio.create_task(self.parser.parse(*document, CHUNKING))


@asynccontextmanager
async def family(tokenizer_path: str, *, recycle_after: int = 200, limits: ParseLimits | None = None) -> AsyncIterator[Family]:
    others = launchers_of(os.getpid())
    parser = DocumentParser(tokenizer_path, processes=1, limits=limits, recycle_after=recycle_after)
    await parser.start()
    try:
        yield Family(parser, others)
    finally:
        await parser.close()


@pytest.fixture(scope="module")
def strict(tokenizer_path: str) -> Iterator[Family]:
    """A second of processor time and little memory for each document."""
    limits = ParseLimits(memory_mb=96, cpu_s=1, wall_s=60)
    with asyncio.Runner() as runner:
        context = family(tokenizer_path, limits=limits)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def launchers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "aihub.documents.parsing.worker" in child.cmdline()]


def gone(*processes: psutil.Process) -> bool:
    """Whether the processes end within seconds; some container's process 1 leaves zombies lying about."""
    _, alive = psutil.wait_procs(processes, 10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive if process.is_running())


async def test_a_memory_bomb_fails_alone(strict: Family) -> None:
    launcher = strict.launcher
    assert await strict.failure_of(MEMORY_BOMB) == "parse_memory"
    assert await strict.works()
    assert strict.launcher == launcher  # the next document did not wait for the libraries to load


@pytest.mark.parametrize("document", [CPU_BOMB, SLOW_PDF], ids=["text", "pdf"])
async def test_a_document_that_computes_without_end_fails_alone(document: tuple[str, bytes], strict: Family) -> None:
    launcher = strict.launcher
    assert await strict.failure_of(document) == "parse_timeout"
    assert await strict.works()
    assert strict.launcher == launcher


async def test_a_document_survives_one_killed_process(strict: Family) -> None:
    task = strict.begin(LONG)
    (await strict.busy_reader()).kill()
    assert (await task).text == LONG[1].decode()


async def test_a_document_whose_processes_are_always_killed_fails_alone(strict: Family) -> None:
    task = strict.begin(CPU_BOMB)
    first = await strict.busy_reader()
    first.kill()
    (await strict.busy_reader(after=first)).kill()
    with pytest.raises(DocumentError) as caught:
        await task
    assert caught.value.code == "parse_memory"
    assert await strict.works()


async def test_a_process_keeps_to_its_limits(strict: Family) -> None:
    assert await strict.works()
    reader = await strict.reader()
    size = reader.memory_info().vms
    assert size < reader.rlimit(psutil.RLIMIT_AS)[0] < size + 97 * 2**20
    assert 0 < reader.rlimit(psutil.RLIMIT_CPU)[0] < 30
    assert reader.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert not reader.net_connections()


async def test_processes_that_see_documents_are_confined(strict: Family) -> None:
    assert await strict.works()
    for process in (strict.launcher, await strict.reader()):
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text, "utf-8")
        assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status


async def test_a_process_that_keeps_memory_is_replaced(strict: Family) -> None:
    before = await strict.reader()
    # The analysis remembers the terms of known words: some 40 MB of them after this.
    await strict.parser.parse("words.txt", " ".join(f"từ{number}" for number in range(66_000)).encode(), ChunkingOptions(2000))
    assert gone(before)
    assert await strict.works()


async def test_a_process_killed_while_idle_is_not_noticed(tokenizer_path: str) -> None:
    async with family(tokenizer_path) as one:
        (await one.reader()).kill()
        assert await one.works()


async def test_a_process_that_hangs_is_ended_by_the_clock(tokenizer_path: str) -> None:
    async with family(tokenizer_path, limits=ParseLimits(wall_s=2)) as one:
        reader, launcher = await one.reader(), one.launcher
        reader.suspend()
        assert await one.failure_of(GOOD) == "parse_timeout"
        assert gone(reader, launcher)
        assert await one.works()


async def test_a_used_process_is_replaced(tokenizer_path: str) -> None:
    async with family(tokenizer_path, recycle_after=2) as one:
        first, launcher = await one.reader(), one.launcher
        assert await one.works() and await one.works()
        assert gone(first)
        assert await one.works()
        assert one.launcher == launcher


async def test_cancelling_ends_the_reading_and_closing_ends_the_rest(tokenizer_path: str) -> None:
    async with family(tokenizer_path) as one:
        task = one.begin(CPU_BOMB)
        reader, launcher = await one.busy_reader(), one.launcher
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gone(reader, launcher)
        assert await one.works()

        tasks = [one.begin(CPU_BOMB), one.begin(GOOD)]
        reader, launcher = await one.busy_reader(), one.launcher
        await one.parser.close()
        for task in tasks:
            with pytest.raises(UnavailableError):
                await task
        assert not reader.is_running() and not launcher.is_running()


PARENT = """
import asyncio, sys
from aihub.documents.parsing.parser import ChunkingOptions, DocumentParser
async def main(tokenizer, path):
    parser = DocumentParser(tokenizer, processes=2)
    await parser.start()
    print("ready", flush=True)
    await parser.parse(path, open(path, "rb").read(), ChunkingOptions(64, 0))
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("victim", ["hub", "launcher"])
def test_no_process_outlives_a_killed_parent(victim: str, tokenizer_path: str, tmp_path: Path) -> None:
    """Of two processes one is busy and one idle."""
    path = tmp_path / CPU_BOMB[0]
    path.write_bytes(CPU_BOMB[1])
    with subprocess.Popen([sys.executable, "-c", PARENT, tokenizer_path, str(path)], stdout=subprocess.PIPE) as hub:
        assert hub.stdout is not None and hub.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        launchers = launchers_of(hub.pid)
        readers = [reader for launcher in launchers for reader in launcher.children()]
        assert len(readers) == len(launchers) == 2
        for pid in [hub.pid] if victim == "hub" else [launcher.pid for launcher in launchers]:
            os.kill(pid, signal.SIGKILL)
        assert gone(*readers)
        assert victim == "launcher" or gone(*launchers)
        hub.kill()


async def test_the_environment_of_the_hub_stays_with_the_hub(tokenizer_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@db/hub")
    async with family(tokenizer_path) as one:
        environment = (await one.reader()).environ()
        assert "DATABASE_URL" not in environment and "secret" not in str(environment)


async def test_reading_does_not_block_the_event_loop(parser: DocumentParser) -> None:
    task = asyncio.create_task(parser.parse(*LONG, CHUNKING))
    longest = 0.0
    while not task.done():
        start = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - start)
    assert longest < 0.5
    assert (await task).format == "txt"
