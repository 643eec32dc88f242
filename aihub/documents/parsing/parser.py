"""`DocumentParser`: any supported file to text and chunks, read in limited processes that no file can take the hub down with."""

import asyncio
import contextlib
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from aihub.core.errors import HubError, InternalError, InvalidRequestError, UnavailableError
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.frames import EXIT_MEMORY, Frame
from aihub.documents.parsing.options import ChunkingOptions, ParsedDocument, ParseLimits, TextChunk
from aihub.documents.parsing.sandbox import ParserDiedError, ParserProcess, ParserTimeoutError

__all__ = ["ChunkingOptions", "DocumentError", "DocumentParser", "ParseLimits", "ParsedDocument", "TextChunk"]

REST_AFTER_S = 30.0

_ATTEMPTS = 2
_TERM_ID_BYTES = 4
_TERM_FREQ_BYTES = 2


@dataclass(slots=True, eq=False)
class _Job:
    """One document on its way; `abandoned` is set when nobody waits for it any more."""

    filename: str
    data: bytes
    chunking: ChunkingOptions
    encoding: str | None = None
    process: ParserProcess | None = None
    abandoned: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, process: ParserProcess | None) -> None:
        with self.lock:
            self.process = process

    def abandon(self) -> None:
        with self.lock:
            self.abandoned = True
            if self.process is not None:
                self.process.kill()


class DocumentParser:
    """A pool of limited parser processes.

    Args:
        tokenizer_path: The embedder's `tokenizer.json`; its tokens measure the chunks.
        processes: Documents read at the same time; more wait in order.
        limits: What one document may take.
        recycle_after: Documents after which a process is replaced, so that leaks of libraries stay small.
        rest_after_s: Seconds without a document after which the processes end; each holds 120 MB. The next document starts one,
            which takes about two seconds.
    """

    def __init__(
        self,
        tokenizer_path: str,
        processes: int = 2,
        *,
        limits: ParseLimits | None = None,
        recycle_after: int = 200,
        rest_after_s: float = REST_AFTER_S,
    ) -> None:
        self._tokenizer_path = tokenizer_path
        self._limits = limits or ParseLimits()
        self._recycle_after = recycle_after
        self._size = processes
        self._executor: ThreadPoolExecutor | None = None
        self._idle: queue.SimpleQueue[ParserProcess | None] = queue.SimpleQueue()
        self._running: set[_Job] = set()
        self._rest_after_s = rest_after_s
        self._used_s = 0.0
        self._rest: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the processes and wait until they are ready (about two seconds).

        Raises:
            ConfigurationError: A process cannot work, e.g. the tokenizer is missing.
            UnavailableError: The machine starts no more processes.
        """
        # Threads, not asyncio's subprocesses: they work under any event loop, and answers are decoded off the loop.
        self._executor = ThreadPoolExecutor(self._size, thread_name_prefix="aihub-documents")
        loop = asyncio.get_running_loop()
        started = await asyncio.gather(
            *(loop.run_in_executor(self._executor, self._new_process) for _ in range(self._size)), return_exceptions=True
        )
        for outcome in started:
            self._idle.put(outcome if isinstance(outcome, ParserProcess) else None)
        for outcome in started:
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
        self._used_s = time.monotonic()
        self._rest = asyncio.create_task(self._rest_when_idle())

    async def close(self) -> None:
        """End all processes; documents being read fail with UnavailableError. Does nothing when not started."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if self._rest is not None:
            self._rest.cancel()
        for job in list(self._running):
            job.abandon()
        await asyncio.to_thread(executor.shutdown)
        for _ in range(self._size):
            process = self._idle.get()
            if process is not None:
                await asyncio.to_thread(process.stop)

    async def parse(
        self, filename: str, data: bytes, chunking: ChunkingOptions, *, encoding: str | None = None
    ) -> ParsedDocument:
        """Return the text and the chunks of a file. Cancelling ends the reading at once.

        Args:
            filename: Its suffix tells text formats apart.
            data: The file.
            chunking: How the text is cut.
            encoding: Python's codec for the encoding that the upload named, None to find it out.

        Raises:
            DocumentError: The file cannot be indexed; `code` says why.
            InvalidRequestError: The chunking does not fit the text.
            UnavailableError: The parser is closed, or processes cannot be started.
        """
        if self._executor is None:
            raise UnavailableError("The document parser is not running.")
        job = _Job(filename, data, chunking, encoding)
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._run, job)
        self._running.add(job)
        try:
            return await future
        except asyncio.CancelledError:
            job.abandon()
            raise
        finally:
            self._running.discard(job)
            self._used_s = time.monotonic()

    async def _rest_when_idle(self) -> None:
        while True:
            left_s = self._used_s + self._rest_after_s - time.monotonic()
            if left_s <= 0 and not self._running and self._executor is not None:
                # On the pool, so that `close` waits for it.
                await asyncio.get_running_loop().run_in_executor(self._executor, self._stop_idle)
                left_s = self._rest_after_s
            await asyncio.sleep(max(left_s, self._rest_after_s / 4))

    def _stop_idle(self) -> None:
        """End the processes that no document holds; their places stay, and `_run` fills them again."""
        for _ in range(self._size):
            with contextlib.suppress(queue.Empty):
                process = self._idle.get_nowait()
                try:
                    if process is not None:
                        process.stop()
                finally:
                    self._idle.put(None)

    def _new_process(self) -> ParserProcess:
        return ParserProcess(self._tokenizer_path, self._limits, self._recycle_after)

    def _run(self, job: _Job) -> ParsedDocument:
        """Read one document on a thread of the pool; there are as many places in `_idle` as threads."""
        header = {
            "filename": job.filename,
            "encoding": job.encoding,
            "max_tokens": job.chunking.max_tokens,
            "overlap_tokens": job.chunking.overlap_tokens,
        }
        request = Frame(header, job.data)
        process = self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                if job.abandoned:
                    raise UnavailableError("The document parser was closed.")
                if process is None or not process.is_alive:
                    process = self._replace(process)
                job.hold(process)
                try:
                    return _document(process.exchange(request, self._limits.wall_s))
                except ParserTimeoutError as error:
                    raise self._took_too_long() from error
                except ParserDiedError as error:
                    death = error
                    verdict = self._verdict(error.exit_code)
                    if verdict is not None:
                        raise verdict from error
            raise _unexplained(death.exit_code) from death
        finally:
            job.hold(None)
            if process is not None and job.abandoned:
                process.stop()
            self._idle.put(process)

    def _replace(self, process: ParserProcess | None) -> ParserProcess:
        if process is not None:
            process.stop()
        return self._new_process()

    def _verdict(self, exit_code: int) -> DocumentError | None:
        """Return the error for a death that the document caused for certain, None for one worth another try."""
        if exit_code == -signal.SIGXCPU:
            return self._took_too_long()
        if exit_code in {EXIT_MEMORY, -signal.SIGABRT}:  # native libraries abort when an allocation fails
            return DocumentError(
                f"Reading the file takes more than {self._limits.memory_mb} MiB of memory; split it.", code="parse_memory"
            )
        return None

    def _took_too_long(self) -> DocumentError:
        return DocumentError(
            f"Reading the file took more than {self._limits.cpu_s} s of processor time or {self._limits.wall_s:g} s in all; "
            "split it or save it again with another program.",
            code="parse_timeout",
        )


