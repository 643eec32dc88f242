"""Keeps the embedded servers running for as long as its parent lives: `python -m aihub.core.embedded.supervisor HOME`.

It prints one JSON line, `{"database_url", "redis_url"}` once both servers accept connections or `{"error"}`, and then
watches its standard input. The parent says `stop` there or dies, which closes it; either way the servers are ended before
this process is. A server that ends by itself is started again.
"""

import fcntl
import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from aihub.core.embedded.process import explain_failure, tail
from aihub.core.embedded.servers import PostgresServer, RedisServer, Server
from aihub.core.embedded.user import choose_server_user
from aihub.core.errors import ConfigurationError

LOCK_FILE = "embedded.lock"
SECRETS_FILE = "embedded.secret"

_MIN_FREE_BYTES = 256 * 2**20
_SOCKET_PATH_LIMIT = 107
_CHECK_PERIOD_S = 2.0
_START_POLL_S = 0.03
_ORPHAN_PATIENCE_S = 2.0
_STOP_PATIENCE_S = 30.0
_RESTART_DELAYS_S = (0.2, 1.0, 5.0)


def _warn(message: str) -> None:
    print(f"aihub: {message}", file=sys.stderr, flush=True)  # noqa: T201 - the parent's error stream


class Watched:
    """One server process and its restarts."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.process = server.spawn()
        self._started_at = time.monotonic()
        self._failures = 0
        self._restart_at: float | None = None

    def keep_alive(self) -> float:
        """Start the server again when it has ended, at growing intervals while that keeps happening.

        Returns the seconds after which to call this again, if no child ends before.
        """
        if self.process.poll() is None:
            return _CHECK_PERIOD_S
        now = time.monotonic()
        if self._restart_at is None:
            self._failures = self._failures + 1 if now - self._started_at < 60 else 1
            self._restart_at = now + _RESTART_DELAYS_S[min(self._failures, len(_RESTART_DELAYS_S)) - 1]
            _warn(f"{self.server.name} ended with {self.process.returncode}; restarting")
        elif now >= self._restart_at:
            self._restart_at = None
            self._started_at = now
            try:
                self.server.prepare()
                self.process = self.server.spawn()
            except (ConfigurationError, OSError) as error:
                _warn(f"{self.server.name} cannot be restarted yet: {error}")
        return 0.0 if self._restart_at is None else max(0.0, self._restart_at - now)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class Parent:
    """The process on the other end of standard input."""

    def __init__(self) -> None:
        self._pid = os.getppid()
        self.is_orphan = False
        self.wants_stop = False
        # A signal, such as that of a server's end, also ends the wait for standard input.
        self._signals, wakeup = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.wants_stop = True

    def is_done(self, wait_s: float) -> bool:
        """Wait until there is news, `wait_s` at most, and tell whether the servers should end.

        Another child of the parent may hold the pipe open by accident, so its process id is watched as well.
        """
        readable, _, _ = select.select([sys.stdin, self._signals], [], [], wait_s)
        if self._signals in readable:
            os.read(self._signals, 4096)
        if sys.stdin in readable:
            said_stop = os.read(sys.stdin.fileno(), 16) != b""
            self.wants_stop = self.wants_stop or said_stop
            self.is_orphan = not said_stop
        self.is_orphan = self.is_orphan or os.getppid() != self._pid
        return self.is_orphan or self.wants_stop


@contextmanager
def hold_lock(home: Path) -> Iterator[Path]:
    """Be the only supervisor of `home`; the file holds the URLs while the servers run and is empty otherwise.

    Raises:
        ConfigurationError: Another one runs.
    """
    path = home / LOCK_FILE
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as file:
        deadline = time.monotonic() + 1.0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # An empty file means that the other one is on its way out (or not ready yet).
                patience = 10.0 if path.stat().st_size == 0 else 0.0
                if time.monotonic() > deadline + patience:
                    raise ConfigurationError(
                        f"The embedded servers of {home} are running already. Stop the other hub, "
                        "or set AIHUB_HOME to another folder."
                    ) from None
                time.sleep(0.05)
        try:
            yield path
        finally:
            os.truncate(path, 0)


def load_secrets(home: Path) -> tuple[dict[str, str], bool]:
    """Return the servers' passwords and whether they were made just now."""
    path = home / SECRETS_FILE
    if path.exists():
        stored: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return stored, False
    passwords = {"postgres": secrets.token_hex(24), "redis": secrets.token_hex(24)}
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(passwords, file)
    return passwords, True


