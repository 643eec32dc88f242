"""The examples of docs/accounts.md, run one after the other as a reader would: real commands, a real database, a real server."""

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.fake import FakeAuthenticator
from aihub.chat.fake import FakeChatEngine
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from tests.external_servers import free_port
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "accounts.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
MODEL = "smollm2-135m-instruct"


class OpenedInTheServer(FakeAuthenticator):
    """Keys of PostgreSQL; the pool is opened by the first request, on the server's own event loop."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._database = Database(dsn)
        self._real: KeyAuthenticator | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def authenticate(self, authorization: Sequence[str]) -> Principal:
        if self._real is None:
            self._loop = asyncio.get_running_loop()
            await self._database.open()
            self._real = KeyAuthenticator(self._database, is_local=True)
        return await self._real.authenticate(authorization)

    def close(self) -> None:
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    async def _close(self) -> None:
        if self._real is not None:
            await self._real.close()
        await self._database.close()


@pytest.fixture
def hub_url(empty_dsn: str) -> Iterator[str]:
    authenticator = OpenedInTheServer(empty_dsn)
    server = LiveServer(Parts(engine=FakeChatEngine(model_id=MODEL), authenticator=authenticator))
    server.start()
    yield server.url
    authenticator.close()
    server.stop()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which `.venv/bin/aihub` and `make serve` are there; the latter does all that comes before Ray."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    write_script(
        tmp_path / ".venv" / "bin" / "aihub", f"exec {sys.executable} -c 'from aihub.cli.main import main; main()' \"$@\""
    )
    checks = (
        "import sys; from pathlib import Path; from aihub.cli import preflight; from aihub.core.settings import Settings; "
        f"print(preflight.check(Path('{ROOT}/serve_config.yaml'), {free_port()}, Settings(), host=sys.argv[1]).api_url)"
    )
    write_script(tmp_path / "bin" / "make", f'exec {sys.executable} -c "{checks}" "${{2#HOST=}}"')
    write_script(tmp_path / "bin" / "python3", f'exec {sys.executable} "$@"')
    return tmp_path


def write_script(path: Path, line: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{line}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in _BLOCK.finditer(TEXT)]


def as_shell(language: str, block: str) -> str:
    """One example as bash that fails where it fails."""
    return block if language == "bash" else f"python3 - <<'EXAMPLE'\n{block}EXAMPLE\n"


def test_every_example_of_the_page_does_what_it_says(project: Path, hub_url: str, empty_dsn: str) -> None:
    runnable = [as_shell(language, block) for language, block in blocks() if language in {"bash", "python"}]
    assert len(runnable) >= 8
    script = "set -euo pipefail\n" + "\necho '--- next'\n".join(runnable)
    script = script.replace("http://127.0.0.1:8000", hub_url).replace("curl -s ", "curl -sf ")
    environment = {
        "PATH": f"{project / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": empty_dsn,
        "AIHUB_HOME": str(project / "home"),
    }
    result = subprocess.run(
        ["bash", "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    printed = result.stdout.split("--- next\n")
    assert len(printed) == len(runnable)
    account = json.loads(printed[0])
    assert (account["role"], account["tenant_id"]) == ("admin", "default")
    for text in ("http://127.0.0.1", "You said: Xin chào!", MODEL, "key_", "an of the tenant default", "Công ty Acme"):
        assert text in result.stdout, text
    key_file = project / "prometheus.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert re.fullmatch(r"aihub_[a-z0-9]{8}_[\w-]{43}\n", key_file.read_text(encoding="utf-8"))


def test_start_on_the_network_is_refused_where_the_first_step_was_left_out(project: Path, empty_dsn: str) -> None:
    environment = {"PYTHONPATH": str(ROOT), "DATABASE_URL": empty_dsn, "AIHUB_HOME": str(project / "home")}
    environment |= {"PATH": os.environ["PATH"]}
    result = subprocess.run(
        [project / "bin" / "make", "serve", "HOST=0.0.0.0"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "aihub keys create --name NAME" in result.stderr


def test_configuration_of_prometheus_reads_the_key_from_the_file_that_was_written() -> None:
    (document,) = [yaml.safe_load(block) for language, block in blocks() if language == "yaml"]
    (job,) = document["scrape_configs"]
    assert job["authorization"] == {"credentials_file": "prometheus.key"}
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:8000"]


def test_page_names_every_option_of_making_a_key() -> None:
    from typer.main import get_command

    from aihub.accounts.cli.keys import app

    command = get_command(app).commands["create"]
    options = {name for parameter in command.params for name in parameter.opts if name != "--help"}
    assert sorted(option for option in options if option not in TEXT) == []


def test_examples_have_no_other_language_that_would_go_unchecked() -> None:
    assert {language for language, _ in blocks()} == {"bash", "python", "yaml", "caddyfile"}
