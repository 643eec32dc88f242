"""How a server program is run: its environment, where it logs, and how it ends."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from aihub.core.errors import ConfigurationError

_PROGRAMS = ("postgres", "initdb", "redis-server")
_LOG_LIMIT_BYTES = 5 * 2**20
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def open_log(path: Path) -> BinaryIO:
    """Open a server's log for appending; one that has grown over 5 MiB starts anew."""
    too_long = path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES
    return path.open("wb" if too_long else "ab")


def spawn(command: list[str], *, folder: Path, log: Path, stdin: bytes = b"") -> subprocess.Popen[bytes]:
    """Start a server in `folder` with a minimal environment; `stdin` is a small text it reads first."""
    with open_log(log) as output:
        process = subprocess.Popen(  # noqa: S603 - words built here
            command, cwd=folder, env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(stdin)
    return process


def run_tool(command: list[str], *, folder: Path, stdin: str = "", what: str = "") -> str:
    """Run a set-up program to its end and return what it printed; `what` names it in the message of a failure.

    Raises:
        ConfigurationError: It failed; the message holds the end of its output.
    """
    result = subprocess.run(  # noqa: S603 - words built here
        command, cwd=folder, env=_ENVIRONMENT, input=stdin, capture_output=True, text=True, check=False
    )
    output = result.stdout + result.stderr
    if result.returncode != 0 or "FATAL:" in output or "ERROR:" in output:
        raise ConfigurationError(explain_failure(what or f"Setting up PostgreSQL in {folder}", output))
    return output


def ends_well(command: list[str]) -> bool:
    """Run a short program, with none of this process's variables, and tell whether it ended with 0."""
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, check=False).returncode == 0  # noqa: S603 - words built here


def explain_failure(what: str, output: str) -> str:
    """Return one line that says what failed and why, with a full disk named as such."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return f"{what} failed: the disk is full. Free some space, or set AIHUB_HOME to another disk."
    last_lines = " | ".join(line.strip() for line in output.strip().splitlines()[-4:])
    return f"{what} failed: {last_lines or 'it printed nothing'}"


def tail(path: Path, size: int = 2000) -> str:
    """Return the end of a text file, empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")


def end_leftovers(folder: Path, *, patience_s: float = 5.0) -> None:
    """End servers of a killed earlier run: PostgreSQL and Redis processes whose working folder is `folder`.

    Their pid files are no proof of anything, as numbers are reused after a restart of the machine or container.
    """
    target = str(folder.resolve())
    for end in (signal.SIGQUIT, signal.SIGKILL):
        deadline = time.monotonic() + patience_s
        for pid in _working_in(target):
            with suppress(ProcessLookupError):
                os.kill(pid, end)
        while _working_in(target) and time.monotonic() < deadline:
            time.sleep(0.05)


def _working_in(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # An upgrade of the package has replaced the program of a server that still runs.
            program = os.readlink(entry / "exe").removesuffix(" (deleted)")
            if os.readlink(entry / "cwd") == folder and Path(program).name in _PROGRAMS:
                found.append(int(entry.name))
    return found
