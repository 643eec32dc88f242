"""PostgreSQL and Redis servers inside the state folder, for a hub without configured ones."""

import fcntl
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aihub.core.embedded.supervisor import LOCK_FILE
from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings

_PROJECT = Path(__file__).resolve().parents[3]
_STOP_S = 40.0


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """Where the two stores answer; both URLs carry passwords."""

    database_url: str
    redis_url: str


class EmbeddedStores:
    """A PostgreSQL and a Redis server that live at most as long as this process.

    A supervising child in a session of its own runs them, so neither Ctrl-C nor the death of this process by any signal
    leaves them unattended.

    Args:
        home: State folder; data lies under `home/postgres` and `home/redis`, the passwords in `home/embedded.secret`.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().resolve()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self, timeout_s: float = 90.0) -> StoreUrls:
        """Start both servers and wait until they accept connections. Blocking.

        Raises:
            ConfigurationError: They run already on this folder, a binary is missing, the disk is full, the folder is not
                usable, or a server ended at once; the message says which and what to do.
        """
        with self._lock:
            if self.is_running():
                raise ConfigurationError(f"The embedded servers of {self._home} are running already.")
            try:
                self._home.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(f"Cannot create the state folder {self._home}: {error.strerror}.") from error
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "aihub.core.embedded.supervisor", str(self._home)],
                cwd=_PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            answer = _read_answer(self._supervisor, timeout_s)
            if "error" in answer:
                self._end()
                raise ConfigurationError(answer["error"])
            return StoreUrls(**answer)

    def stop(self) -> None:
        """Stop both cleanly and wait for it; harmless when not started. Blocking."""
        with self._lock:
            self._end()

    def is_running(self) -> bool:
        """False before `start`, and once the supervising process has ended."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def _end(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        try:
            supervisor.communicate(b"stop", timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()


def running_urls(home: Path) -> StoreUrls | None:
    """Return the URLs of embedded servers that another process runs on `home`; None when none do.

    Raises:
        ConfigurationError: The folder is another user's.
    """
    path = home.expanduser().resolve() / LOCK_FILE
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"The state folder {path.parent} cannot be read ({error.strerror}). Run this as the user the hub runs as, "
            "or set AIHUB_HOME to a folder of yours."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read()
            return StoreUrls(**json.loads(text)) if text else None
    return None


def _read_answer(supervisor: subprocess.Popen[bytes], timeout_s: float) -> dict[str, str]:
    pipe = _output_of(supervisor)
    readable, _, _ = select.select([pipe], [], [], timeout_s)
    if not readable:
        return {"error": f"The embedded servers did not start within {timeout_s:.0f} s. See server.log in the state folder."}
    line = os.read(pipe.fileno(), 65536)
    if not line:
        return {"error": f"The process that runs the embedded servers ended with code {supervisor.wait()}."}
    answer: dict[str, str] = json.loads(line)
    return answer


def _output_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise ConfigurationError("The supervisor was started without a pipe.")
    return process.stdout


@contextmanager
def database_for(settings: Settings) -> Iterator[str]:
    """Yield the URL of the configured database, else of the embedded one, which is started for the time when it is not running.

    Raises:
        ConfigurationError: The embedded server could not start.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    running = running_urls(settings.home_path)
    if running is not None:
        yield running.database_url
        return
    stores = EmbeddedStores(settings.home_path)
    try:
        yield stores.start().database_url
    finally:
        stores.stop()
