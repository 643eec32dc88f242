"""Checks of data files in processes of their own, a few at a time: the caller keeps no tokenizer and none of their memory."""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.concurrency import ResizableSemaphore
from aihub.core.errors import (
    HubError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PayloadTooLargeError,
)
from aihub.finetuning.datasets.problems import Param

logger = logging.getLogger(__name__)

MODULE = "aihub.finetuning.datasets.check_process"
MAX_ANSWER_BYTES = 2**20
LOG_TAIL_CHARS = 500

_KINDS: dict[str, type[HubError]] = {kind.__name__: kind for kind in (InvalidRequestError, NotFoundError, PayloadTooLargeError)}


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """What to check; see `check_datasets`.

    Attributes:
        base: Folder of the model whose tokenizer counts.
        param: The request field that named the training file.
    """

    base: Path
    training: Path
    validation: Path | None
    max_tokens: int
    param: Param

    def arguments(self) -> str:
        """What the process is started with."""
        values = {"base": str(self.base), "training": str(self.training), "max_tokens": self.max_tokens, "param": self.param}
        return json.dumps(values | {"validation": None if self.validation is None else str(self.validation)})


class DatasetChecker:
    """Runs checks.

    Args:
        processes: Checks at a time; each takes a core and up to a few hundred MB.
        waiting: Checks that may wait for their turn.
        timeout_s: Longest check, its wait not counted.
    """

    def __init__(self, *, processes: int = 2, waiting: int = 32, timeout_s: float = 600.0) -> None:
        self._turns = ResizableSemaphore(processes)
        self._places = processes + waiting
        self._timeout_s = timeout_s

    async def check(self, check: DatasetCheck) -> dict[str, dict[str, Any]]:
        """Return the fields of the reports by `training` and `validation`; its process dies with a cancelled caller.

        Raises:
            InvalidRequestError: A file cannot be trained on, or takes too long; the message says why, by line.
            OverloadedError: Too many checks wait.
            InternalError: The process died.
        """
        async with self._turn():
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await _ask(check)
            except TimeoutError as error:
                raise InvalidRequestError(
                    f"The check of the data took longer than {self._timeout_s:g} s. Send fewer rows.", param=check.param
                ) from error
        if (failure := answer.get("error")) is not None:
            kind = _KINDS.get(failure["kind"], InvalidRequestError)
            raise kind(failure["message"], param=failure["param"], code=failure["code"])
        training, validation = answer["reports"]
        return {"training": training} | ({"validation": validation} if validation is not None else {})

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._places <= 0:
            raise OverloadedError("Too many data files are being checked. Send the job again in a minute.", retry_after_s=30)
        self._places -= 1
        try:
            async with self._turns:
                yield
        finally:
            self._places += 1


async def _ask(check: DatasetCheck) -> dict[str, Any]:
    # `-P`: the folder the hub was started in is nobody's to import from.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", MODULE, check.arguments(),
        stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=MAX_ANSWER_BYTES, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        # Not `communicate`, which closes the standard input at once: the process would take that for its parent's end.
        stdout, stderr, _ = await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
    finally:
        await _end(process)
    try:
        answer: dict[str, Any] = json.loads(stdout)
    except ValueError as error:
        tail = stderr.decode("utf-8", "replace")[-LOG_TAIL_CHARS:]
        logger.error("The check of %s ended with code %s: %s", check.training, process.returncode, tail)
        raise InternalError("The check of the data files died; memory may have run out.") from error
    return answer


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None  # noqa: S101  # started with pipes
    return await stream.read()


async def _end(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        process.kill()
        await process.wait()
