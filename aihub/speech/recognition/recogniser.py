"""One recogniser as the hub sees it: a process that is fed audio and answers; its death is an error of one request alone."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from aihub.core.errors import InvalidRequestError, UnavailableError
from aihub.core.sandbox.frames import EXIT_MEMORY
from aihub.speech.recognition.messages import (
    AUDIO,
    FAILED,
    FINISH,
    OPTIONS,
    BrokenMessageError,
    encode,
    encode_json,
    receive_json,
)
from aihub.speech.recognition.options import Heard, RecogniserLimits, RecogniserOptions

logger = logging.getLogger(__name__)

_DEATH_NOTICE_TIMEOUT_S = 2.0
_MAX_NAMED_WORDS = 20


class RecogniserDiedError(UnavailableError):
    """The process that listened ended; the request is lost, others go on."""

    code = "recogniser_died"
    retry_after_s = 1


class Recogniser:
    """A process with the model loaded, for one file part or live stream at a time; close it at the end.

    Args:
        connection: To the process, which may not run yet.
        limits: Of the process.
        release: Told at `close` whether the process can hear another audio; ends it where it cannot.

    Attributes:
        ended: Set to its exit code, or None where the launcher died with it.
    """

    def __init__(self, connection: socket.socket, limits: RecogniserLimits, release: Callable[[bool], None]) -> None:
        self._connection = connection
        self._limits = limits
        self._release = release
        self._is_open = False
        self._is_fresh = True
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def open(self, options: RecogniserOptions) -> None:
        """Begin to listen.

        Raises:
            InvalidRequestError: The model does not do what the options ask for; the message names the words it does not know.
            RecogniserDiedError: The process ended.
        """
        self._is_open, self._is_fresh = True, False
        if self._writer is None:
            try:
                self._reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
            except OSError as error:
                raise await self._death() from error
        await self._send(encode_json(OPTIONS, asdict(options)))
        await self._receive()

    async def hear(self, audio: bytes) -> Heard:
        """Listen to the next samples, of at most 8 MiB.

        Raises:
            RecogniserDiedError: The process ended, or took too long and was ended.
        """
        await self.send(audio)
        return await self.receive()

    async def send(self, audio: bytes) -> None:
        """Hand samples over without waiting for what they bring; raises as `hear`."""
        await self._send(encode(AUDIO, audio))

    async def receive(self) -> Heard:
        """Return what the oldest samples that were sent have brought; raises as `hear`."""
        answer = await self._receive()
        return Heard(tuple(answer["finals"]), answer.get("partial"))

    async def finish(self) -> Heard:
        """Return what was still open. Raises as `hear`."""
        await self._send(encode(FINISH))
        answer = await self._receive()
        self._is_fresh = not answer["is_worn"]
        return Heard(tuple(answer["finals"]))

    def close(self) -> None:
        """Let go of the process, which ends at once if it has not finished."""
        if self._is_open:
            self._is_open = False
            self._release(self._is_fresh and not self.ended.done())

    def disconnect(self) -> None:
        """Close the connection for good."""
        if self._writer is None:
            self._connection.close()
        else:
            self._writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _send(self, message: bytes) -> None:
        assert self._writer is not None  # noqa: S101  # opened
        try:
            async with asyncio.timeout(self._limits.answer_timeout_s):
                self._writer.write(message)
                await self._writer.drain()
        except (ConnectionError, TimeoutError) as error:
            raise await self._death(error) from error

    async def _receive(self) -> dict[str, Any]:
        assert self._reader is not None  # noqa: S101  # opened
        try:
            async with asyncio.timeout(self._limits.answer_timeout_s):
                kind, answer = await receive_json(self._reader)
        except (BrokenMessageError, TimeoutError) as error:
            raise await self._death(error) from error
        if kind == FAILED:
            raise _refusal(answer)
        return answer

    async def _death(self, error: Exception | None = None) -> RecogniserDiedError:
        """Return the error for the caller, once it is known how the process ended."""
        if isinstance(error, TimeoutError):
            self.close()
            return RecogniserDiedError(
                f"The recogniser did not get on with the audio within {self._limits.answer_timeout_s:.0f} s and was ended. "
                "Retry, or use a smaller model."
            )
        exit_code: int | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_NOTICE_TIMEOUT_S):
                exit_code = await asyncio.shield(self.ended)
        return RecogniserDiedError(_describe_death(exit_code, self._limits))


def _describe_death(exit_code: int | None, limits: RecogniserLimits) -> str:
    if exit_code == EXIT_MEMORY:
        return f"Recognising this audio takes more than {limits.memory_mb} MiB beside the model. Send it in smaller parts."
    if exit_code == -signal.SIGXCPU:
        return f"Recognising took more than {limits.answer_timeout_s:.0f} s of processor time for one piece of audio."
    cause = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else "without a reason"
    return f"The recogniser of this audio ended ({cause}). Only this request is lost; retry it."


def _refusal(answer: dict[str, Any]) -> InvalidRequestError:
    if answer["reason"] == "unknown_words":
        words = answer["words"][:_MAX_NAMED_WORDS]
        return InvalidRequestError(
            f"The speech model does not know these words: {', '.join(words)}. Leave them out of the phrases.",
            param="phrases",
            code="unknown_words",
        )
    return InvalidRequestError(
        "The speech model makes no recogniser of these options. Its files may be incomplete; the log has Kaldi's reason.",
        code="invalid_recogniser_options",
    )
