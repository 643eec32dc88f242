"""`DocumentParser`: any supported file to text and chunks, read in limited processes that no file can take the hub down with."""

import asyncio
import signal
from dataclasses import asdict
from typing import Any

from aihub.core.errors import HubError, InternalError, InvalidRequestError, UnavailableError
from aihub.core.sandbox.frames import EXIT_MEMORY, Frame
from aihub.core.sandbox.limits import ProcessLimits
from aihub.core.sandbox.pool import ProcessPool, ProcessSession
from aihub.core.sandbox.process import ProcessDiedError, ProcessTimeoutError, SandboxProgram
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.options import ChunkingOptions, DocumentFormat, ParsedDocument, ParseLimits, TextChunk

__all__ = ["ChunkingOptions", "DocumentError", "DocumentParser", "ParseLimits", "ParsedDocument", "TextChunk"]

REST_AFTER_S = 30.0

_ATTEMPTS = 2
_TERM_ID_BYTES = 4
_TERM_FREQ_BYTES = 2


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
        self._limits = limits or ParseLimits()
        program = SandboxProgram(
            "document parser",
            "aihub.documents.parsing.worker",
            ProcessLimits(self._limits.memory_mb, self._limits.cpu_s, recycle_after),
            {"tokenizer_path": tokenizer_path, "limits": asdict(self._limits)},
        )
        self._pool = ProcessPool(program, processes, rest_after_s=rest_after_s)
        self._is_running = False

    async def start(self) -> None:
        """Start the processes and wait until they are ready (about two seconds).

        Raises:
            ConfigurationError: A process cannot work, e.g. the tokenizer is missing.
            UnavailableError: The machine starts no more processes.
        """
        await self._pool.start()
        self._is_running = True

    async def close(self) -> None:
        """End all processes; documents being read fail with UnavailableError. Does nothing when not started."""
        self._is_running = False
        await self._pool.close()

    async def parse(
        self,
        filename: str,
        data: bytes,
        chunking: ChunkingOptions,
        *,
        encoding: str | None = None,
        text_format: DocumentFormat | None = None,
    ) -> ParsedDocument:
        """Return the text and the chunks of a file. Cancelling ends the reading at once.

        Args:
            filename: Its suffix tells text formats apart.
            data: The file.
            chunking: How the text is cut.
            encoding: Python's codec for the encoding that the upload named, None to find it out.
            text_format: When given, `data` is the text of a file of this format, in UTF-8 and as `clean` leaves text; it is only
                cut, and offsets count in exactly this text.

        Raises:
            DocumentError: The file cannot be indexed; `code` says why.
            InvalidRequestError: The chunking does not fit the text.
            UnavailableError: The parser is closed, or processes cannot be started.
        """
        return await self._ask(
            {
                "filename": filename,
                "encoding": encoding,
                "text_format": text_format,
                "only_text": False,
                "max_characters": self._limits.max_characters,
                "max_tokens": chunking.max_tokens,
                "overlap_tokens": chunking.overlap_tokens,
            },
            data,
        )

    async def extract_text(self, filename: str, data: bytes, *, max_characters: int) -> str:
        """Return the text of a file that is not indexed: nothing is cut or analysed. Cancelling ends the reading at once.

        Args:
            max_characters: Of text; reading ends where there are more, and the parser's own limit holds too.

        Raises:
            DocumentError: The file cannot be read or holds more (`too_large`); `code` says why.
            UnavailableError: The parser is closed, or processes cannot be started.
        """
        most = min(max_characters, self._limits.max_characters)
        header = {"filename": filename, "encoding": None, "text_format": None, "only_text": True, "max_characters": most}
        return (await self._ask(header, data)).text

    async def _ask(self, header: dict[str, Any], data: bytes) -> ParsedDocument:
        if not self._is_running:
            raise UnavailableError("The document parser is not running.")
        async with self._pool.session() as session:
            answer = await self._read(session, Frame(header, data))
        return await asyncio.to_thread(_document, answer)

    async def _read(self, session: ProcessSession, request: Frame) -> Frame:
        for _ in range(_ATTEMPTS):
            try:
                return await session.exchange(request, self._limits.wall_s)
            except ProcessTimeoutError as error:
                raise self._took_too_long() from error
            except ProcessDiedError as error:
                death = error
                verdict = self._verdict(error.exit_code)
                if verdict is not None:
                    raise verdict from error
        raise _unexplained(death.exit_code) from death

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
