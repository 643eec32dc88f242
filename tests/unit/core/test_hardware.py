import stat
from pathlib import Path

import pytest

from aihub.core.hardware import read_gpu_name


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
