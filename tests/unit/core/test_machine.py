from pathlib import Path

import pytest

from aihub.core.hardware import read_machine


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def test_largest_card_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA T400, 4096'\necho 'NVIDIA GeForce RTX 4060 Ti, 16380'")
    machine = read_machine(tmp_path)
    assert (machine.gpu_name, machine.gpu_memory_bytes) == ("NVIDIA GeForce RTX 4060 Ti", 16380 * 2**20)


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo 'card, [N/A]'", "exit 0"])
def test_driver_without_a_card_is_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, script)
    machine = read_machine(tmp_path)
    assert (machine.gpu_name, machine.gpu_memory_bytes) == (None, 0)


def test_limit_of_a_container_is_its_memory(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n", encoding="ascii")
    assert read_machine(tmp_path, limit).ram_bytes == 2**30
    limit.write_text("max\n", encoding="ascii")
    assert read_machine(tmp_path, limit).ram_bytes > 2**30


def test_disk_of_a_state_folder_that_is_not_there_yet_is_read(tmp_path: Path) -> None:
    assert read_machine(tmp_path / "not" / "yet").disk_free_bytes > 0
