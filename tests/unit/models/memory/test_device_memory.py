import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from aihub.models.memory.device import MIB, read_compute_capability, read_device_memory, read_process_memory
from aihub.models.memory.host import DeviceMemory

HOLDS_BYTES = 50 * 10**6
CHILD = f"held = bytearray(b'x') * {HOLDS_BYTES}; print('ready', flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The answers of a driver, one file each, given out by a program of its name."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    lines = [
        "#!/bin/sh",
        "case $1 in",
        f"--query-gpu=index*) cat {tmp_path}/memory ;;",
        f"--query-compute*) cat {tmp_path}/used ;;",
    ]
    program.write_text("\n".join([*lines, f"--query-gpu=compute*) cat {tmp_path}/ability ;;", "esac\n"]), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path


def test_cpu_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    (memory,) = read_device_memory("cpu", tmp_path)
    assert (memory.device, memory.total_bytes) == ("cpu", psutil.virtual_memory().total)
    assert 0 < memory.free_bytes < memory.total_bytes


def test_limit_of_a_container_is_its_memory_and_files_that_can_be_dropped_are_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{300 * MIB}\n", encoding="ascii")
    (tmp_path / "memory.current").write_text(f"{250 * MIB}\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {40 * MIB}\n", encoding="ascii")
    assert read_device_memory("cpu", tmp_path) == [DeviceMemory("cpu", 300 * MIB, 90 * MIB)]
    (tmp_path / "memory.current").write_text(f"{900 * MIB}\n", encoding="ascii")
    assert read_device_memory("cpu", tmp_path)[0].free_bytes == 0


def test_free_memory_of_a_container_that_does_not_tell_its_use_is_at_most_the_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{300 * MIB}\n", encoding="ascii")
    assert read_device_memory("cpu", tmp_path)[0].free_bytes <= 300 * MIB


def test_every_card_of_the_driver_is_listed(driver: Path) -> None:
    (driver / "memory").write_text("0, 16380, 15000\n1, 8192, 100\n", encoding="ascii")
    assert read_device_memory("cuda:0") == [
        DeviceMemory("cuda:0", 16380 * MIB, 15000 * MIB),
        DeviceMemory("cuda:1", 8192 * MIB, 100 * MIB),
    ]


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "0, [N/A], [N/A]\n"])
def test_driver_without_an_answer_is_no_card(driver: Path, answer: str) -> None:
    (driver / "memory").write_text(answer, encoding="ascii")
    assert read_device_memory("cuda:0") == []


def test_machine_without_a_driver_has_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_device_memory("cuda:0") == []
    assert read_compute_capability() is None
    assert read_process_memory("cuda:0", [os.getpid()]) == 0


def test_memory_on_a_card_is_that_of_the_processes_asked_for(driver: Path) -> None:
    (driver / "used").write_text(f"{os.getpid()}, 500\n1, 900\n{os.getpid()}, 20\n", encoding="ascii")
    assert read_process_memory("cuda:0", [os.getpid()]) == 520 * MIB


@pytest.mark.parametrize(("answer", "capability"), [("8.9\n", (8, 9)), ("12.0\n8.6\n", (12, 0)), ("", None), ("[N/A]\n", None)])
def test_ability_is_the_first_cards(driver: Path, answer: str, capability: tuple[int, int] | None) -> None:
    (driver / "ability").write_text(answer, encoding="ascii")
    assert read_compute_capability() == capability


def test_memory_in_ram_counts_children_and_is_none_once_they_are_gone() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    held = read_process_memory("cpu", [parent.pid])
    assert HOLDS_BYTES < held < 4 * HOLDS_BYTES
    parent.communicate("\n")
    assert read_process_memory("cpu", [parent.pid]) == 0
