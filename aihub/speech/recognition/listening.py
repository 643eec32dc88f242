"""The process of one recogniser: hears file parts and live streams, one after the other, until it is worn.

The launcher forks it, with the model loaded.
"""

import json
import logging
import os
import signal
import socket
from contextlib import suppress
from typing import Any, NoReturn

from aihub.core.sandbox.confinement import confine_signals
from aihub.core.sandbox.frames import EXIT_MEMORY
from aihub.core.sandbox.limits import address_space_bytes, die_with_parent, limit_cpu, limit_memory
from aihub.speech.recognition.messages import (
    AUDIO,
    FAILED,
    FINISH,
    HEARD,
    OPTIONS,
    BrokenMessageError,
    encode_json,
    receive_blocking,
)
from aihub.speech.recognition.options import BLOCK_S, RecogniserLimits, RecogniserOptions

logger = logging.getLogger(__name__)

_SAMPLE_BYTES = 2
_UNKNOWN = "[unk]"
_KEPT_SHARE = 4
"""A process that keeps more than 1/4 of its memory limit after an audio ends, so that what Kaldi leaks goes with it."""


class _RefusedError(Exception):
    """The options do not fit the model; `args[0]` is what the hub is told."""


class Listener:
    """Answers the messages of one connection.

    Args:
        model: A loaded `vosk.Model`.
        connection: To the hub.
        limits: Of this process.
    """

    def __init__(self, model: Any, connection: socket.socket, limits: RecogniserLimits) -> None:
        self._model = model
        self._connection = connection
        self._limits = limits
        self._recogniser: Any = None
        self._options = RecogniserOptions()
        self._heard = 0
        self._idle_bytes = 0

    def run(self, launcher_pid: int) -> NoReturn:
        """Serve and exit."""
        status = 0
        try:
            die_with_parent(launcher_pid, signal.SIGKILL)
            with suppress(OSError):  # the launcher has warned that there are no filters
                confine_signals()
            limit_memory(self._limits.memory_mb)
            self._idle_bytes = address_space_bytes()
            self._serve()
        except MemoryError:
            status = EXIT_MEMORY
        except (BrokenMessageError, ConnectionError):
            status = 0
        except BaseException:
            logger.exception("A speech recogniser failed.")
            status = 1
        os._exit(status)

    def _serve(self) -> None:
        while True:
            kind, body = receive_blocking(self._connection)
            limit_cpu(int(self._limits.answer_timeout_s))
            try:
                answer = self._answer(kind, body)
            except _RefusedError as refusal:
                self._connection.sendall(encode_json(FAILED, refusal.args[0]))
                return
            self._connection.sendall(encode_json(HEARD, answer))
            if answer.get("is_worn"):
                return

    def _answer(self, kind: bytes, body: bytes) -> dict[str, Any]:
        if kind == OPTIONS:
            self._options = RecogniserOptions(**json.loads(body))
            self._recogniser = self._open(self._options)
            return {}
        if self._recogniser is None:
            raise BrokenMessageError("audio without options")  # Kaldi aborts when it is fed after its end
        if kind == AUDIO:
            return self._hear(body)
        if kind == FINISH:
            return self._finish()
        raise BrokenMessageError(f"a message of kind {kind!r}")

    def _hear(self, audio: bytes) -> dict[str, Any]:
        block_bytes = int(self._options.sample_rate * BLOCK_S) * _SAMPLE_BYTES
        finals: list[dict[str, Any]] = []
        has_ended = False
        for start in range(0, len(audio), block_bytes):
            has_ended = bool(self._recogniser.AcceptWaveform(audio[start : start + block_bytes]))
            if has_ended:
                finals.append(json.loads(self._recogniser.Result()))
        if not self._options.partials or has_ended or not audio:
            return {"finals": finals}
        return {"finals": finals, "partial": json.loads(self._recogniser.PartialResult())}

    def _finish(self) -> dict[str, Any]:
        final = json.loads(self._recogniser.FinalResult())
        self._recogniser = None
        self._heard += 1
        kept_bytes = address_space_bytes() - self._idle_bytes
        is_worn = self._heard >= self._limits.recycle_after or kept_bytes * _KEPT_SHARE > self._limits.memory_mb * 2**20
        return {"finals": [final], "is_worn": is_worn}

    def _open(self, options: RecogniserOptions) -> Any:
        from vosk import KaldiRecognizer

        arguments: tuple[Any, ...] = (self._model, options.sample_rate)
        if options.phrases:
            arguments += (self._grammar(options.phrases),)
        try:
            recogniser = KaldiRecognizer(*arguments)
        except Exception as error:  # all that the wrapper raises; the reason is on standard error
            raise _RefusedError({"reason": "no_recogniser"}) from error
        recogniser.SetWords(options.words)
        recogniser.SetPartialWords(options.partial_words)
        recogniser.SetMaxAlternatives(options.max_alternatives)
        return recogniser

    def _grammar(self, phrases: tuple[str, ...]) -> str:
        """Return the phrases as Vosk's grammar, in the spelling that the model has."""
        unknown: list[str] = []
        spelled = [" ".join(self._spell(word, unknown) for word in phrase.split()) for phrase in phrases]
        if unknown:
            raise _RefusedError({"reason": "unknown_words", "words": list(dict.fromkeys(unknown))})
        return json.dumps([*spelled, _UNKNOWN], ensure_ascii=False)

    def _spell(self, word: str, unknown: list[str]) -> str:
        for spelling in (word, word.lower()):
            if self._model.vosk_model_find_word(spelling) >= 0:
                return spelling
        unknown.append(word)
        return word
