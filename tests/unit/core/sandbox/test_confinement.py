"""What a confined process can still do, and what it cannot."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFINED = """
import ctypes, os, socket, subprocess, sys
from aihub.core.sandbox.confinement import confine
confine()

def libc_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)

try:
    {attempt}
except PermissionError:
    sys.exit(7)
"""


def confined(attempt: str, folder: Path) -> int:
    """Exit code of a confined process in `folder`: 7 where the attempt was refused, 0 where it worked."""
    code = CONFINED.format(attempt=attempt)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, timeout=60, check=False, env={"PYTHONPATH": ":".join(sys.path)}
    ).returncode


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "open('new', 'w')",
        "open('there', 'r+')",
        "open('there', 'a')",
        "os.remove('there')",
        "os.rename('there', 'away')",
        "os.mkdir('folder')",
        "os.symlink('there', 'link')",
        "os.truncate('there', 0)",
        "os.chmod('there', 0o777)",
        "os.fchmod(os.open('there', os.O_RDONLY), 0o777)",
        "os.fchown(os.open('there', os.O_RDONLY), 0, 0)",
        "os.setxattr('there', 'user.mark', b'1')",
        "os.setxattr(os.open('there', os.O_RDONLY), 'user.mark', b'1')",
        "os.utime('there', (0, 0))",
        "os.chroot('.')",
        "libc_call('unshare', 0x10000000)",
        "libc_call('mount', b'none', b'.', b'tmpfs', 0, None)",
    ],
)
def test_network_programs_and_changes_of_files_are_refused(attempt: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept", encoding="utf-8")
    assert confined(attempt, tmp_path) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize(
    "attempt", ["assert open('there').read() == 'kept'", "os.pipe()", "os.fork() or os._exit(0)", "import xml.dom"]
)
def test_reading_pipes_and_forks_go_on(attempt: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept", encoding="utf-8")
    assert confined(attempt, tmp_path) == 0


def test_a_forked_process_is_confined_too(tmp_path: Path) -> None:
    assert (
        confined(
            "child = os.fork()\n    if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n    socket.socket()",
            tmp_path,
        )
        == 7
    )


@pytest.mark.parametrize(
    ("attempt", "exit_code"),
    [
        ("os.kill(os.getppid(), 0)", 7),
        ("os.kill(-1, 0)", 7),
        ("signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)", 7),
        ("libc_call('tgkill', os.getppid(), os.getppid(), 0)", 7),
        ("os.kill(os.getpid(), 0)", 0),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_signals_reach_the_own_process_alone(attempt: str, exit_code: int, tmp_path: Path) -> None:
    give_up = "from aihub.core.sandbox.confinement import confine_signals; import signal; confine_signals()"
    assert confined(f"{give_up}\n    {attempt}", tmp_path) == exit_code
