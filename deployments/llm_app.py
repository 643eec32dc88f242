"""One Serve application per local chat model: `llm-<model>`, on vLLM."""

import math
import os
import time
from typing import Any

from ray import serve
from ray.serve import Application

from aihub.engines.base import ChatModelCard
from aihub.hardware import has_bfloat16_units
from aihub.lifecycle.host import ModelSpec
from aihub.profiles import LLMProfile, Profile
from aihub.registry.model_folder import read_special_tokens
from deployments.options import serve_options

APP_PREFIX = "llm-"
HEALTH_TIMEOUT_S = 40.0


def app_name(model_id: str) -> str:
    """Return the Serve application of a model; a slash would end a path in Serve's own API."""
    return APP_PREFIX + model_id.replace("/", "--")


def model_of(name: str) -> str | None:
    """Return the model of an application, or None for applications of other parts."""
    return name.removeprefix(APP_PREFIX).replace("--", "/") if name.startswith(APP_PREFIX) else None


def deploy(spec: ModelSpec, profile: Profile, defaults: dict[str, Any]) -> None:
    """Deploy one model and return once it answers; blocking.

    Args:
        defaults: Generation defaults, see `LLMDeployment`.

    Raises:
        RuntimeError: Serve gave up; `serve.status()` has the reason.
    """
    serve.run(
        build_llm_application(spec, profile, defaults),
        name=app_name(spec.model_id),
        route_prefix=None,
        # Probes come every second; the ingress logs what people ask.
        logging_config={"enable_access_log": False},
    )


def build_llm_application(spec: ModelSpec, profile: Profile, defaults: dict[str, Any]) -> Application:
    """Build the application of a verified local model folder."""
    from deployments.llm import LLMDeployment
    from deployments.vllm_adapter import LLMConfig, build_llm_deployment

    llm = profile.llm
    share = gpu_share(spec, profile)
    config = LLMConfig(
        model_loading_config={"model_id": spec.model_id, "model_source": str(spec.path)},
        engine_kwargs=engine_kwargs(spec, llm, share),
        runtime_env={"env_vars": _engine_environment()},
        # The default of 50 ms holds the first token back by up to 50 ms.
        experimental_configs={"stream_batching_interval_ms": 0},
        # The replica itself only forwards; the engine's worker has the CPU.
        deployment_config={"ray_actor_options": {"num_cpus": 0}},
        **_placement(llm, share),
    )
    options = serve_options(
        llm,
        health_check_period_s=5.0,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        # A model that cannot start must say so soon; a second try covers what passes by itself.
        max_constructor_retry_count=2,
    )
    # Ray Serve LLM derives the resources of its placement group itself.
    del options["ray_actor_options"]
    card = ChatModelCard(
        model_id=spec.model_id,
        context_tokens=spec.context_tokens,
        created=spec.created or int(time.time()),
        special_tokens=read_special_tokens(spec.path),
    )
    return build_llm_deployment(
        config,
        name_prefix="LLM:",
        bind_kwargs={"card": card, "defaults": defaults},
        override_serve_options=options,
        deployment_cls=LLMDeployment,
    )


def gpu_share(spec: ModelSpec, profile: Profile) -> float:
    """Return the part of the card a model is given, 0 on a CPU; rounded up to whole hundredths."""
    if spec.device == "cpu":
        return 0.0
    return min(math.ceil(100 * spec.requirement.total_bytes / (profile.gpu_memory_gb * 2**30)) / 100, 1.0)


def engine_kwargs(spec: ModelSpec, llm: LLMProfile, share: float) -> dict[str, Any]:
    """Return vLLM's engine arguments of a model."""
    kwargs: dict[str, Any] = {
        "max_model_len": spec.context_tokens,
        "max_num_seqs": spec.max_num_seqs,
        "dtype": engine_dtype(llm, spec.device),
        "enforce_eager": llm.enforce_eager,
        "trust_remote_code": False,
        # Given in bytes, vLLM takes just that; else it takes whatever share of the device is free, or refuses to start.
        "kv_cache_memory_bytes": spec.requirement.kv_cache_bytes,
    }
    if spec.tool_call_parser is not None:
        kwargs |= {"enable_auto_tool_choice": True, "tool_call_parser": spec.tool_call_parser}
    if share:
        kwargs["gpu_memory_utilization"] = share
    if spec.quantization is not None:
        kwargs["quantization"] = spec.quantization
    return kwargs


def engine_dtype(llm: LLMProfile, device: str) -> str:
    """Return vLLM's `dtype` for a profile on this machine."""
    if llm.dtype == "auto" and device == "cpu":
        return "bfloat16" if has_bfloat16_units() else "float32"
    return llm.dtype


def _engine_environment() -> dict[str, str]:
    # The model folder is local and verified, so the engine never needs the network.
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_LOGGING_LEVEL"):
        if name in os.environ:
            environment[name] = os.environ[name]
    return environment


def _placement(llm: LLMProfile, share: float) -> dict[str, Any]:
    if not share:
        return {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundle_per_worker": {"CPU": llm.num_cpus}},
        }
    return {"placement_group_config": {"bundle_per_worker": {"GPU": share, "CPU": llm.num_cpus}}}
