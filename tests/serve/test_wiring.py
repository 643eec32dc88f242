"""The Serve edge without a cluster: imports, files, options, error translation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.schema import ServeDeploySchema
from vllm.device_allocator.cumem import AllocationData, CuMemAllocator
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from aihub.chat.history import EngineHistory
from aihub.core.errors import (
    ConfigurationError,
    EngineTimeoutError,
    HubError,
    InternalError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
)
from aihub.core.profiles import PROFILES_DIR, load_profile
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.requirement import GIB, MemoryRequirement
from deployments import vllm_compat as vllm_adapter
from deployments.app import AppArgs
from deployments.engine_worker import WorkerReport
from deployments.handles import AppConnection, translate_error
from deployments.launch import check_serve_config
from deployments.llm_app import engine_kwargs, gpu_share
from deployments.model_directory import ModelDirectory
from deployments.model_host import ServeModelHost
from deployments.options import serve_options
from tests.cluster import ROOT

SERVE_CONFIG = ROOT / "serve_config.yaml"


def test_adapter_offers_every_name_it_promises() -> None:
    assert [name for name in vllm_adapter.__all__ if not hasattr(vllm_adapter, name)] == []


def test_models_can_sleep_on_a_card_and_are_never_told_to_on_a_cpu() -> None:
    requirement = MemoryRequirement(GIB, GIB, GIB)
    spec = ModelSpec("m", "local:m", Path("/m"), "cuda:0", requirement, 4096, 16)
    card, cpu = load_profile("rtx4060ti"), load_profile("cpu")
    assert engine_kwargs(spec, card.llm, gpu_share(spec, card))["enable_sleep_mode"] is True
    spec = replace(spec, device="cpu")
    assert not engine_kwargs(spec, cpu.llm, gpu_share(spec, cpu)).get("enable_sleep_mode")
    host = ServeModelHost(cpu, lambda _: {})
    assert not host.can_sleep(spec)


def test_vllm_refuses_to_sleep_on_this_machine_unless_it_has_a_card(tmp_path: Path) -> None:
    if current_platform.is_cuda():
        pytest.skip("this machine has a card")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}', encoding="utf-8")
    with pytest.raises(ValueError, match="Sleep mode is not supported"):
        AsyncEngineArgs(model=str(tmp_path), enable_sleep_mode=True).create_model_config()


def test_memory_that_sleep_gave_back_is_told_from_memory_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = CuMemAllocator()  # registers nothing; vLLM's own instance stays as it is
    for pointer, is_asleep in ((1, True), (2, False)):
        allocator.pointer_to_data[pointer] = AllocationData((0, GIB, pointer, 0), "weights", is_asleep=is_asleep)
    monkeypatch.setattr(CuMemAllocator, "instance", allocator)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    assert WorkerReport().device_bytes() == 2 * GIB


def test_serve_config_is_valid_and_keeps_parts_in_their_own_applications() -> None:
    config = check_serve_config(SERVE_CONFIG)
    assert [app.name for app in config.applications] == ["embeddings", "models", "recsys", "speech", "hub"]
    assert config.http_options.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("http_options:", "http_option:", "http_option"),
        ("request_timeout_s", "request_timout_s", "http_options.request_timout_s"),
        ("import_path: deployments.app:build_hub", "import_paht: x", "applications[4].import_paht"),
        ("args: {profile: auto}", "args: {profil: auto}", "profil"),
        ("port: 8000", "port: many", "port"),
        ("proxy_location: HeadOnly", "proxy_location: Nowhere", "proxy_location"),
        ("applications:", "applications: [", "not valid YAML"),
    ],
)
def test_typo_in_the_serve_config_is_refused_by_name(tmp_path: Path, right: str, wrong: str, named: str) -> None:
    text = SERVE_CONFIG.read_text(encoding="utf-8")
    assert right in text
    path = tmp_path / "serve_config.yaml"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        check_serve_config(path)
    assert named in raised.value.message


def test_args_of_an_application_refuse_unknown_keys() -> None:
    with pytest.raises(ValueError, match="extra_forbidden|Extra inputs"):
        AppArgs.model_validate({"profile": "cpu", "modle": "x"})


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES_DIR.glob("*.yaml")))
def test_every_profile_gives_options_ray_serve_takes_with_bounded_queues(name: str) -> None:
    profile = load_profile(name)
    for part in (profile.hub, profile.llm, profile.embeddings):
        options = serve_options(part)
        schema = {"name": "D"} | {key: value for key, value in options.items() if key != "autoscaling_config"}
        ServeDeploySchema.model_validate(
            {"applications": [{"name": "a", "route_prefix": None, "import_path": "m:a", "deployments": [schema]}]}
        )
        assert options["max_queued_requests"] >= 0
        assert options["max_ongoing_requests"] > 0


def test_cluster_file_is_one_ray_accepts() -> None:
    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))))


def test_cluster_file_keeps_the_dashboard_private_and_asks_for_tokens() -> None:
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    starts = [line for line in text.splitlines() if "ray start" in line]
    assert starts
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text  # noqa: S104  # looked for, not bound


def remote(cause: Exception) -> RayTaskError:
    return RayTaskError("method", "traceback", cause)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (remote(NotFoundError("No such model.")), NotFoundError),
        (NotFoundError("No such model."), NotFoundError),
        (BackPressureError(num_queued_requests=5, max_queued_requests=5), OverloadedError),
        (RayServeException("no replica"), ModelUnavailableError),
        (TimeoutError(), EngineTimeoutError),
        (remote(ZeroDivisionError("secret detail")), InternalError),
    ],
)
def test_failed_handle_call_becomes_a_hub_error_without_details(error: Exception, expected: type[HubError]) -> None:
    translated = translate_error(error, "The model")
    assert type(translated) is expected
    assert "secret detail" not in translated.message
    assert (translated.retry_after_s is not None) == translated.retryable


def test_connection_that_found_nothing_yet_refuses_at_once() -> None:
    with pytest.raises(ModelUnavailableError, match="Retry"):
        AppConnection("llm-none", "The model").method("chat")


def test_model_that_holds_as_many_requests_as_it_may_refuses_the_next_at_once() -> None:
    directory = ModelDirectory(
        AppConnection("models", "The model manager"),
        default_model="a",
        history=EngineHistory(),
        configured=lambda _: None,
        max_in_flight=2,
    )
    directory.note_begin("a")
    directory.note_begin("a")
    with pytest.raises(OverloadedError):
        directory.note_begin("a")
    directory.note_begin("b")
    directory.note_end("a")
    directory.note_begin("a")
