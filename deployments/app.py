"""Wires the Serve applications that serve_config.yaml names.

Builders run once per deploy inside the cluster. They read settings and the hardware profile, prepare the models and
stores a fresh machine lacks, and bind undecorated classes with the profile's numbers.
"""

import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from aihub.engines.base import ChatModelCard
from aihub.hardware import has_bfloat16_units
from aihub.profiles import DeploymentProfile, LLMProfile, Profile, load_profile
from aihub.registry.default_models import prepare_chat_model, prepare_embedding_model
from aihub.registry.model_folder import read_special_tokens
from aihub.registry.selection import select_chat_model, select_embedding_model
from aihub.settings import Settings

LLM_HEALTH_TIMEOUT_S = 40.0


class AppArgs(BaseModel):
    """The `args` of an application in serve_config.yaml; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    profile: str = "auto"


def read_profile(args: AppArgs, settings: Settings) -> Profile:
    """`AIHUB_PROFILE` wins over the file, and `auto` lets the machine decide."""
    return load_profile(settings.profile or (None if args.profile == "auto" else args.profile))


def serve_options(profile: DeploymentProfile, **changes: Any) -> dict[str, Any]:
    """Translate a profile's numbers into Ray Serve deployment options."""
    options: dict[str, Any] = {
        "max_ongoing_requests": profile.max_ongoing_requests,
        "max_queued_requests": profile.max_queued_requests,
        "autoscaling_config": profile.autoscaling.model_dump(),
        "ray_actor_options": {"num_cpus": profile.num_cpus, "num_gpus": profile.num_gpus},
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_timeout_s": 20.0,
    }
    return options | changes


def build_embeddings(args: AppArgs) -> Application:
    """Build the `embeddings` application."""
    from deployments.embeddings import EmbeddingsDeployment

    settings = Settings()
    profile = read_profile(args, settings)
    choice = select_embedding_model(settings, profile)
    model_path = prepare_embedding_model(choice.source, settings, backend=profile.embeddings.backend)
    deployment = serve.deployment(EmbeddingsDeployment, name="Embeddings", **serve_options(profile.embeddings))
    return deployment.bind(
        model_path=str(model_path),
        model_id=choice.model_id,
        device=profile.device,
        profile=profile.embeddings,
    )


def build_llm(args: AppArgs) -> Application:
    """Build the `llm-default` application: the profile's chat model on vLLM."""
    settings = Settings()
    profile = read_profile(args, settings)
    choice = select_chat_model(settings, profile)
    model_path = prepare_chat_model(choice.source, settings)
    return build_llm_application(choice.model_id, str(model_path), profile)


def build_llm_application(model_id: str, model_path: str, profile: Profile) -> Application:
    """Build one LLM application from a verified local model folder."""
    from deployments.llm import LLMDeployment
    from deployments.vllm_adapter import LLMConfig, build_llm_deployment

    llm = profile.llm
    config = LLMConfig(
        model_loading_config={"model_id": model_id, "model_source": model_path},
        engine_kwargs=_engine_kwargs(llm, profile.device),
        runtime_env={"env_vars": _engine_environment()},
        # The default of 50 ms holds the first token back by up to 50 ms.
        experimental_configs={"stream_batching_interval_ms": 0},
        # The replica itself only forwards; the engine's worker has the CPU.
        deployment_config={"ray_actor_options": {"num_cpus": 0}},
        **_placement(llm, profile.device),
    )
    options = serve_options(
        llm,
        health_check_period_s=5.0,
        health_check_timeout_s=LLM_HEALTH_TIMEOUT_S,
    )
    # Ray Serve LLM derives the resources of its placement group itself.
    del options["ray_actor_options"]
    card = ChatModelCard(
        model_id=model_id,
        context_tokens=llm.max_model_len,
        created=int(time.time()),
        special_tokens=read_special_tokens(Path(model_path)),
    )
    return build_llm_deployment(
        config,
        name_prefix="LLM:",
        bind_kwargs={"card": card},
        override_serve_options=options,
        deployment_cls=LLMDeployment,
    )


def build_hub(args: AppArgs) -> Application:
    """Build the `hub` application: the ingress and its pipelines."""
    from aihub.storage.migrate import upgrade
    from deployments.ingress import Ingress
    from deployments.stores import connect_stores

    settings = Settings()
    profile = read_profile(args, settings)
    settings = connect_stores(settings)
    assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
    upgrade(settings.database_url.get_secret_value())
    embedding_choice = select_embedding_model(settings, profile)
    embedding_model_path = prepare_embedding_model(embedding_choice.source, settings, backend=profile.embeddings.backend)
    deployment = serve.deployment(serve.ingress()(Ingress), name="Ingress", **serve_options(profile.hub))
    return deployment.bind(
        settings=settings,
        profile=profile,
        model_id=select_chat_model(settings, profile).model_id,
        tokenizer_path=str(embedding_model_path / "tokenizer.json"),
    )


def _engine_kwargs(llm: LLMProfile, device: str) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "max_model_len": llm.max_model_len,
        "max_num_seqs": llm.max_num_seqs,
        "dtype": engine_dtype(llm, device),
        "enforce_eager": llm.enforce_eager,
        "trust_remote_code": False,
    }
    if llm.tool_call_parser is not None:
        kwargs |= {"enable_auto_tool_choice": True, "tool_call_parser": llm.tool_call_parser}
    if llm.cpu_kv_cache_gb is not None:
        # Given in bytes, vLLM takes just that; else it demands 0.9 of the machine's memory to be free at the start.
        kwargs["kv_cache_memory_bytes"] = llm.cpu_kv_cache_gb * 2**30
    if llm.gpu_memory_utilization is not None:
        kwargs["gpu_memory_utilization"] = llm.gpu_memory_utilization
    if llm.quantization is not None:
        kwargs["quantization"] = llm.quantization
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


def _placement(llm: LLMProfile, device: str) -> dict[str, Any]:
    if device == "cpu":
        return {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundle_per_worker": {"CPU": llm.num_cpus}},
        }
    return {"placement_group_config": {"bundle_per_worker": {"GPU": llm.num_gpus, "CPU": llm.num_cpus}}}
