from pathlib import Path
from typing import Any

import pytest
import yaml

from aihub.core.errors import ConfigurationError
from aihub.core.profiles import PROFILES_DIR, detect_profile_name, load_profile

NAMES = sorted(path.stem for path in PROFILES_DIR.glob("*.yaml"))


def write_profile(directory: Path, name: str, changes: dict[str, Any]) -> None:
    data = yaml.safe_load((PROFILES_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        target = data
        for key in path:
            target = target[key]
        target[last] = value
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")


def test_both_machine_kinds_have_a_profile() -> None:
    assert {"cpu", "rtx4060ti"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_profile_loads_and_its_gpu_fractions_fit_one_card_at_every_size(name: str) -> None:
    profile = load_profile(name)
    parts = (profile.hub, profile.llm, profile.embeddings)
    assert sum(part.num_gpus * part.autoscaling.max_replicas for part in parts) <= 1.0 + 1e-9
    if profile.device == "cuda":
        assert profile.gpu_fraction_total > 0
        assert profile.llm.gpu_memory_utilization is not None
        assert profile.llm.gpu_memory_utilization <= profile.llm.num_gpus


def test_profile_is_chosen_by_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_profile_name() == "cpu"
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n", encoding="utf-8")
    driver.chmod(0o755)
    assert detect_profile_name() == "rtx4060ti"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"llm.num_gpu": 0.5}, "llm.num_gpu"),
        ({"hub.max_queued_request": 5}, "hub.max_queued_request"),
        ({"llm.autoscaling.min_replica": 1}, "llm.autoscaling.min_replica"),
        ({"embedding": {}}, "embedding"),
        ({"llm.num_gpus": 1.5}, "llm.num_gpus"),
        ({"llm.max_model_len": 0}, "llm.max_model_len"),
        ({"embeddings.num_gpus": 0.3}, "add up to 1.10"),
        ({"llm.gpu_memory_utilization": 0.9}, "must not exceed num_gpus"),
        ({"llm.autoscaling.max_replicas": 0}, "llm.autoscaling.max_replicas"),
        ({"name": "other"}, "calls itself 'other'"),
        ({"generation.max_tokens": 0}, "generation.max_tokens"),
        ({"generation.temperature": 3}, "generation.temperature"),
        ({"generation.top_p": 0}, "generation.top_p"),
        ({"generation.top_k": -2}, "generation.top_k"),
        ({"generation.max_length": 9}, "generation.max_length"),
    ],
)
def test_typo_or_impossible_value_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    write_profile(tmp_path, "rtx4060ti", changes)
    with pytest.raises(ConfigurationError) as raised:
        load_profile("rtx4060ti", tmp_path)
    assert named in raised.value.message


def test_cpu_profile_cannot_reserve_a_gpu(tmp_path: Path) -> None:
    write_profile(tmp_path, "cpu", {"embeddings.num_gpus": 0.1})
    with pytest.raises(ConfigurationError, match="cannot reserve a GPU"):
        load_profile("cpu", tmp_path)


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"one of: cpu, rtx4060ti"):
        load_profile("rtx9090")


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_limits_answers_that_nobody_else_limits(name: str) -> None:
    assert load_profile(name).generation.model_dump() == {"max_tokens": 1000, "temperature": 0.7, "top_p": 0.9, "top_k": 50}


def test_profile_written_before_generation_defaults_gets_the_same_ones(tmp_path: Path) -> None:
    data = yaml.safe_load((PROFILES_DIR / "cpu.yaml").read_text(encoding="utf-8"))
    del data["generation"]
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert load_profile("cpu", tmp_path).generation == load_profile("cpu").generation


@pytest.mark.parametrize(("max_length", "context"), [(None, 4096), (1024, 1024), (32768, 32768)])
def test_max_length_replaces_the_profiles_context(max_length: int | None, context: int) -> None:
    profile = load_profile("cpu")
    assert profile.with_max_length(max_length).llm.max_model_len == context
    assert profile.llm.max_model_len == 4096