def start_servers(servers: list[Server], parent: Parent) -> list[Watched]:
    """Start all servers and wait until each accepts connections.

    Raises:
        ConfigurationError: One of them ended; the message holds the end of its log.
    """
    for server in servers:
        server.prepare()
    watched: list[Watched] = []
    try:
        for server in servers:
            watched.append(Watched(server))
        waiting = list(watched)
        while waiting and not parent.is_done(_START_POLL_S):
            for item in waiting:
                if item.process.poll() is not None:
                    raise ConfigurationError(explain_failure(f"Starting {item.server.name}", tail(item.server.log)))
            waiting = [item for item in waiting if not item.server.is_ready()]
    except BaseException:
        stop_servers(watched, _ORPHAN_PATIENCE_S)
        raise
    return watched


def stop_servers(watched: list[Watched], patience_s: float) -> None:
    """End all servers, kindly first; none is left on return."""
    for step in range(3):
        for item in watched:
            if item.process.poll() is None:
                item.signal(item.server.stop_signals[min(step, len(item.server.stop_signals) - 1)])
        deadline = time.monotonic() + (patience_s if step == 0 else 1.0)
        for item in watched:
            with suppress(subprocess.TimeoutExpired):
                item.process.wait(max(0.0, deadline - time.monotonic()))


@contextmanager
def socket_folder(home: Path) -> Iterator[Path]:
    """A folder for sockets: `home/run`, or a temporary one where that path is too long for a Unix socket.

    Or holds characters that mean something else in a URL or to libpq, which reads a comma as the end of a host.
    """
    folder = home / "run"
    is_plain = re.fullmatch(r"[A-Za-z0-9_./-]+", str(folder)) is not None
    if is_plain and len(str(folder / ".s.PGSQL.5432")) <= _SOCKET_PATH_LIMIT:
        yield folder
        return
    temporary = Path(tempfile.mkdtemp(prefix="aihub-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def supervise(home: Path, parent: Parent) -> None:
    """Run both servers until the parent is done with them.

    Raises:
        ConfigurationError: They could not start.
    """
    free = shutil.disk_usage(home).free
    if free < _MIN_FREE_BYTES:
        raise ConfigurationError(
            f"The disk of {home} is full: {free // 2**20} MiB are free, 256 are needed. Free some space, "
            "or set AIHUB_HOME to another disk."
        )
    with hold_lock(home) as lock, socket_folder(home) as sockets:
        user = choose_server_user(home / "postgres")
        user.private_folder(sockets)
        passwords, are_new = load_secrets(home)
        postgres = PostgresServer(home / "postgres", sockets, user, passwords["postgres"], are_new)
        redis = RedisServer(home / "redis", sockets, user, passwords["redis"])
        watched = start_servers([postgres, redis], parent)
        try:
            urls = json.dumps({"database_url": postgres.url, "redis_url": redis.url})
            lock.write_text(urls, encoding="utf-8")
            print(urls, flush=True)  # noqa: T201 - the answer to the parent
            wait_s = _CHECK_PERIOD_S
            while not parent.is_done(wait_s):
                wait_s = min([item.keep_alive() for item in watched])
        finally:
            os.truncate(lock, 0)
            stop_servers(watched, _ORPHAN_PATIENCE_S if parent.is_orphan else _STOP_PATIENCE_S)


def main(arguments: list[str]) -> int:
    """Run until the parent is done; the exit code is 1 when the servers could not start."""
    parent = Parent()
    os.umask(0o077)
    try:
        supervise(Path(arguments[0]), parent)
    except ConfigurationError as error:
        print(json.dumps({"error": error.message}), flush=True)  # noqa: T201  # the answer to the parent
        return 1
    except OSError as error:
        print(json.dumps({"error": f"The embedded servers could not start: {error}."}), flush=True)  # noqa: T201  # the answer to the parent
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
