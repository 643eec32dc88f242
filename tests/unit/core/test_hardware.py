import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aihub.core.hardware import read_gpu_name, read_peak_memory_bytes


def install_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{answer}'\nexit {status}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_card_is_named_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, r"NVIDIA GeForce RTX 4060 Ti\nNVIDIA H100, 80GB\n")
    assert read_gpu_name("cuda:0") == "NVIDIA GeForce RTX 4060 Ti"
    assert read_gpu_name("cuda:1") == "NVIDIA H100, 80GB"
    assert read_gpu_name("cuda:2") is None
    assert read_gpu_name("cpu") is None


def test_driver_that_fails_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, "NVIDIA-SMI has failed", status=9)
    assert read_gpu_name("cuda:0") is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert read_gpu_name("cuda:0") is None


def test_peak_of_memory_is_the_programs_own_and_not_that_of_who_started_it() -> None:
    held = np.ones(300_000_000, np.uint8)
    command = [sys.executable, "-c", "from aihub.core.hardware import read_peak_memory_bytes as r; print(r())"]
    peak_bytes = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert 5_000_000 < peak_bytes < held.nbytes < read_peak_memory_bytes()


def test_peak_of_memory_is_told_where_the_kernel_does_not(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n", encoding="utf-8")
    for status in (tmp_path / "status", tmp_path / "none"):
        assert read_peak_memory_bytes(status) > 0.9 * read_peak_memory_bytes()  # the kernel counts by batches of pages
