"""The parser process: `python -m aihub.documents.parsing.worker`, started by `aihub.documents.parsing.sandbox`.

A launcher loads the libraries once (about two seconds) and forks the child that reads documents, so that a used or dead
child is replaced in milliseconds. Frames: first the setup, answered by `ready` or `failed`; then for each document one answer,
from the child, or `died` from the launcher. Both give up sockets, programs and
changes of files, and the child limits its memory and time, before they see a document (Linux).
"""

import ctypes
import gc
import logging
import mmap
import os
import resource
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from aihub.core.errors import HubError
from aihub.core.language import detect_language
from aihub.documents.chunking import TokenCounter, chunk_text
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.frames import EXIT_MEMORY, BrokenFrameError, Frame, FramePipe
from aihub.documents.parsing.options import ChunkingOptions, ParseLimits
from aihub.documents.parsing.sandbox import confine
from aihub.documents.search.analysis import MIN_LETTERS, analyse

_MIB = 2**20
_PR_SET_PDEATHSIG = 1


def address_space_bytes() -> int:
    """Size of this process's address space, the quantity RLIMIT_AS bounds."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def limit_memory(memory_mb: int) -> None:
    """Let this process map `memory_mb` MiB more than it has now; allocations beyond fail."""
    limit = _within_hard_limit(resource.RLIMIT_AS, address_space_bytes() + memory_mb * _MIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_cpu(cpu_s: int) -> None:
    """End this process by SIGXCPU when it has used `cpu_s` more seconds of processor time (whole seconds, rounded up)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = _within_hard_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _within_hard_limit(limit: int, wanted: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def forbid_core_dumps() -> None:
    """Leave no core files: they would hold documents of users."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent(parent_pid: int, signum: signal.Signals) -> None:
    """Have the kernel send `signum` when the parent dies, however it dies.

    End of file on the pipe is not enough: a process busy with a document does not read.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signum))
    if os.getppid() != parent_pid:
        os._exit(0)


_EXIT_RECYCLE = 87
_PARSING = 1
_KEPT_SHARE = 4
"""A child that keeps more than 1/4 of the memory of a document after it is replaced, so that the next one gets it."""

logger = logging.getLogger(__name__)


class _Child:
    """Reads documents one after the other until told to stop, worn out, or over a limit.

    Args:
        pipe: To the hub.
        stage: One byte shared with the launcher: `_PARSING` after a request is read and before its answer is begun.
        counter: Measures the chunks.
        limits: Of each document.
        recycle_after: Documents after which the child ends.
    """

    def __init__(
        self, pipe: FramePipe, stage: mmap.mmap, *, counter: TokenCounter, limits: ParseLimits, recycle_after: int
    ) -> None:
        self._pipe = pipe
        self._stage = stage
        self._counter = counter
        self._limits = limits
        self._recycle_after = recycle_after

    def run(self, launcher_pid: int) -> NoReturn:
        """Serve and exit; a failed allocation leaves no state to trust, so it ends the process."""
        try:
            die_with_parent(launcher_pid, signal.SIGKILL)
            status = self._serve()
        except MemoryError:
            status = EXIT_MEMORY
        except BrokenFrameError:
            status = 0
        os._exit(status)

    def _serve(self) -> int:
        before = address_space_bytes()
        limit_memory(self._limits.memory_mb)
        for _ in range(self._recycle_after):
            request = self._pipe.receive()
            if request is None:
                return 0
            limit_cpu(self._limits.cpu_s)
            self._stage[0] = _PARSING
            answer = self._answer(request)
            self._stage[0] = 0
            self._pipe.send(answer)
            del request, answer
            if (address_space_bytes() - before) * _KEPT_SHARE > self._limits.memory_mb * 2**20:
                break
        return _EXIT_RECYCLE

    def _answer(self, request: Frame) -> Frame:
        try:
            return self._parse(request)
        except MemoryError:
            raise
        except HubError as error:
            kind = "document" if isinstance(error, DocumentError) else "request"
            return Frame({"error": {"kind": kind, "message": error.message, "code": error.code, "param": error.param}})
        except Exception:
            logger.exception("chunking or analysis failed")
            return Frame({"error": {"kind": "internal"}})

    def _parse(self, request: Frame) -> Frame:
        options = ChunkingOptions(request.header["max_tokens"], request.header["overlap_tokens"])
        file_format, text = extract(
            request.header["filename"], bytes(request.body), self._limits, encoding=request.header["encoding"]
        )
        language: str | None = None  # of the whole text; costs a millisecond and serves only chunks with few letters
        rows: list[list[int | str]] = []
        ids: list[bytes] = []
        freqs: list[bytes] = []
        for span in chunk_text(text, options, self._counter, max_chunks=self._limits.max_chunks):
            chunk = text[span.start : span.end]
            if language is None and sum(map(str.isalpha, chunk)) < MIN_LETTERS:
                language = detect_language(text)
            terms = analyse(chunk, document_language=language)
            rows.append([span.start, span.end, span.tokens, terms.language, len(terms.term_ids), terms.total])
            ids.append(terms.term_ids.astype("<i4").tobytes())
            freqs.append(terms.term_freqs.astype("<u2").tobytes())
        encoded = text.encode()
        header = {"format": file_format, "text_bytes": len(encoded), "chunks": rows}
        return Frame(header, b"".join((encoded, *ids, *freqs)))


