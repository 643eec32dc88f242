"""Heavy steps in a process of their own: the hub keeps none of their memory and survives their crashes.

`python -m aihub.core.subprocess_runner <step> <source> <target> <options>` writes one JSON object per line: progress, or an
error. It ends when its standard input does, so no orphan goes on writing after its parent was killed.
"""

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from aihub.core.errors import ConfigurationError, HubError
from aihub.core.progress import Progress

LOG_TAIL_BYTES = 2000


def run_in_subprocess(step: str, source: Path, target: Path, progress: Progress, **options: Any) -> None:
    """Run a function on two paths and more arguments, passing its progress on.

    Args:
        step: Module and name of the function, as `aihub.models.store.gguf:convert_gguf`. It takes the two paths, a progress
            callback and the options.
        options: JSON values.

    Raises:
        ConfigurationError: The step failed or its process died; the message says why.
        OSError: The disk is full.
    """
    command = [sys.executable, "-P", "-m", "aihub.core.subprocess_runner", step, str(source), str(target), json.dumps(options)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(  # noqa: S603  # our own module, arguments as a list
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True, encoding="utf-8"
        )
        with child:
            try:
                failure = _follow(child, progress)
                # Closing the pipes, which this block does at its end, would tell it to stop at once.
                child.wait()
            except BaseException:
                child.kill()
                raise
        if failure is not None:
            raise failure
        if child.returncode != 0:
            name = step.rpartition(":")[2]
            raise ConfigurationError(
                f"{name} of {source} ended with code {child.returncode}; memory may have run out. {_tail(log)}".rstrip()
            )


def _follow(child: "subprocess.Popen[str]", progress: Progress) -> Exception | None:
    if child.stdout is None:
        raise AssertionError("the child was started without a pipe")
    failure: Exception | None = None
    for line in child.stdout:
        message: dict[str, Any] = json.loads(line)
        if "step" in message:
            progress(message["step"], message["share"])
        elif message["errno"] is not None:
            failure = OSError(message["errno"], message["error"])
        else:
            failure = ConfigurationError(message["error"])
    return failure


def _tail(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def main(arguments: list[str]) -> int:
    """Run one step; the exit code is 0, or 1 after an error line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Libraries print as they like; the pipe to the parent is for messages only.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as messages:
        os.dup2(2, 1)

        def send(**message: Any) -> None:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

        try:
            run = _find_step(arguments[0])
            source, target, options = Path(arguments[1]), Path(arguments[2]), json.loads(arguments[3])
            run(source, target, lambda step, share: send(step=step, share=share), **options)
        except Exception as error:
            send(error=_describe(error), errno=_disk_full(error))
            raise
    return 0


def _find_step(name: str) -> Callable[..., None]:
    module, _, function = name.partition(":")
    step: Callable[..., None] = getattr(import_module(module), function)
    return step


def _describe(error: Exception) -> str:
    return error.message if isinstance(error, HubError) else f"{type(error).__name__}: {error}"


def _disk_full(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return errno.ENOSPC if error.errno in {errno.ENOSPC, errno.EDQUOT} else None
    # safetensors and tokenizers write in Rust and wrap the system's error in their own types.
    return errno.ENOSPC if "os error 28" in str(error) or "os error 122" in str(error) else None


def _end_with_parent() -> None:
    # Unbuffered: Python cannot shut down while a thread holds the buffer of sys.stdin.
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
