"""How leftovers of a killed run are found."""

import shutil
import subprocess
from pathlib import Path

from aihub.core.embedded.process import end_leftovers
from tests.external_servers import is_alive


def test_leftover_whose_program_was_upgraded_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "postgres"
    shutil.copy2("/bin/sleep", program)
    stranger = subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path)
    leftover = subprocess.Popen([str(program), "60"], cwd=tmp_path)
    program.unlink()
    try:
        end_leftovers(tmp_path)
        leftover.wait(timeout=1)
        assert is_alive(stranger.pid)
    finally:
        for process in (leftover, stranger):
            process.kill()
            process.wait()
