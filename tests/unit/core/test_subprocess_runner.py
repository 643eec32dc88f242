import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.progress import no_progress
from aihub.core.subprocess_runner import run_in_subprocess
from aihub.models.store.default_models import EXPORT_ENCODER
from tests.unit.models.store.toy_models import write_sentence_model

PARENT = """
import sys
from pathlib import Path
from aihub.core.subprocess_runner import run_in_subprocess
from aihub.models.store.default_models import EXPORT_ENCODER
run_in_subprocess(EXPORT_ENCODER, Path(sys.argv[1]), Path(sys.argv[2]), lambda step, share: print(step, share, flush=True))
"""


def test_a_step_runs_elsewhere_and_its_progress_comes_here(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    shares: list[float] = []
    run_in_subprocess(EXPORT_ENCODER, write_sentence_model(tmp_path / "model"), target, lambda step, share: shares.append(share))
    assert (target / "model.xml").is_file()
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_what_failed_there_is_said_here(tmp_path: Path) -> None:
    source = write_sentence_model(tmp_path / "model")
    (source / "tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match=r"no tokenizer\.json"):
        run_in_subprocess(EXPORT_ENCODER, source, tmp_path, no_progress)


def test_broken_weights_are_an_error_with_their_kind(tmp_path: Path) -> None:
    source = write_sentence_model(tmp_path / "model")
    (source / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ConfigurationError, match="SafetensorError"):
        run_in_subprocess(EXPORT_ENCODER, source, tmp_path, no_progress)


def test_a_full_disk_comes_back_as_such(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run_in_subprocess(EXPORT_ENCODER, write_sentence_model(tmp_path / "model"), tmp_path, no_progress)


def test_an_interrupted_caller_takes_the_child_along(tmp_path: Path) -> None:
    def interrupt(step: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_subprocess(EXPORT_ENCODER, write_sentence_model(tmp_path / "model"), tmp_path, interrupt)
    assert not [child for child in psutil.Process().children() if "aihub.core.subprocess_runner" in " ".join(child.cmdline())]


def test_the_child_of_a_killed_parent_ends(tmp_path: Path) -> None:
    source = write_sentence_model(tmp_path / "model")
    os.mkfifo(tmp_path / "encoder.json")  # Writing to it waits for a reader who never comes.
    parent = subprocess.Popen([sys.executable, "-c", PARENT, source, tmp_path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.split()[-1] == "0.8":
            break
    [child] = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    deadline_s = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
