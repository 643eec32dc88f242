"""PostgreSQL and Redis on TCP ports, started from the packages as if someone else ran them."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from aihub.core.embedded.process import run_tool, spawn
from aihub.core.embedded.servers import postgres_binary, redis_binary
from aihub.core.embedded.user import ServerUser, choose_server_user

LAST_CHOSEN_PORT = 31_999
"""The system gives outgoing connections ports above (`net.ipv4.ip_local_port_range`)."""


def free_port() -> int:
    """A port that nothing listens on, and that no outgoing connection is given while a server on it is restarted."""
    while True:
        port = random.randint(12_000, LAST_CHOSEN_PORT)  # noqa: S311 - no secret
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


class ExternalServer:
    """A server process on a port that can be stopped, killed, frozen and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="aihub-ext-"))
        self.user: ServerUser = choose_server_user(self.folder / "none")
        self.user.private_folder(self.folder)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        self._spawn()
        wait_until(self._answers_or_is_started_again, 60, "an answer of the server")

    def _spawn(self) -> None:
        self.process = spawn(list(self.command()), folder=self.folder, log=self.folder / "server.log")

    def _answers_or_is_started_again(self) -> bool:
        """A killed PostgreSQL refuses to start until its child processes have noticed and ended."""
        if self.process is not None and self.process.poll() is not None:
            self._spawn()
        return self.answers()

    def send(self, number: signal.Signals) -> None:
        """Signal the server; stopping and continuing means its child processes too, ending waits for the end."""
        assert self.process is not None
        family = psutil.Process(self.process.pid)
        children = family.children(recursive=True)
        # The server first: a child that it forks while the others are stopped would go on answering.
        self.process.send_signal(number)
        if number in {signal.SIGSTOP, signal.SIGCONT}:
            for child in family.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # a connection's own process ends with it
                    child.send_signal(number)
        else:
            self.process.wait(20)
            # A killed PostgreSQL's connections may answer once more before they notice.
            psutil.wait_procs(children, timeout=20)

    def crash(self) -> None:
        """Kill the server with all its child processes, as a power failure would."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait(20)

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class ExternalPostgres(ExternalServer):
    def __init__(self) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "--no-sync", "-D", str(self.data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C")

    def command(self) -> Sequence[str]:
        sockets = ["-c", "unix_socket_directories="]
        return [*self._prefix("postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", *sockets]

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *words: str) -> None:
        run_tool([*self._prefix(program), *words], folder=self.folder)

    def _prefix(self, program: str) -> list[str]:
        binary = postgres_binary(program)
        return [*self.user.prefix("QUIT", binary, [self.folder]), str(binary)]


class ExternalRedis(ExternalServer):
    def __init__(self) -> None:
        super().__init__()
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        binary = redis_binary()
        prefix = self.user.prefix("KILL", binary, [self.folder])
        return [*prefix, str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", "secret", "--save", ""]

    def answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