def _unexplained(exit_code: int) -> HubError:
    if exit_code == -signal.SIGKILL:
        return DocumentError("The system ended the reading of the file twice, likely for want of memory.", code="parse_memory")
    if exit_code in {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}:
        return DocumentError("The file crashes its parser; save it again with another program.")
    return UnavailableError("The document parser ended unexpectedly; try again.")


def _document(answer: Frame) -> ParsedDocument:
    if "error" in answer.header:
        raise _error(answer.header["error"])
    body = memoryview(answer.body)
    position = answer.header["text_bytes"]
    text = str(body[:position], "utf-8")
    rows = answer.header["chunks"]
    freqs_position = position + _TERM_ID_BYTES * sum(row[4] for row in rows)
    chunks = []
    for ordinal, (start, end, tokens, language, terms, total) in enumerate(rows):
        ids_end, freqs_end = position + terms * _TERM_ID_BYTES, freqs_position + terms * _TERM_FREQ_BYTES
        ids, freqs = bytes(body[position:ids_end]), bytes(body[freqs_position:freqs_end])
        position, freqs_position = ids_end, freqs_end
        chunks.append(TextChunk(ordinal, text[start:end], start, end, tokens, language, ids, freqs, total))
    return ParsedDocument(text, answer.header["format"], chunks)


def _error(error: dict[str, Any]) -> HubError:
    match error["kind"]:
        case "document":
            return DocumentError(error["message"], code=error["code"], param=error["param"])
        case "request":
            return InvalidRequestError(error["message"], param=error["param"], code=error["code"])
        case _:
            return InternalError("The document could not be indexed.")