class _Launcher:
    """Keeps one child alive, and ends the way it ended when the pipe may have been left in the middle of a frame."""

    def __init__(self, pipe: FramePipe, stage: mmap.mmap, child: _Child) -> None:
        self._pipe = pipe
        self._stage = stage
        self._child = child
        self._child_pid = 0

    def run(self) -> NoReturn:
        signal.signal(signal.SIGTERM, self._stop)
        gc.freeze()
        while True:
            self._fork()
            _, status = os.waitpid(self._child_pid, 0)
            self._child_pid = 0
            code = os.waitstatus_to_exitcode(status)
            if self._stage[0] == _PARSING:
                self._stage[0] = 0
                self._pipe.send(Frame({"died": code}))
            elif code != _EXIT_RECYCLE:
                _end_with(code)

    def _fork(self) -> None:
        launcher_pid = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._child_pid = os.fork()
        if self._child_pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            self._child.run(launcher_pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        # The hub asks, and the kernel when the hub's thread is gone: once is enough.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Reap the child: an orphan would stay a zombie where process 1 does not collect.
        with suppress(ProcessLookupError, ChildProcessError):
            if self._child_pid:
                os.kill(self._child_pid, signal.SIGKILL)
                os.waitpid(self._child_pid, 0)
        os._exit(0)


def _end_with(code: int) -> NoReturn:
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def main() -> NoReturn:
    """Run until the hub closes the pipe or dies."""
    pipe = FramePipe(0, os.dup(1))
    os.dup2(2, 1)  # whatever a library prints must not end up between frames
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    forbid_core_dumps()
    setup = pipe.receive()
    if setup is None:
        sys.exit(0)
    die_with_parent(setup.header["parent_pid"], signal.SIGTERM)
    try:
        counter = TokenCounter(setup.header["tokenizer_path"])
        detect_language("loads the language model")
    except (HubError, OSError) as error:
        pipe.send(Frame({"failed": str(error)}))
        sys.exit(1)
    try:
        confine()
    except OSError as error:
        logger.warning("Documents are read without a filter of system calls: %s", error)
    pipe.send(Frame({"ready": True}))
    stage = mmap.mmap(-1, 1)
    limits = ParseLimits(**setup.header["limits"])
    child = _Child(pipe, stage, counter=counter, limits=limits, recycle_after=setup.header["recycle_after"])
    _Launcher(pipe, stage, child).run()


if __name__ == "__main__":
    main()
